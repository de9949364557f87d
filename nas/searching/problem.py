"""The problem that a search solves: space, objectives and limits. It needs no run folder, no Ray and no training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from optuna.distributions import BaseDistribution

from nas.errors import NasError, user_code
from nas.models.architecture import Architecture, architecture_id
from nas.models.network import Network, OwnNetwork
from nas.objectives import Candidate, Limit, Objective
from nas.objectives.latency.table import LatencyTable
from nas.plugins import check_type
from nas.runs.pareto import Losses
from nas.spaces import Params, SearchSpace
from nas.training.tuned import setting_numbers, settings_id

TABLE_LIMIT: Final = "in the latency table"  # name of an extra limit: the latency table has all layers of a network
NOT_COVERED_EXCESS: Final = 1.0  # excess over a limit on a value that cannot be computed, as with layers that the table lacks
CACHE_SIZE: Final = 1024  # examined points to keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network with its costs before training, and how they compare with the limits."""

    params: Params
    """Empty for a network outside the space."""
    in_space: bool
    text: str
    """The network as JSON text; equal for equal networks."""
    id: str
    """The id of the network, with that of its training settings if they are parameters."""
    values: Mapping[str, float]
    """Objective or limit name → value, where it needs no training."""
    excess: Mapping[str, float]
    """Limit → the amount by which the network exceeds it, in the objective's unit; 0 or less if it is met."""

    @property
    def feasible(self) -> bool:
        """True if it is a point of the space and meets every limit."""
        return self.in_space and all(excess <= 0 for excess in self.excess.values())

    @property
    def total_excess(self) -> float:
        """The sum of the amounts by which it exceeds limits, each in its own unit; 0 if it meets all."""
        return sum(max(0.0, excess) for excess in self.excess.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A space, objectives and limits: everything that proposing networks needs."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    """Those to search by."""
    limits: tuple[Limit, ...] = ()
    num_classes: int
    latency_table: LatencyTable | None = None
    tuned: Mapping[str, BaseDistribution] = field(default_factory=dict)
    """The training settings among the space's parameters."""
    _examined: dict[tuple[tuple[str, Any], ...], Point] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def costs(self) -> tuple[Objective, ...]:
        """The objectives that need no training."""
        return tuple(objective for objective in self.objectives if not objective.needs_training)

    @property
    def trained(self) -> tuple[Objective, ...]:
        """The objectives that need training."""
        return tuple(objective for objective in self.objectives if objective.needs_training)

    def examine(self, params: Params) -> Point:
        """Decode parameters, measure what needs no training, and compare it with the limits; recent points are cached.

        Raises: NasError if the user's space or objective raises, or a value is not finite.
        """
        key = tuple(params.items())
        if key not in self._examined:
            with user_code(f"space {self.space.name}: decode"):
                architecture = self.space.decode(params)
                check_type("it", architecture, Architecture)
            if len(self._examined) == CACHE_SIZE:
                self._examined.pop(next(iter(self._examined)))
            self._examined[key] = self.examine_network(OwnNetwork(architecture=architecture), params)
        return self._examined[key]

    def examine_network(self, network: Network, params: Params | None = None) -> Point:
        """A network with its costs and limits; without `params` it is outside the space."""
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
            str(limit): limit.excess(values[limit.objective.name]) if limit.objective.name in values else NOT_COVERED_EXCESS
            for limit in self.limits
        }
        if self.latency_table is not None:  # which may lack layers of this network
            excess[TABLE_LIMIT] = 0.0 if covered else NOT_COVERED_EXCESS
        text = network.to_json()
        return Point(
            params={} if params is None else params,
            in_space=params is not None,
            text=text,
            id=(architecture_id(text) if own else f"{network.id}@{network.resolution}") + settings_id(params or {}),
            values=values,
            excess=excess,
        )

    def losses(self, values: Mapping[str, float]) -> Losses | None:
        """The values of all objectives, each the lower the better; None if one is missing."""
        if any(objective.name not in values for objective in self.objectives):
            return None
        return tuple(objective.loss(values[objective.name]) for objective in self.objectives)

    def setting_numbers(self, point: Point) -> tuple[float, ...]:
        """The training settings among a point's parameters, as numbers."""
        return setting_numbers(self.tuned, point.params)

    def cost_losses(self, point: Point) -> Losses:
        """The losses on the objectives that need no training."""
        return tuple(objective.loss(point.values[objective.name]) for objective in self.costs)


def _measured(objective: Objective, candidate: Candidate) -> float:
    with user_code(f"objective {objective.name}"):
        value = objective.measure(candidate)
    number = objective.as_number(value)
    if not math.isfinite(number):
        raise NasError(f"objective {objective.name} gave {number} for a network; it must give a finite number")
    return number
