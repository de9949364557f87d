"""Parameter sets as arrays: positions, which the sampler draws and mutates, and features, which the surrogate models."""

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

Position: TypeAlias = NDArray[np.float64]  # (parameters,): the index of a listed value, or 0 to 1 if values are not listed
Positions: TypeAlias = NDArray[np.float64]  # (networks, parameters)
Identity: TypeAlias = Callable[[dict[str, Any]], Hashable]
Conditions: TypeAlias = dict[int, tuple[int, NDArray[np.bool_]]]  # parameter → (its parent, value of the parent → active)
Views: TypeAlias = list[tuple[Any, str, int]]  # feature → (parameter or kind of parameters, "value", "number" or "rank", value)

STEP_TOLERANCE: Final = 1e-6  # largest distance of a value from a multiple of the step, in steps
GRID: Final = 2.0**-40  # continuous positions are rounded to this grid, so that values read back from storage keep theirs
ABSENT: Final = -1.0  # position of a parameter that a trial lacks


class Parameter:
    """One parameter of a space: its values as positions, and back."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self.distribution: Any = distribution
        self.log = bool(getattr(distribution, "log", False))
        self.values = _values(distribution)
        """Every value in order; empty for a numeric parameter that is continuous or has more than `max_listed_values`."""
        self._indices = {self._key(value): float(i) for i, value in enumerate(self.values)}

    def position(self, value: Any) -> float | None:
        """The position of a value; None if the parameter does not have it."""
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
        """Random positions; an integer on a logarithmic scale is as probable as the interval of numbers that round to it."""
        values = self.values
        if not values:
            return self.snap(rng.random(number))
        if not self.log or len(values) == 1:
            return rng.integers(len(values), size=number)
        logs = np.log(np.array(values, float)[:, None] + (-0.5, 0.5))
        edges = (logs[:, 1] - logs[0, 0]) / (logs[-1, 1] - logs[0, 0])
        return np.minimum(np.searchsorted(edges, rng.random(number), side="right"), len(values) - 1)

    def snap(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The nearest positions that a parameter without a list of values can have."""
        if not self.distribution.step:
            return np.asarray(_on_grid(positions))
        return np.array([self.position(self.value(position)) for position in positions])

    def _key(self, value: Any) -> Hashable:
        """A hashable key of a listed value; for a number, its steps from the lowest, as floats have rounding errors."""
        if isinstance(self.distribution, CategoricalDistribution):
            return key_of(value)
        if not isinstance(value, Real) or not math.isfinite(value):
            return None
        steps = (value - self.distribution.low) / (self.distribution.step or 1)
        return round(steps) if abs(steps - round(steps)) < STEP_TOLERANCE else None


