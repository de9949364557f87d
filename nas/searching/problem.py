"""What a search proposes networks for: the space, the objectives and the limits. It knows no run, no Ray and no training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nas.errors import NasError, user_code
from nas.models.architecture import Architecture, architecture_id
from nas.models.network import Network, OwnNetwork
from nas.objectives import Candidate, Limit, Objective
from nas.objectives.latency.table import LatencyTable
from nas.plugins import check_type
from nas.runs.pareto import Losses
from nas.spaces import Params, SearchSpace

COVERED: Final = "in the latency table"  # the name of this constraint among the limits
NOT_COVERED: Final = 1.0  # its excess for a network with layers that the table lacks
REMEMBERED: Final = 1024  # points examined last


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network with its costs before training, held against the limits."""

    params: Params
    """Empty for a network that is no point of the space."""
    in_space: bool
    text: str
    """The network's text, by which networks are the same."""
    id: str
    values: Mapping[str, float]
    """Objective or limit name → value, of those that need no training."""
    excess: Mapping[str, float]
    """Limit → how far outside, in its unit; 0 or less inside."""

    @property
    def feasible(self) -> bool:
        """Whether it is a point of the space that meets every limit."""
        return self.in_space and all(excess <= 0 for excess in self.excess.values())

    @property
    def total_excess(self) -> float:
        """How far it is outside the limits, each in its own unit, summed; 0 inside."""
        return sum(max(0.0, excess) for excess in self.excess.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """All that a proposal needs to know."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...] = ()
    num_classes: int
    latency_table: LatencyTable | None = None
    _examined: dict[tuple[tuple[str, Any], ...], Point] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def costs(self) -> tuple[Objective, ...]:
        """The objectives that are known before training."""
        return tuple(objective for objective in self.objectives if not objective.needs_training)

    @property
    def trained(self) -> tuple[Objective, ...]:
        """The objectives that need training."""
        return tuple(objective for objective in self.objectives if objective.needs_training)

    def examine(self, params: Params) -> Point:
        """Decode parameters, measure what needs no training, and hold it against the limits; remembers the last points.

        Raises: NasError if the space or an objective of a user's own raises, or a value is not finite.
        """
        key = tuple(params.items())
        if key not in self._examined:
            with user_code(f"space {self.space.name}: decode"):
                architecture = self.space.decode(params)
                check_type("it", architecture, Architecture)
            if len(self._examined) == REMEMBERED:
                self._examined.pop(next(iter(self._examined)))
            self._examined[key] = self.appraise(OwnNetwork(architecture=architecture), params)
        return self._examined[key]

    def appraise(self, network: Network, params: Params | None = None) -> Point:
        """What is known of a network before training; it is no point of the space where there are no `params`."""
        candidate = Candidate(network=network, num_classes=self.num_classes, latency=self.latency_table)
        own = isinstance(network, OwnNetwork)
        covered = own and (self.latency_table is None or not self.latency_table.missing(network.architecture, self.num_classes))
        before = (*self.costs, *(limit.objective for limit in self.limits))
        values = {
            objective.name: _measured(objective, candidate)
            for objective in dict.fromkeys(before)
            if (own or not objective.needs_architecture) and (covered or not objective.needs_latency)
        }
        excess = {
            str(limit): limit.excess(values[limit.objective.name]) if limit.objective.name in values else NOT_COVERED
            for limit in self.limits
        }
        if self.latency_table is not None:  # it was built for other limits, or for random points
            excess[COVERED] = 0.0 if covered else NOT_COVERED
        text = network.to_json()
        return Point(
            params={} if params is None else params,
            in_space=params is not None,
            text=text,
            id=architecture_id(text) if own else f"{network.id}@{network.resolution}",
            values=values,
            excess=excess,
        )

    def losses(self, values: Mapping[str, float]) -> Losses | None:
        """The values of all objectives, each the lower the better; None if one is missing."""
        if any(objective.name not in values for objective in self.objectives):
            return None
        return tuple(objective.loss(values[objective.name]) for objective in self.objectives)

    def cost_losses(self, point: Point) -> Losses:
        """The objectives that are known before training, each the lower the better."""
        return tuple(objective.loss(point.values[objective.name]) for objective in self.costs)


def _measured(objective: Objective, candidate: Candidate) -> float:
    with user_code(f"objective {objective.name}"):
        value = objective.measure(candidate)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NasError(f"objective {objective.name} gave {value!r} for a network; it must give a finite number")
    return float(value)
