"""Parameter sets as arrays: positions to draw and change, features to model. Read `samplers.py` next."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.spaces import num_choices

Positions: TypeAlias = NDArray[np.float64]  # networks, parameters: the index of the value, or of a continuous one 0 to 1

LISTED: Final = 64  # values of a parameter, up to which each is looked at by itself
PROBED: Final = 20  # random points that tell which parameters matter when
CHANGED: Final = (1.0, 0.4, 0.15)  # shares of children of which one value is changed, another, a third
JUMP: Final = 0.15  # of the range: standard deviation of a change of a numeric parameter
ROUNDED: Final = 1e-6  # of a step, that a value may be off
FINEST: Final = 2.0**-40  # of the range: what positions of values that are not listed differ by, so that they are found again
ABSENT: Final = -1.0  # position of a parameter that a trial did not have


class Encoding:
    """The parameters of a space as numbers.

    A parameter that only matters for some values of another, as a layer's kernel does not where the depth leaves the layer out,
    is found through `identity`, by changing it at random points; where it does not matter it is set to its first value, and has
    no features.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        identity: Callable[[dict[str, Any]], Hashable] | None = None,
        seed: int = 0,
    ) -> None:
        self.distributions = dict(distributions)
        self._names = list(self.distributions)
        self._values = [_values(distribution) for distribution in self.distributions.values()]
        self._indices = [
            None if values is None else {self._key(column, value): float(i) for i, value in enumerate(values)}
            for column, values in enumerate(self._values)
        ]
        self._listed = np.array([i for i, values in enumerate(self._values) if values is not None], int)
        self._unlisted = np.array([i for i, values in enumerate(self._values) if values is None], int)
        self._lists: list[list[Any]] = [[None, None] if values is None else values for values in self._values]
        self._counts = np.array([len(values) if values is not None else 0 for values in self._values], int)
        self._starts = np.cumsum(self._counts) - self._counts  # of each parameter's values among all that are listed
        listed = [self._values[i] for i in self._listed]
        self._same = np.concatenate([np.zeros(0), *(_weights(values) for values in listed)])
        ranks = (_ranks(self._lists[i], log=self._is_log(i)) for i in self._listed)
        self._ranks = np.concatenate([np.zeros(0), *ranks])
        self._ranked = np.array([i for i in self._listed if _has_order(self._values[i])], int)
        views: list[tuple[Any, str, int]] = [(i, "value", value) for i in self._listed for value in range(self._counts[i])]
        views += [(i, "number", 0) for i in self._unlisted] + [(i, "rank", 0) for i in self._ranked]
        shared, self._sharing = self._shared(views)
        numbers: dict[tuple[Any, str], int] = {}
        self.groups = np.array([numbers.setdefault((of, view), len(numbers)) for of, view, _ in (*views, *shared)], int)
        """Feature → its group; a group is one view of one parameter, or of all parameters of a kind."""
        self.num_points = math.inf if len(self._unlisted) else math.prod(self._counts.tolist())
        """Of a space without continuous parameters, and others of very many values; else infinite."""
        self._matters: dict[int, tuple[int, NDArray[np.bool_]]] = {}
        if identity is not None:
            self._matters = self._probe(identity, np.random.default_rng(seed))

    def _shared(self, views: Sequence[tuple[int, str, int]]) -> tuple[list[tuple[Any, str, int]], NDArray[np.float64]]:
        """Views that parameters of a kind share, as the kernels of all layers do, and what adds up theirs to these.

        What one layer taught of a choice is so believed of other layers, until they teach otherwise.
        """
        numbers: dict[tuple[str, str], int] = {}
        kinds = [
            numbers.setdefault((re.sub(r"\d+", "#", name), repr(distribution)), len(numbers))
            for name, distribution in self.distributions.items()
        ]
        members = Counter(kinds)
        columns: dict[tuple[Any, str, int], int] = {}
        entries = [
            (row, columns.setdefault((("kind", kinds[i]), view, value), len(columns)), 1 / math.sqrt(members[kinds[i]]))
            for row, (i, view, value) in enumerate(views)
            if members[kinds[i]] > 1 and self._counts[i] <= LISTED
        ]
        sharing = np.zeros((len(views), len(columns)))
        for row, column, weight in entries:
            sharing[row, column] = weight
        return list(columns), sharing

    def position(self, params: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """Where a parameter set is; None if it has values that the space has not."""
        row = np.empty(len(self._values))
        for i, (name, indices) in enumerate(zip(self.distributions, self._indices, strict=True)):
            if name not in params:
                row[i] = ABSENT
                continue
            found = self._unit(i, params[name]) if indices is None else indices.get(self._key(i, params[name]))
            if found is None:
                return None
            row[i] = found
        return row

    def params(self, position: NDArray[np.float64]) -> dict[str, Any]:
        """The parameter set at a position."""
        positions = position.astype(int).tolist()
        found = {name: values[at] for name, values, at in zip(self._names, self._lists, positions, strict=True)}
        for column in self._unlisted:
            found[self._names[column]] = self._value(column, float(position[column]))
        return found

    def every(self) -> Positions:
        """All points of a space that is countable."""
        counts = self._counts.tolist()
        return np.stack(np.unravel_index(np.arange(math.prod(counts)), counts), axis=1).astype(float)

    def draw(self, rng: np.random.Generator, number: int) -> Positions:
        """Random points, uniform in every parameter (in its logarithm where the parameter says so)."""
        columns = [
            self._settle(i, rng.random(number)) if values is None else self._drawn(rng, i, number)
            for i, values in enumerate(self._values)
        ]
        return np.stack(columns, axis=1).astype(float)

    def _drawn(self, rng: np.random.Generator, column: int, number: int) -> NDArray[np.int64]:
        """Indices of values; integers on a logarithmic scale are as likely as all that rounds to them."""
        values = self._lists[column]
        if not self._is_log(column) or len(values) == 1:
            return rng.integers(len(values), size=number)
        logs = np.log(np.array(values, float)[:, None] + (-0.5, 0.5))
        edges = (logs[:, 1] - logs[0, 0]) / (logs[-1, 1] - logs[0, 0])
        return np.minimum(np.searchsorted(edges, rng.random(number), side="right"), len(values) - 1)

    def change(self, rng: np.random.Generator, parents: Positions, number: int) -> Positions:
        """Children of random parents: half take each value from either of two parents; one to three values are changed then."""
        children = parents[rng.integers(len(parents), size=number)]
        others = parents[rng.integers(len(parents), size=number)]
        crossed = (rng.random(number) < 0.5)[:, None] & (rng.random(children.shape) < 0.5)
        children = np.where(crossed, others, children)
        if (children == ABSENT).any():
            children = np.where(children == ABSENT, self.draw(rng, number), children)
        for share in CHANGED:
            rows = np.flatnonzero(rng.random(number) < share)
            columns = rng.integers(children.shape[1], size=len(rows))
            children[rows, columns] = self._others(rng, columns, children[rows, columns])
        return children

    def _others(
        self, rng: np.random.Generator, columns: NDArray[np.int64], positions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Other values of parameters; where there are too many to list, mostly close ones."""
        counts = self._counts[columns]
        others = (positions + 1 + np.floor(rng.random(len(columns)) * np.maximum(counts - 1, 1))) % np.maximum(counts, 1)
        moved = positions + JUMP * rng.standard_normal(len(columns))
        moved = np.where((moved < 0) | (moved > 1), rng.random(len(columns)), moved)
        for i in np.flatnonzero(counts == 0):
            others[i] = self._settle(columns[i], moved[i : i + 1])[0]
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
        at = found.shape[1] * np.arange(len(positions))[:, None] + values[:, listed]
        found.ravel()[at] = self._same[values[:, listed]] * present[:, listed]
        found[:, numbers:ranks] = math.sqrt(6) * (positions[:, unlisted] - 0.5) * present[:, unlisted]
        found[:, ranks:own] = self._ranks[values[:, ranked]] * present[:, ranked]
        found[:, own:] = found[:, :own] @ self._sharing
        return found

    def _is_log(self, column: int) -> bool:
        return bool(getattr(self.distributions[self._names[column]], "log", False))

    def _key(self, column: int, value: Any) -> Hashable:
        """What tells a listed value from the others of its parameter: of numbers the count of steps, as sums are rounded."""
        distribution: Any = self.distributions[self._names[column]]
        if isinstance(distribution, CategoricalDistribution):
            return key_of(value)
        if not isinstance(value, Real) or not math.isfinite(value):
            return None
        steps = (value - distribution.low) / (distribution.step or 1)
        return round(steps) if abs(steps - round(steps)) < ROUNDED else None

    def _unit(self, column: int, value: Any) -> float | None:
        distribution: Any = self.distributions[self._names[column]]
        if not isinstance(value, Real) or not distribution.low <= float(value) <= distribution.high:
            return None
        low, high, value = (math.log(v) if distribution.log else v for v in (distribution.low, distribution.high, float(value)))
        return _finest((value - low) / (high - low)) if high > low else 0.0

    def _value(self, column: int, unit: float) -> Any:
        distribution: Any = self.distributions[self._names[column]]
        low, high = distribution.low, distribution.high
        value = low * (high / low) ** unit if distribution.log else low + unit * (high - low)
        if distribution.step:
            value = low + round((value - low) / distribution.step) * distribution.step
        return type(low)(min(max(value, low), high))

    def _settle(self, column: int, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same, each moved to the nearest value that the parameter can have."""
        if not self.distributions[self._names[column]].step:  # type: ignore[attr-defined]
            return np.asarray(_finest(units))
        return np.array([self._unit(column, self._value(column, unit)) for unit in units])

    def _probe(
        self, identity: Callable[[dict[str, Any]], Hashable], rng: np.random.Generator
    ) -> dict[int, tuple[int, NDArray[np.bool_]]]:
        """Parameter → another and for which values of that it matters."""
        points = self.draw(rng, PROBED)
        before = [identity(self.params(point)) for point in points]
        found = {}
        for column in range(points.shape[1]):
            matter = self._matter(identity, rng, column, points, before)
            if matter.all() or not matter.any():
                continue
            for by in np.argsort(self._counts, kind="stable"):
                if by == column or self._counts[by] < 2:
                    continue
                shares = [matter[points[:, by] == index] for index in range(self._counts[by])]
                if all(len(share) == 0 or share.all() or not share.any() for share in shares):
                    matters = np.array([bool(share.all()) for share in shares])
                    further = self.draw(rng, PROBED)  # points that are said to leave it out, as so few may say so by chance
                    further[:, by] = rng.choice(np.flatnonzero(~matters), PROBED)
                    networks = [identity(self.params(point)) for point in further]
                    if not self._matter(identity, rng, column, further, networks).any():
                        found[column] = (int(by), matters)
                        break
        return found

    def _matter(
        self,
        identity: Callable[[dict[str, Any]], Hashable],
        rng: np.random.Generator,
        column: int,
        points: Positions,
        networks: Sequence[Hashable],
    ) -> NDArray[np.bool_]:
        """At which points another value of a parameter makes another network."""
        changed = points.copy()
        changed[:, column] = self._others(rng, np.full(len(points), column), points[:, column])
        return np.array([identity(self.params(one)) != network for one, network in zip(changed, networks, strict=True)])


def _values(distribution: BaseDistribution) -> list[Any] | None:
    """Every value of a parameter that has few."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    numeric: Any = distribution
    kind = type(numeric.low)
    if numeric.low == numeric.high:
        return [numeric.low]
    if num_choices(distribution) > LISTED:
        return None
    exact = [numeric.low + i * numeric.step for i in range(int(num_choices(distribution)))]
    return exact if kind is int else [float(f"{value:.15g}") for value in exact]


def key_of(value: Any) -> Hashable:
    """What tells values apart, as Optuna does, to which True is 1; NaN is itself, and a tuple may come back as a list."""
    if isinstance(value, list | tuple):
        return tuple(map(key_of, value))
    if not isinstance(value, Hashable):
        return repr(value)
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def _finest(units: Any) -> Any:
    """The same, without what rounding may have changed."""
    return np.round(units / FINEST) * FINEST


def _weights(values: list[Any]) -> NDArray[np.float64]:
    """What each value is as a feature of its own."""
    number = len(values)
    return np.full(number, math.sqrt(number / (2 * (number - 1))) if number > 1 else 0.0)


def _has_order(values: list[Any]) -> bool:
    return len(values) > 2 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _ranks(values: list[Any], *, log: bool) -> NDArray[np.float64]:
    """Where each value stands among numbers, or each logarithm among logarithms."""
    if not _has_order(values):
        return np.zeros(len(values))
    ranks = np.log(values) if log else np.argsort(np.argsort(values)).astype(float)
    ranks -= ranks.mean()
    return np.asarray(ranks / math.sqrt(2 * np.mean(ranks**2)), np.float64)
