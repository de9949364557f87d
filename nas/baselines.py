"""Networks to hold a search against, trained under its settings: published ones, exports, and timm's. Read `plan.py` next."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.errors import SpaceError
from nas.networks import Network, OwnNetwork, find_network
from nas.problem import Point, Problem
from nas.spaces import Params, sample

PROBE: Final = 100  # random points that tell the largest resolution of a space


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A network that is trained beside a search."""

    name: str
    """As the user gave it."""
    point: Point


def baselines(problem: Problem, names: Iterable[str]) -> list[Baseline]:
    """The networks of these names, each once, at their own resolution, but no larger than the largest of the space.

    Raises: NasError for a name that is not known, or a network that cannot read such images.
    """
    found: dict[str, Baseline] = {}
    for name in names:
        network = find_network(name)
        largest = _largest_resolution(problem)
        network = network.at(largest) if network.resolution > largest else network
        network.check(problem.num_classes, [network.resolution])
        point = point_of(problem, network)
        found.setdefault(point.id, Baseline(name=name, point=point))
    return list(found.values())


def point_of(problem: Problem, network: Network) -> Point:
    """A network held against the space and its limits."""
    if not isinstance(network, OwnNetwork):
        return problem.appraise(network)
    try:
        return problem.appraise(network, problem.space.encode(network.architecture))
    except SpaceError:
        return problem.appraise(network)


def _largest_resolution(problem: Problem) -> int:
    """Pixels, by the references and some random points."""
    space, generator = problem.space, random.Random(0)
    points = [*space.references.values(), *(sample(space.parameters, generator) for _ in range(PROBE))]
    return max(space.decode(point | _largest(space.parameters)).resolution for point in points)


def _largest(parameters: Mapping[str, BaseDistribution]) -> Params:
    """The largest resolution, where it is a parameter of its own."""
    found = parameters.get("resolution")
    if isinstance(found, CategoricalDistribution):
        return {"resolution": max(found.choices, key=float)}  # type: ignore[arg-type]
    return {} if found is None else {"resolution": found.high}  # type: ignore[attr-defined]
