"""What a search optimises and which limits it respects.

Each file here exports one OBJECTIVE, and is named after it. Read `macs_m.py` next, the shortest.
"""

import math
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from nas.errors import NasError, unknown_name
from nas.models.architecture import Architecture
from nas.models.network import Network
from nas.objectives.latency.table import LatencyTable
from nas.plugins import load_plugin, plugin_names
from nas.training.settings import TrainReport

DIRECTIONS: Final = ("minimize", "maximize")


def loss(value: float, direction: str) -> float:
    """The value as a loss, where lower is better: negated for maximize. From a loss it gives the value back."""
    return value if direction == "minimize" else -value


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that an objective measures."""

    network: Network
    num_classes: int
    model: Any = None
    """The trained torch module in eval mode. Before training: None, or for an objective with `needs_images` the newly initialised
    module in training mode, its own copy, which it may change."""
    images: Any = None
    """Training images as the network reads them, a tensor (N, 3, resolution, resolution); for objectives with `needs_images`."""
    labels: Any = None
    """Their classes, a tensor (N,)."""
    report: TrainReport | None = None
    """Learning curve and device of its training; None before training."""
    latency: LatencyTable | None = None
    """Latency table of the device that the search is for; None without a table."""
    latency_ms: float | None = None
    """Latency measured on this machine before training; None if it was not measured."""

    @property
    def architecture(self) -> Architecture:
        """The network's architecture.

        Raises: NasError for timm's own networks, which have none; only objectives with `needs_architecture` may read it.
        """
        return self.network.architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One number that says how good a network is."""

    name: str
    """Ends in the unit, if there is one: `val_top1_pct`, `macs_m`. The column of the results has this name."""
    title: str = ""
    """Words for the axes of figures, with the unit after a comma: `multiply-adds, millions`; by default the name."""
    direction: str
    """maximize or minimize."""
    needs_training: bool
    """Whether `measure` needs the trained model or its report. If so, the objective cannot be a limit."""
    measure: Callable[[Candidate], float]
    steers: bool = True
    """Whether it takes part in the search. If not, it is only to look at: measured for each network that is trained, a column of
    the table and an axis of the page, but it has no influence on proposals, early stopping or the front, and cannot be a limit.
    Where it gives no finite number, the network has no value of it."""
    needs_images: bool = False
    """Whether `measure` reads training images and the newly initialised module; only for one that does not steer."""
    learning_curve: bool = False
    """Whether each epoch gives a value: true for the top-1 on the search validation part."""
    needs_architecture: bool = True
    """Whether `measure` reads the architecture. timm's own networks have none, so they get no value of it."""
    needs_latency: bool = False
    """Whether `measure` reads a latency, from the latency table or measured on this machine."""
    has_table_error: bool = False
    """Whether its values have the relative error of the latency table."""
    bounds: tuple[float, float] | None = None
    """The lowest and the highest possible value."""

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise NasError(f"objective {self.name}: direction {self.direction!r} is not one of {', '.join(DIRECTIONS)}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise NasError(f"objective {self.name!r}: a name is lower-case letters, digits and _, as it names a column")
        if self.needs_images and (self.steers or self.needs_training):
            raise NasError(f"objective {self.name}: needs_images is only for one with steers=False and needs_training=False")
        object.__setattr__(self, "title", self.title or self.name)

    def loss(self, value: float) -> float:
        """The value as a loss, where lower is better."""
        return loss(value, self.direction)

    def as_number(self, value: Any) -> float:
        """What `measure` gave, as a float; a number of NumPy's and a tensor of one number are numbers too.

        Raises: NasError if it is no number.
        """
        with suppress(TypeError, ValueError, RuntimeError):
            if not isinstance(value, str | bytes):
                return float(value)
        raise NasError(f"objective {self.name} gave {repr(value)[:100]} for a network; it must give a finite number")


def objective(name: str, own: Iterable[Objective] = ()) -> Objective:
    """The objective with this name, from `own` if it is there; a path gives the OBJECTIVE of that Python file.

    Raises: NasError if there is none.
    """
    own_by_name = {candidate.name: candidate for candidate in own}
    if name in own_by_name:
        return own_by_name[name]
    if name.endswith(".py") or "/" in name or name in plugin_names("objective"):
        loaded: Objective = load_plugin("objective", name)
        return loaded
    raise unknown_name("objective", name, {*plugin_names("objective"), *own_by_name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A bound that a network must meet before it is trained; a value equal to the bound meets it.

    Raises: NasError for an objective that needs training or is only to look at.
    """

    objective: Objective
    low: float = -math.inf
    """The lowest and the highest allowed value, in the objective's unit."""
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.objective.needs_training:
            raise NasError(f"limit on {self.objective.name}: its value needs training, and limits come before it; limit a cost")
        if not self.objective.steers:
            raise NasError(f"limit on {self.objective.name}: it is only to look at, and a trial measures it; limit a cost")
        if math.isnan(self.low) or math.isnan(self.high) or self.low > self.high:
            raise NasError(f"limit on {self.objective.name}: no value lies from {self.low} to {self.high}")

    def excess(self, value: float) -> float:
        """How far `value` misses the limit, in the objective's unit; 0 or less if it meets it."""
        return max(self.low - value, value - self.high)

    def __str__(self) -> str:
        name = self.objective.name
        parts = [f"{name}>={self.low:.15g}"] * (self.low > -math.inf) + [f"{name}<={self.high:.15g}"] * (self.high < math.inf)
        return " and ".join(parts) or f"{name} without bounds"


def parse_limit(text: str, own: Iterable[Objective] = ()) -> Limit:
    """The limit that a text states, such as `macs_m<60` or `params_m>=1.5`; `<` and `<=` mean the same.

    Raises: NasError if the text states no limit, or its objective is unknown.
    """
    match = re.fullmatch(r"\s*([\w./]+?)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*", text)
    try:
        name, sign, bound = match.groups() if match else ("", "", "")
        number = float(bound)
    except ValueError:
        raise NasError(f"limit {text!r} is not of the form OBJECTIVE<NUMBER or OBJECTIVE>NUMBER, such as 'macs_m<60'") from None
    low, high = (-math.inf, number) if "<" in sign else (number, math.inf)
    return Limit(objective=objective(name, own), low=low, high=high)
