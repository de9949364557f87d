"""How much of a space meets the limits, and the way from a point outside them to one inside."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nas.errors import NasError
from nas.searching.problem import COVERED, Point, Problem
from nas.spaces import Params, grid_values, sample
from nas.statistics import proportion_interval

PROBE: Final = 4_000  # random points that tell, before anything is trained, how many networks meet the limits
UNLIMITED_PROBE: Final = 100  # random points where there are no limits, but layers that a latency table may lack


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """How much of a space meets the limits, by random points."""

    fitting: int
    """Random points that meet them."""
    points: int
    """Random points examined."""
    example: Params
    """Parameters of a network that meets them."""

    def __str__(self) -> str:
        """The share in percent, with half of its 95 % confidence interval (Wilson's)."""
        low, high = proportion_interval(self.fitting, self.points)
        if not self.fitting:
            return f"less than {100 * high:.1g} %"
        half = (high - low) / 2
        digits = 1 if half >= 0.0005 else 2
        return f"{100 * self.fitting / self.points:.{digits}f} % ± {100 * half:.{digits}f}"


def check_limits(problem: Problem, seed: int) -> Feasibility:
    """How much of the space meets the limits, by 4,000 random points; if none of them does, by a descent from the nearest.

    Without limits 100 points tell, as only a latency table may lack some layers.

    Raises: NasError if no network tried does, with the smallest and largest values found.
    """
    generator = random.Random(seed)
    probe = PROBE if problem.limits else UNLIMITED_PROBE
    points = [*(sample(problem.space.parameters, generator) for _ in range(probe)), *problem.space.references.values()]
    examined = [problem.examine(point) for point in points]
    fitting = sum(point.feasible for point in examined[:probe])
    if not any(point.feasible for point in examined):
        examined += approach(problem, min(examined, key=lambda point: point.total_excess), generator)
    feasible = [point for point in examined if point.feasible]
    if not feasible:
        raise _nothing_fits(problem, examined)
    return Feasibility(fitting=fitting, points=probe, example=feasible[0].params)


def _nothing_fits(problem: Problem, examined: list[Point]) -> NasError:
    table = problem.latency_table
    if table is not None and all(point.excess[COVERED] for point in examined):
        network = problem.space.decode(examined[0].params)
        table.predict(network, problem.num_classes)  # raises, naming the layers that the table lacks
    limits = " and ".join(map(str, problem.limits))
    names = dict.fromkeys(limit.objective.name for limit in problem.limits)
    found = (sorted(point.values[name] for point in examined if name in point.values) for name in names)
    ranges = "; ".join(f"{name} goes from {v[0]:.4g} to {v[-1]:.4g}" for name, v in zip(names, found, strict=True))
    return NasError(
        f"no network of space {problem.space.name} meets {limits}: over the {len(examined):,} nearest and random points tried "
        f"{ranges}"
    )


def moves(problem: Problem, generator: random.Random) -> list[Params]:
    """Every change of a single parameter, in random order."""
    changes = [{name: value} for name, distribution in problem.space.parameters.items() for value in grid_values(distribution)]
    generator.shuffle(changes)
    return changes


def approach(problem: Problem, point: Point, generator: random.Random) -> Iterator[Point]:
    """Points ever closer to the limits, until one meets them or no change of a single parameter comes closer."""
    before = math.inf
    while point.total_excess < before:
        before = point.total_excess
        for move in moves(problem, generator):
            changed = problem.examine(point.params | move)
            if changed.total_excess < point.total_excess:
                point = changed
                yield point
            if point.feasible:
                return
