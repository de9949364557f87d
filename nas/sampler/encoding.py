"""Parameter sets as arrays: positions to draw and change, features to model."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from numbers import Real
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.sampler.settings import SETTINGS

Positions: TypeAlias = NDArray[np.float64]  # networks, parameters: the index of the value, or of a continuous one 0 to 1
Identity: TypeAlias = Callable[[dict[str, Any]], Hashable]
Views: TypeAlias = list[tuple[Any, str, int]]  # feature → parameter (or its kind), how it is looked at, value

STEP_TOLERANCE: Final = 1e-6  # share of a step that a value may be off
GRID: Final = 2.0**-40  # continuous positions are rounded to this grid, so that storage round trips compare equal
ABSENT: Final = -1.0  # position of a parameter that a trial did not have


class Parameter:
    """One parameter of a space: its values as positions, and back."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self.distribution: Any = distribution
        self.log = bool(getattr(distribution, "log", False))
        self.values = _values(distribution)
        """Every value in order; empty for a continuous parameter, and for one of very many values."""
        self._indices = {self._key(value): float(i) for i, value in enumerate(self.values)}

    def position(self, value: Any) -> float | None:
        """Where a value is; None if it is not the parameter's."""
        if self.values:
            return self._indices.get(self._key(value))
        low, high = self.distribution.low, self.distribution.high
        if not isinstance(value, Real) or not low <= float(value) <= high:
            return None
        low, high, at = (math.log(v) if self.log else v for v in (low, high, float(value)))
        return float(_on_grid((at - low) / (high - low))) if high > low else 0.0

    def value(self, position: float) -> Any:
        """The value at a position."""
        if self.values:
            return self.values[int(position)]
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        value = low * (high / low) ** position if self.log else low + position * (high - low)
        if step:
            value = low + round((value - low) / step) * step
        return type(low)(min(max(value, low), high))

    def draw(self, rng: np.random.Generator, number: int) -> NDArray[Any]:
        """Random positions; integers on a logarithmic scale are as likely as all that rounds to them."""
        values = self.values
        if not values:
            return self.settle(rng.random(number))
        if not self.log or len(values) == 1:
            return rng.integers(len(values), size=number)
        logs = np.log(np.array(values, float)[:, None] + (-0.5, 0.5))
        edges = (logs[:, 1] - logs[0, 0]) / (logs[-1, 1] - logs[0, 0])
        return np.minimum(np.searchsorted(edges, rng.random(number), side="right"), len(values) - 1)

    def settle(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The nearest positions that a parameter without a list of values can have."""
        if not self.distribution.step:
            return np.asarray(_on_grid(positions))
        return np.array([self.position(self.value(position)) for position in positions])

    def _key(self, value: Any) -> Hashable:
        """What tells a listed value from the others; for numbers the count of steps, as sums are rounded."""
        if isinstance(self.distribution, CategoricalDistribution):
            return key_of(value)
        if not isinstance(value, Real) or not math.isfinite(value):
            return None
        steps = (value - self.distribution.low) / (self.distribution.step or 1)
        return round(steps) if abs(steps - round(steps)) < STEP_TOLERANCE else None


class Encoding:
    """The parameters of a space as numbers.

    A parameter that only matters for some values of another, as a layer's kernel does not where the depth leaves the layer out,
    is found through `identity`, by changing it at random points; where it does not matter it is set to its first value, and has
    no features.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], identity: Identity | None = None, seed: int = 0) -> None:
        self.distributions = dict(distributions)
        self._parameters = {name: Parameter(distribution) for name, distribution in distributions.items()}
        values = [parameter.values for parameter in self._parameters.values()]
        self.counts = np.array(list(map(len, values)), int)
        """Parameter → its number of listed values, 0 if they are not listed."""
        self._listed, self._unlisted = np.flatnonzero(self.counts), np.flatnonzero(self.counts == 0)
        self._ranked = np.array([i for i, of in enumerate(values) if _has_order(of)], int)
        self._starts = np.cumsum(self.counts) - self.counts  # of each parameter's values among all that are listed
        self._same = np.array([math.sqrt(n / (2 * max(n - 1, 1))) * (n > 1) for n in map(len, values) for _ in range(n)])
        """What each value is as a feature of its own."""
        self._ranks = np.concatenate([np.zeros(0), *(_ranks(of.values, log=of.log) for of in self._parameters.values())])
        views: Views = [(i, "value", value) for i in self._listed for value in range(self.counts[i])]
        views += [(i, "number", 0) for i in self._unlisted] + [(i, "rank", 0) for i in self._ranked]
        shared, self._sharing = _shared(self.distributions, self.counts, views)
        numbers: dict[tuple[Any, str], int] = {}
        self.groups = np.array([numbers.setdefault((of, view), len(numbers)) for of, view, _ in (*views, *shared)], int)
        """Feature → its group; a group is one view of one parameter, or of all parameters of a kind."""
        self.num_points = math.inf if len(self._unlisted) else math.prod(self.counts.tolist())
        """The number of points; infinite where values are not listed."""
        self._matters: dict[int, tuple[int, NDArray[np.bool_]]] = {}
        if identity is not None:
            self._matters = _dependences(self, identity, np.random.default_rng(seed))

    def position(self, params: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """Where a parameter set is; None if it has values that the space has not."""
        found = [parameter.position(params[name]) if name in params else ABSENT for name, parameter in self._parameters.items()]
        return None if None in found else np.array(found, float)

    def params(self, position: NDArray[np.float64]) -> dict[str, Any]:
        """The parameter set at a position."""
        return {name: of.value(at) for (name, of), at in zip(self._parameters.items(), position.tolist(), strict=True)}

    def every(self) -> Positions:
        """All points of a space that is countable."""
        counts = self.counts.tolist()
        return np.stack(np.unravel_index(np.arange(math.prod(counts)), counts), axis=1).astype(float)

    def draw(self, rng: np.random.Generator, number: int) -> Positions:
        """Random points, uniform in every parameter (in its logarithm where the parameter says so)."""
        return np.stack([parameter.draw(rng, number) for parameter in self._parameters.values()], axis=1).astype(float)

    def change(self, rng: np.random.Generator, parents: Positions, number: int) -> Positions:
        """Children of random parents: half take each value from either of two parents; one to three values are changed then."""
        children = parents[rng.integers(len(parents), size=number)]
        others = parents[rng.integers(len(parents), size=number)]
        crossed = (rng.random(number) < 0.5)[:, None] & (rng.random(children.shape) < 0.5)
        children = np.where(crossed, others, children)
        if (children == ABSENT).any():
            children = np.where(children == ABSENT, self.draw(rng, number), children)
        for share in SETTINGS.mutation_shares:
            rows = np.flatnonzero(rng.random(number) < share)
            columns = rng.integers(children.shape[1], size=len(rows))
            children[rows, columns] = self.others(rng, columns, children[rows, columns])
        return children

    def others(self, rng: np.random.Generator, columns: NDArray[np.int64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Other values of parameters; where there are too many to list, mostly close ones."""
        counts = self.counts[columns]
        others = (positions + 1 + np.floor(rng.random(len(columns)) * np.maximum(counts - 1, 1))) % np.maximum(counts, 1)
        moved = positions + SETTINGS.mutation_deviation * rng.standard_normal(len(columns))
        moved = np.where((moved < 0) | (moved > 1), rng.random(len(columns)), moved)
        parameters = list(self._parameters.values())
        for i in np.flatnonzero(counts == 0):
            others[i] = parameters[columns[i]].settle(moved[i : i + 1])[0]
        return np.asarray(others)

    def canonical(self, positions: Positions) -> Positions:
        """The same networks, with each parameter that does not matter, also one that is absent, at its first value."""
        for column, (by, matters) in self._matters.items():
            positions[(positions[:, by] != ABSENT) & ~matters[positions[:, by].astype(int)], column] = 0.0
        return positions

    def features(self, positions: Positions) -> NDArray[np.float64]:
        """Networks, features; of two random values of a parameter, the squared distance in each of its groups is 1 on average."""
        listed, unlisted, ranked = self._listed, self._unlisted, self._ranked
        present = positions != ABSENT
        for column, (by, matters) in self._matters.items():
            present[:, column] &= matters[positions[:, by].astype(int)] | ~present[:, by]
        values = self._starts + np.maximum(positions, 0).astype(int)
        numbers, ranks = len(self._same), len(self._same) + len(unlisted)  # where these begin
        own = ranks + len(ranked)
        found = np.zeros((len(positions), own + self._sharing.shape[1]))
        found[np.arange(len(positions))[:, None], values[:, listed]] = self._same[values[:, listed]] * present[:, listed]
        found[:, numbers:ranks] = math.sqrt(6) * (positions[:, unlisted] - 0.5) * present[:, unlisted]
        found[:, ranks:own] = self._ranks[values[:, ranked]] * present[:, ranked]
        found[:, own:] = found[:, :own] @ self._sharing
        return found


def _dependences(encoding: Encoding, identity: Identity, rng: np.random.Generator) -> dict[int, tuple[int, NDArray[np.bool_]]]:
    """Parameter → another, and for which values of that it matters; found by changing parameters at random points."""

    def networks(points: Positions) -> list[Hashable]:
        return [identity(encoding.params(point)) for point in points]

    def matter(column: int, points: Positions, before: list[Hashable]) -> NDArray[np.bool_]:
        """At which points another value of a parameter makes another network."""
        changed = points.copy()
        changed[:, column] = encoding.others(rng, np.full(len(points), column), points[:, column])
        return np.array([one != other for one, other in zip(networks(changed), before, strict=True)])

    def dependence(column: int) -> tuple[int, NDArray[np.bool_]] | None:
        """The parameter whose value decides whether this one matters, and by which values it does."""
        where = matter(column, drawn, met)
        for by in np.argsort(encoding.counts, kind="stable") if where.any() and not where.all() else ():
            shares = [where[drawn[:, by] == index] for index in range(encoding.counts[by])]
            mixed = any(share.any() and not share.all() for share in shares)
            if by == column or len(shares) < 2 or mixed:
                continue
            matters = np.array([bool(share.all()) for share in shares])
            further = encoding.draw(rng, SETTINGS.probe_points)  # as few points may seem to leave it out by chance
            further[:, by] = rng.choice(np.flatnonzero(~matters), SETTINGS.probe_points)
            if not matter(column, further, networks(further)).any():
                return int(by), matters
        return None

    drawn = encoding.draw(rng, SETTINGS.probe_points)
    met = networks(drawn)
    return {column: found for column in range(drawn.shape[1]) if (found := dependence(column)) is not None}


def _shared(
    distributions: Mapping[str, BaseDistribution], counts: NDArray[np.int64], views: Views
) -> tuple[Views, NDArray[np.float64]]:
    """Views that parameters of a kind share, as the kernels of all layers do, and the weights that sum theirs up to these.

    What one layer taught about a choice is believed of other layers until they teach otherwise.
    """
    numbers: dict[tuple[str, str], int] = {}
    kinds = [
        numbers.setdefault((re.sub(r"\d+", "#", name), repr(distribution)), len(numbers))
        for name, distribution in distributions.items()
    ]
    members = Counter(kinds)
    columns: dict[tuple[Any, str, int], int] = {}
    entries = [
        (row, columns.setdefault((("kind", kinds[i]), view, value), len(columns)), 1 / math.sqrt(members[kinds[i]]))
        for row, (i, view, value) in enumerate(views)
        if members[kinds[i]] > 1 and counts[i] <= SETTINGS.max_listed_values
    ]
    sharing = np.zeros((len(views), len(columns)))
    for row, column, weight in entries:
        sharing[row, column] = weight
    return list(columns), sharing


def _values(distribution: BaseDistribution) -> list[Any]:
    """Every value of a parameter that has few, else none."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    numeric: Any = distribution
    low, high, step = numeric.low, numeric.high, numeric.step
    if low == high:
        return [low]
    if not step or (number := round((high - low) / step) + 1) > SETTINGS.max_listed_values:
        return []
    exact = [low + i * step for i in range(number)]
    return exact if isinstance(low, int) else [float(f"{value:.15g}") for value in exact]


def key_of(value: Any) -> Hashable:
    """What tells values apart, as Optuna does, to which True is 1; NaN is itself, and a tuple may come back as a list."""
    if isinstance(value, list | tuple):
        return tuple(map(key_of, value))
    if not isinstance(value, Hashable):
        return repr(value)
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def _on_grid(positions: Any) -> Any:
    """The nearest positions of the grid."""
    return np.round(positions / GRID) * GRID


def _has_order(values: list[Any]) -> bool:
    return len(values) > 2 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _ranks(values: list[Any], *, log: bool) -> NDArray[np.float64]:
    """Where each value stands among numbers, or each logarithm among logarithms."""
    if not _has_order(values):
        return np.zeros(len(values))
    ranks = np.log(values) if log else np.argsort(np.argsort(values)).astype(float)
    ranks -= ranks.mean()
    return np.asarray(ranks / math.sqrt(2 * np.mean(ranks**2)), np.float64)
