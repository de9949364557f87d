"""What is known of a network before it is trained, and how much of a space meets the limits. Read `searcher.py` next."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nas.architecture import Architecture, id_of
from nas.errors import NasError, users_code
from nas.experiment import Experiment
from nas.networks import OwnNetwork
from nas.objectives import Candidate, Objective
from nas.plugins import check_kind
from nas.spaces import Params, sample, some_values

PROBE: Final = 4_000  # random points that tell, before anything is trained, how many networks meet the limits
UNKNOWN: Final = 1.0  # how far outside a network is whose latency the table does not know
Z_95: Final = 1.96  # standard deviations on either side that hold 95 % of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A point of a space, with what is known of its network before training."""

    params: Params
    architecture: Architecture
    text: str
    """The architecture's canonical text, by which networks are the same."""
    id: str
    values: Mapping[str, float]
    """Objective or limit name → value, of those that need no training."""
    excess: Mapping[str, float]
    """Limit → how far outside, in its unit; 0 or less inside."""

    @property
    def admitted(self) -> bool:
        """Whether it meets every limit."""
        return all(excess <= 0 for excess in self.excess.values())

    @property
    def total_excess(self) -> float:
        """How far it is outside the limits, each in its own unit, summed; 0 inside."""
        return sum(max(0.0, excess) for excess in self.excess.values())


def examine(experiment: Experiment, params: Params) -> Examined:
    """Decode parameters, measure what needs no training, and hold it against the limits.

    Raises: NasError if the space, the dataset or an objective of a user's own raises, or a value is not finite.
    """
    with users_code(f"space {experiment.space.name}: decode"):
        architecture = experiment.space.decode(params)
        check_kind("it", architecture, Architecture)
    return appraise(experiment, architecture, params)


def appraise(experiment: Experiment, architecture: Architecture, params: Params) -> Examined:
    """What is known before training of an architecture, whether it is of the space or not."""
    with users_code(f"dataset {experiment.dataset.name}: classes"):
        num_classes = len(experiment.dataset.classes)
    network = OwnNetwork(architecture=architecture)
    candidate = Candidate(network=network, num_classes=num_classes, latency=experiment.latency_table)
    known = [objective for objective in experiment.objectives if not objective.needs_training]
    known += [limit.objective for limit in experiment.limits if limit.objective not in known]
    table = experiment.latency_table
    lacking = table is not None and bool(table.missing(architecture, candidate.num_classes))
    measured = [objective for objective in known if not (lacking and objective.needs_latency)]
    values = {objective.name: _measured(objective, candidate) for objective in measured}
    excess = {
        str(limit): limit.excess(values[limit.objective.name]) if limit.objective.name in values else UNKNOWN
        for limit in experiment.limits
    }
    if table is not None:  # built for other limits, or for what random points had
        excess["in the latency table"] = UNKNOWN if lacking else 0.0
    text = architecture.to_json()
    return Examined(params=params, architecture=architecture, text=text, id=id_of(text), values=values, excess=excess)


def _measured(objective: Objective, candidate: Candidate) -> float:
    with users_code(f"objective {objective.name}"):
        value = objective.measure(candidate)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NasError(f"objective {objective.name} gave {value!r} for a network; it must give a finite number")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """How much of a space meets the limits, by random points."""

    fitting: int
    """Random points that meet them."""
    points: int
    """Random points examined."""
    example: Params
    """Parameters of a network that meets them."""
    worst: Mapping[str, float]
    """Of every objective that needs no training, the worst value of the networks that meet the limits."""

    def __str__(self) -> str:
        """The share in percent, with half of its 95 % confidence interval (Wilson's)."""
        if not self.fitting:
            return f"less than {100 * Z_95**2 / (self.points + Z_95**2):.1g} %"
        share, n = self.fitting / self.points, self.points
        half = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2)) / (1 + Z_95**2 / n)
        digits = 1 if half >= 0.0005 else 2
        return f"{100 * share:.{digits}f} % ± {100 * half:.{digits}f}"


def check_limits(experiment: Experiment) -> Feasibility:
    """How much of the space meets the limits, by 4,000 random points; if none of them does, by a descent from the nearest.

    Without limits that is all of it, and 100 points tell what its networks cost.

    Raises: NasError if no network tried does, with the smallest and largest values found.
    """
    generator = random.Random(experiment.seed)
    probe = PROBE if experiment.limits else 100
    points = [*(sample(experiment.space.parameters, generator) for _ in range(probe)), *experiment.space.references.values()]
    examined = [examine(experiment, point) for point in points]
    fitting = sum(network.admitted for network in examined[:probe])
    if not any(network.admitted for network in examined):
        examined += approach(experiment, min(examined, key=lambda network: network.total_excess), generator)
    admitted = [network for network in examined if network.admitted]
    if not admitted:
        table = experiment.latency_table
        if table is not None and all(network.excess["in the latency table"] for network in examined):
            table.predict(examined[0].architecture, len(experiment.dataset.classes))  # raises, naming what is not there
        raise _nothing_fits(experiment, examined)
    known = [objective for objective in experiment.objectives if not objective.needs_training]
    worst = {
        objective.name: (max if objective.direction == "minimize" else min)(
            network.values[objective.name] for network in admitted
        )
        for objective in known
    }
    return Feasibility(fitting=fitting, points=probe, example=admitted[0].params, worst=worst)


def _nothing_fits(experiment: Experiment, examined: list[Examined]) -> NasError:
    limits = " and ".join(map(str, experiment.limits))
    names = dict.fromkeys(limit.objective.name for limit in experiment.limits)
    found = (sorted(network.values[name] for network in examined if name in network.values) for name in names)
    ranges = "; ".join(f"{name} goes from {v[0]:.4g} to {v[-1]:.4g}" for name, v in zip(names, found, strict=True))
    return NasError(
        f"no network of space {experiment.space.name} meets {limits}: over the {len(examined):,} nearest and random points tried "
        f"{ranges}"
    )


def moves(experiment: Experiment, generator: random.Random) -> list[Params]:
    """Every change of a single parameter, in random order."""
    found = [{name: value} for name, distribution in experiment.space.parameters.items() for value in some_values(distribution)]
    generator.shuffle(found)
    return found


def approach(experiment: Experiment, network: Examined, generator: random.Random) -> Iterator[Examined]:
    """Points ever closer to the limits, until one meets them or no change of a single parameter comes closer."""
    before = math.inf
    while network.total_excess < before:
        before = network.total_excess
        for move in moves(experiment, generator):
            changed = examine(experiment, network.params | move)
            if changed.total_excess < network.total_excess:
                network = changed
                yield network
            if network.admitted:
                return
