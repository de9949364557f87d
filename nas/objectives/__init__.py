"""What a search optimises and what it must respect.

Each objective is a file here that exports OBJECTIVE and is found by its name.
"""

import math
import re
from collections.abc import Callable, Iterable
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
    """A value with the sign by which lower is better; of a loss, the value again."""
    return value if direction == "minimize" else -value


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that an objective measures."""

    network: Network
    num_classes: int
    model: Any = None
    """The trained torch module in eval mode; None before training."""
    report: TrainReport | None = None
    """What came of its training; None before."""
    latency: LatencyTable | None = None
    """What layers take on the device that is searched for; None where no table was given."""
    latency_ms: float | None = None
    """Of the network as it was measured on this machine before its training; None where it was not."""

    @property
    def architecture(self) -> Architecture:
        """The network's architecture.

        Raises: NasError for a network of timm's own, which has none; `needs_architecture` keeps an objective from it.
        """
        return self.network.architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One number that tells how good a network is."""

    name: str
    """Ends in its unit: `val_top1_pct`, `macs_m`."""
    direction: str
    """maximize or minimize."""
    needs_training: bool
    """Whether `measure` needs the trained model or its report; one that does not can be a limit."""
    measure: Callable[[Candidate], float]
    learning_curve: bool = False
    """Whether its value is the top-1 on the search validation part, which is also known after each epoch."""
    needs_architecture: bool = True
    """Whether `measure` reads the architecture; networks of timm's own are measured by the objectives that do not."""
    needs_latency: bool = False
    """Whether `measure` reads a latency, by the latency table or measured on this machine."""
    has_table_error: bool = False
    """Whether its values err by as many percent as the latency table does."""
    bounds: tuple[float, float] | None = None
    """The least and the greatest value that there can be."""

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise NasError(f"objective {self.name}: direction {self.direction!r} is not one of {', '.join(DIRECTIONS)}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise NasError(f"objective {self.name!r}: a name is lower-case letters, digits and _, as it names a column")

    def loss(self, value: float) -> float:
        """The value with the sign by which lower is better."""
        return loss(value, self.direction)


def objective(name: str, own: Iterable[Objective] = ()) -> Objective:
    """The objective of a name, out of `own` first; a path gives the OBJECTIVE of a Python file.

    Raises: NasError if there is none.
    """
    mine = {candidate.name: candidate for candidate in own}
    if name in mine:
        return mine[name]
    if name.endswith(".py") or "/" in name or name in plugin_names("objective"):
        loaded: Objective = load_plugin("objective", name)
        return loaded
    raise unknown_name("objective", name, {*plugin_names("objective"), *mine})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A bound that a network must meet before it may cost a training run; both ends belong to it.

    Raises: NasError for an objective that needs training.
    """

    objective: Objective
    low: float = -math.inf
    """In the objective's own unit."""
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.objective.needs_training:
            raise NasError(
                f"limit on {self.objective.name}: it is known only after training; limits need an objective that is known before"
            )
        if math.isnan(self.low) or math.isnan(self.high) or self.low > self.high:
            raise NasError(f"limit on {self.objective.name}: nothing lies from {self.low} to {self.high}")

    def excess(self, value: float) -> float:
        """How far `value` lies outside, in the objective's unit; 0 or less inside."""
        return max(self.low - value, value - self.high)

    def __str__(self) -> str:
        name = self.objective.name
        parts = [f"{name}>={self.low:.15g}"] * (self.low > -math.inf) + [f"{name}<={self.high:.15g}"] * (self.high < math.inf)
        return " and ".join(parts) or f"{name} without bounds"


def parse_limit(text: str, own: Iterable[Objective] = ()) -> Limit:
    """The limit that a text such as `macs_m<60` or `params_m>=1.5` states; `<` and `<=` mean the same.

    Raises: NasError if it states none.
    """
    match = re.fullmatch(r"\s*([\w./]+?)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*", text)
    try:
        name, sign, bound = match.groups() if match else ("", "", "")
        number = float(bound)
    except ValueError:
        raise NasError(f"limit {text!r} is not of the form OBJECTIVE<NUMBER or OBJECTIVE>NUMBER, such as 'macs_m<60'") from None
    found = objective(name, own)
    return Limit(objective=found, high=number) if "<" in sign else Limit(objective=found, low=number)
