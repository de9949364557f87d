"""The feasible share of a space, and a descent from an infeasible point to a feasible one."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nas.errors import NasError
from nas.searching.problem import TABLE_LIMIT, Point, Problem
from nas.spaces import Params, grid_values, sample
from nas.statistics import proportion_interval

NUM_SAMPLES: Final = 4_000  # random points for the estimate of the feasible share
NUM_UNLIMITED_SAMPLES: Final = (
    100  # the same without limits, where only layers that a latency table lacks make a point infeasible
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """The feasible share of a space, estimated from random points."""

    num_feasible: int
    """Random points that are feasible."""
    points: int
    """Random points examined."""
    example: Params
    """Parameters of a feasible network."""

    def __str__(self) -> str:
        """The share in percent, with half of its 95 % confidence interval (Wilson's)."""
        low, high = proportion_interval(self.num_feasible, self.points)
        if not self.num_feasible:
            return f"less than {100 * high:.1g} %"
        half = (high - low) / 2
        digits = 1 if half >= 0.0005 else 2
        return f"{100 * self.num_feasible / self.points:.{digits}f} % ± {100 * half:.{digits}f}"


def check_limits(problem: Problem, seed: int) -> Feasibility:
    """The feasible share of the space, from random points; if all are infeasible, a descent from the nearest gives the example.

    Raises: NasError if no feasible network was found, with the smallest and largest value of each limited objective.
    """
    generator = random.Random(seed)
    probe = NUM_SAMPLES if problem.limits else NUM_UNLIMITED_SAMPLES
    points = [*(sample(problem.space.parameters, generator) for _ in range(probe)), *problem.space.references.values()]
    examined = [problem.examine(point) for point in points]
    num_feasible = sum(point.feasible for point in examined[:probe])
    if not any(point.feasible for point in examined):
        examined += descend(problem, min(examined, key=lambda point: point.total_excess), generator)
    feasible = [point for point in examined if point.feasible]
    if not feasible:
        raise _infeasible_space(problem, examined)
    return Feasibility(num_feasible=num_feasible, points=probe, example=feasible[0].params)


def _infeasible_space(problem: Problem, examined: list[Point]) -> NasError:
    table = problem.latency_table
    if table is not None and all(point.excess[TABLE_LIMIT] for point in examined):
        network = problem.space.decode(examined[0].params)
        table.predict(network, problem.num_classes)  # raises a NasError that names the layers the table lacks
    limits = " and ".join(map(str, problem.limits))
    names = dict.fromkeys(limit.objective.name for limit in problem.limits)
    values = (sorted(point.values[name] for point in examined if name in point.values) for name in names)
    ranges = "; ".join(f"{name} goes from {v[0]:.4g} to {v[-1]:.4g}" for name, v in zip(names, values, strict=True))
    return NasError(
        f"no network of space {problem.space.name} meets {limits}: over the {len(examined):,} nearest and random points tried "
        f"{ranges}"
    )


def single_changes(problem: Problem, generator: random.Random) -> list[Params]:
    """Every change of a single parameter, in random order."""
    changes = [{name: value} for name, distribution in problem.space.parameters.items() for value in grid_values(distribution)]
    generator.shuffle(changes)
    return changes


def descend(problem: Problem, point: Point, generator: random.Random) -> Iterator[Point]:
    """Points with ever smaller excess, until one is feasible or no change of a single parameter lowers the excess."""
    before = math.inf
    while point.total_excess < before:
        before = point.total_excess
        for move in single_changes(problem, generator):
            changed = problem.examine(point.params | move)
            if changed.total_excess < point.total_excess:
                point = changed
                yield point
            if point.feasible:
                return