class Encoding:
    """The parameters of a space as numbers.

    A conditional parameter is active only for some values of another parameter, its parent: if the depth leaves a layer out, the
    layer's kernel is inactive. To find such parameters, each parameter is changed at random points, to see if `identity` changes.
    An inactive parameter has its first value, and its features are 0.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], identity: Identity | None = None, seed: int = 0) -> None:
        self.distributions = dict(distributions)
        self._parameters = {name: Parameter(distribution) for name, distribution in distributions.items()}
        values = [parameter.values for parameter in self._parameters.values()]
        self.counts = np.array(list(map(len, values)), int)
        """Parameter → its number of listed values; 0 if they are not listed."""
        self._listed, self._unlisted = np.flatnonzero(self.counts), np.flatnonzero(self.counts == 0)
        self._ranked = np.array([i for i, of in enumerate(values) if _is_ordinal(of)], int)
        self._starts = np.cumsum(self.counts) - self.counts  # index of each parameter's first value among all listed values
        self._one_hot = np.array([math.sqrt(n / (2 * max(n - 1, 1))) * (n > 1) for n in map(len, values) for _ in range(n)])
        """Listed value → its one-hot feature where it is present."""
        self._ranks = np.concatenate([np.zeros(0), *(_ranks(of.values, log=of.log) for of in self._parameters.values())])
        views: Views = [(i, "value", value) for i in self._listed for value in range(self.counts[i])]
        views += [(i, "number", 0) for i in self._unlisted] + [(i, "rank", 0) for i in self._ranked]
        shared, self._sharing = _shared_views(self.distributions, self.counts, views)
        numbers: dict[tuple[Any, str], int] = {}
        self.groups = np.array([numbers.setdefault((of, view), len(numbers)) for of, view, _ in (*views, *shared)], int)
        """Feature → its group; a group is one view of one parameter, or of all parameters of one kind."""
        self.num_points = math.inf if len(self._unlisted) else math.prod(self.counts.tolist())
        """The number of points; infinite if a parameter's values are not listed."""
        self._conditions: Conditions = {}
        if identity is not None:
            self._conditions = _find_conditions(self, identity, np.random.default_rng(seed))

    def position(self, params: Mapping[str, Any]) -> Position | None:
        """The position of a parameter set; None if the space lacks one of its values."""
        position = [of.position(params[name]) if name in params else ABSENT for name, of in self._parameters.items()]
        return None if None in position else np.array(position, float)

    def params(self, position: Position) -> dict[str, Any]:
        """The parameter set at a position."""
        return {name: of.value(at) for (name, of), at in zip(self._parameters.items(), position.tolist(), strict=True)}

    def every(self) -> Positions:
        """All points of a space whose values are all listed."""
        counts = self.counts.tolist()
        return np.stack(np.unravel_index(np.arange(math.prod(counts)), counts), axis=1).astype(float)

    def draw(self, rng: np.random.Generator, number: int) -> Positions:
        """Random points, uniform in every parameter, or in its logarithm if its distribution is logarithmic."""
        return np.stack([parameter.draw(rng, number) for parameter in self._parameters.values()], axis=1).astype(float)

    def mutate(self, rng: np.random.Generator, parents: Positions, number: int) -> Positions:
        """Children of random parents: half of them by uniform crossover of two; then 1 to 3 values are mutated."""
        children = parents[rng.integers(len(parents), size=number)]
        others = parents[rng.integers(len(parents), size=number)]
        crossed = (rng.random(number) < 0.5)[:, None] & (rng.random(children.shape) < 0.5)
        children = np.where(crossed, others, children)
        if (children == ABSENT).any():
            children = np.where(children == ABSENT, self.draw(rng, number), children)
        for share in SETTINGS.mutation_shares:
            rows = np.flatnonzero(rng.random(number) < share)
            columns = rng.integers(children.shape[1], size=len(rows))
            children[rows, columns] = self.other_values(rng, columns, children[rows, columns])
        return children

    def other_values(
        self, rng: np.random.Generator, columns: NDArray[np.int64], positions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Another value for each of these parameters: any other that is listed, or else mostly a close one."""
        counts = self.counts[columns]
        others = (positions + 1 + np.floor(rng.random(len(columns)) * np.maximum(counts - 1, 1))) % np.maximum(counts, 1)
        moved = positions + SETTINGS.mutation_deviation * rng.standard_normal(len(columns))
        moved = np.where((moved < 0) | (moved > 1), rng.random(len(columns)), moved)
        parameters = list(self._parameters.values())
        for i in np.flatnonzero(counts == 0):
            others[i] = parameters[columns[i]].snap(moved[i : i + 1])[0]
        return np.asarray(others)

    def canonical(self, positions: Positions) -> Positions:
        """The same networks with each inactive parameter, even an absent one, at its first value; changes the array."""
        for column, (parent, active) in self._conditions.items():
            positions[(positions[:, parent] != ABSENT) & ~active[positions[:, parent].astype(int)], column] = 0.0
        return positions

    def features(self, positions: Positions) -> NDArray[np.float64]:
        """(networks, features); random values of a parameter have a mean squared distance of 1 in each of its groups."""
        listed, unlisted, ranked = self._listed, self._unlisted, self._ranked
        present = positions != ABSENT
        for column, (parent, active) in self._conditions.items():
            present[:, column] &= active[positions[:, parent].astype(int)] | ~present[:, parent]
        values = self._starts + np.maximum(positions, 0).astype(int)
        numbers = len(self._one_hot)  # columns: one-hot values, numbers, ranks, shared views
        ranks = numbers + len(unlisted)
        shared = ranks + len(ranked)
        features = np.zeros((len(positions), shared + self._sharing.shape[1]))
        features[np.arange(len(positions))[:, None], values[:, listed]] = self._one_hot[values[:, listed]] * present[:, listed]
        features[:, numbers:ranks] = math.sqrt(6) * (positions[:, unlisted] - 0.5) * present[:, unlisted]
        features[:, ranks:shared] = self._ranks[values[:, ranked]] * present[:, ranked]
        features[:, shared:] = features[:, :shared] @ self._sharing
        return features


def _find_conditions(encoding: Encoding, identity: Identity, rng: np.random.Generator) -> Conditions:
    """The conditional parameters, found by changing each parameter at random points."""

    def ids(points: Positions) -> list[Hashable]:
        return [identity(encoding.params(point)) for point in points]

    def changes(column: int, points: Positions, before: list[Hashable]) -> NDArray[np.bool_]:
        """For each point, True if another value of the parameter gives another network."""
        changed = points.copy()
        changed[:, column] = encoding.other_values(rng, np.full(len(points), column), points[:, column])
        return np.array([one != other for one, other in zip(ids(changed), before, strict=True)])

    def condition(column: int) -> tuple[int, NDArray[np.bool_]] | None:
        """(parent, value of the parent → whether this parameter is active); None if it has no parent."""
        is_active = changes(column, drawn, drawn_ids)
        for parent in np.argsort(encoding.counts, kind="stable") if is_active.any() and not is_active.all() else ():
            by_value = [is_active[drawn[:, parent] == index] for index in range(encoding.counts[parent])]
            mixed = any(part.any() and not part.all() for part in by_value)
            if parent == column or len(by_value) < 2 or mixed:
                continue
            active = np.array([bool(part.all()) for part in by_value])
            further = encoding.draw(rng, SETTINGS.probe_points)  # by chance, a few points can suggest a wrong parent
            further[:, parent] = rng.choice(np.flatnonzero(~active), SETTINGS.probe_points)
            if not changes(column, further, ids(further)).any():
                return int(parent), active
        return None

    drawn = encoding.draw(rng, SETTINGS.probe_points)
    drawn_ids = ids(drawn)
    return {column: parent for column in range(drawn.shape[1]) if (parent := condition(column)) is not None}


def _shared_views(
    distributions: Mapping[str, BaseDistribution], counts: NDArray[np.int64], views: Views
) -> tuple[Views, NDArray[np.float64]]:
    """(shared views, weights): a shared view sums a view over all parameters of one kind, such as the kernels of all layers.

    So what the surrogate learns from one layer also counts for the others, until there are observations of those.
    Shapes: weights: (views, shared views).
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
    """Every value of a parameter; none if it is numeric and has more than `max_listed_values`."""
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
    """A hashable key, equal for values that Optuna treats as equal: 1 and True, NaN and NaN, (1, 2) and [1, 2]."""
    if isinstance(value, list | tuple):
        return tuple(map(key_of, value))
    if not isinstance(value, Hashable):
        return repr(value)
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def _on_grid(positions: Any) -> Any:
    """The nearest multiples of GRID."""
    return np.round(positions / GRID) * GRID


def _is_ordinal(values: list[Any]) -> bool:
    return len(values) > 2 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _ranks(values: list[Any], *, log: bool) -> NDArray[np.float64]:
    """Each number's rank, or its logarithm, with mean 0 and variance 1/2; zeros for values without an order."""
    if not _is_ordinal(values):
        return np.zeros(len(values))
    ranks = np.log(values) if log else np.argsort(np.argsort(values)).astype(float)
    ranks -= ranks.mean()
    return np.asarray(ranks / math.sqrt(2 * np.mean(ranks**2)), np.float64)
