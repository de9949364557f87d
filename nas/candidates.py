"""The networks that a sampler may choose from, and what is known of each before it is trained. Read `samplers.py` next."""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from nas.encoding import ABSENT, Encoding, Positions, key_of
from nas.errors import NasError, users_code

Costs: TypeAlias = Callable[[dict[str, Any]], Sequence[float | None]]
Identity: TypeAlias = Callable[[dict[str, Any]], Hashable]
Admits: TypeAlias = Callable[[dict[str, Any]], bool]
Position: TypeAlias = NDArray[np.float64]  # of one network

WHOLE: Final = 2_048  # points of a space, up to which all are looked at for every proposal
COUNTED: Final = 65_536  # points of a space, up to which all are looked at before it is said that none is left
POOL: Final = 1_024  # points of a larger space, that some are taken from
POOLS: Final = 4  # that are kept, of different fixed parameters
DRAWS: Final = 5_000  # random points at most, to fill the pool with networks that the limits admit
FARTHEST: Final = 10.0  # standard deviations of a cost as a feature, beyond which one outside the limits counts no farther
AGAIN: Final = 2  # times that networks are changed anew, when less than half are inside the limits and new
ENOUGH: Final = 256  # networks of the pool, below which those inside the limits are varied to find more


def check(distributions: object, functions: Mapping[str, object], seed: object) -> None:
    """Refuse what a sampler cannot be made of.

    Raises: NasError.
    """
    if not isinstance(distributions, Mapping):
        raise NasError(f"distributions: {distributions!r} is not a mapping from names to distributions of Optuna's")
    for name, of in distributions.items():
        if not isinstance(of, BaseDistribution):
            raise NasError(f"distributions[{name!r}]: {of!r} is none of Optuna's, such as CategoricalDistribution((1, 2))")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise NasError(f"{name}: {function!r} is not a function of the parameters")
    if seed is not None and (not isinstance(seed, Integral) or int(seed) < 0):
        raise NasError(f"seed: {seed!r} is not a whole number of 0 or more, or None")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one network."""

    id: Hashable
    admitted: bool
    costs: tuple[float, ...]
    """Of the objectives that need no training, each the lower the better; none if the limits do not admit it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Networks that the limits admit."""

    positions: Positions
    ids: list[Hashable]
    costs: NDArray[np.float64]
    """networks, objectives that need no training"""

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, kept: NDArray[np.bool_]) -> "Batch":
        """Some of them."""
        return Batch(self.positions[kept], [i for i, keep in zip(self.ids, kept, strict=True) if keep], self.costs[kept])

    def unlike(self, ids: Collection[Hashable]) -> "Batch":
        """Those that are none of these."""
        return self.where(np.array([i not in ids for i in self.ids], bool))

    def __add__(self, other: "Batch") -> "Batch":
        new = other.unlike(set(self.ids))
        return Batch(np.vstack([self.positions, new.positions]), self.ids + new.ids, np.vstack([self.costs, new.costs]))


class Candidates:
    """Draws networks of a space, and asks the user's functions about them."""

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        signs: Sequence[int],
        *,
        costs: Costs | None,
        identity: Identity | None,
        admits: Admits | None,
        seed: int,
    ) -> None:
        """`signs` has 1 for each objective that is minimized and -1 for one that is maximized."""
        self._costs, self._identity, self._admits, self.signs = costs, identity, admits, signs
        self.encoding = Encoding(distributions, identity and self._network, seed)
        self._of_trials: dict[int, tuple[Any, Position | None, Facts]] = {}
        self.fits: dict[Hashable, NDArray[np.float64]] = {}
        self._seed = seed
        self.complete = self.encoding.num_points <= WHOLE
        """Whether the pool is the whole space."""
        self.known = [] if costs is None else self._known()
        """Indices of the objectives that need no training."""
        self._pools: dict[bytes, Batch] = {}
        self._scale_costs(self.pool(self.free).costs)
        groups = self.encoding.groups
        self.groups = np.append(groups, groups.max(initial=-1) + 1 + np.arange(len(self.known)))
        """Feature → its group: those of the parameters, and one for each cost."""

    @property
    def free(self) -> Position:
        """What `pool` and `vary` take where no parameter is fixed."""
        return np.full(len(self.encoding.distributions), np.nan)

    def pool(self, fixed: Position) -> Batch:
        """Random networks, the same ones always, with parameters fixed at positions that are not NaN."""
        key = fixed.tobytes()
        if key not in self._pools:
            self._keep(key, self._drawn(fixed))
        return self._pools[key]

    def _drawn(self, fixed: Position) -> Batch:
        rng = np.random.default_rng((self._seed, 0))
        if self.complete:
            return self._batch(self.encoding.every(), fixed)
        pool, drawn = self._batch(self.encoding.draw(rng, POOL), fixed), POOL
        while len(pool) < POOL / 2 and drawn < DRAWS:
            pool += self._batch(self.encoding.draw(rng, POOL), fixed)
            drawn += POOL
        for _ in range(3):  # steps away from those that are known to be admitted
            if 0 < len(pool) < ENOUGH:
                pool += self._batch(self.encoding.change(rng, pool.positions, POOL), fixed)
        return pool

    def every(self, fixed: Position) -> Batch | None:
        """All networks with parameters fixed at positions that are not NaN; None of a space of very many."""
        if self.complete:
            return self.pool(fixed)
        if self.encoding.num_points > COUNTED:
            return None
        key = b"every" + fixed.tobytes()
        if key not in self._pools:
            self._keep(key, self._batch(self.encoding.every(), fixed))
        return self._pools[key]

    def _keep(self, key: bytes, batch: Batch) -> None:
        if len(self._pools) == POOLS:
            self._pools.pop(next(reversed(self._pools)))  # the first is that of the whole space
        self._pools[key] = batch

    def imposed(self, positions: Positions, fixed: Position) -> Positions:
        """The same, with some parameters fixed."""
        return self.encoding.canonical(np.where(np.isnan(fixed), positions, fixed))

    def _scale_costs(self, costs: NDArray[np.float64]) -> None:
        """Costs as features are logarithms, of their amounts where all are negative, unless some are and some are not."""
        self._log_sign, self._centre, self._unit = np.zeros(len(self.known)), np.zeros(len(self.known)), np.ones(len(self.known))
        if len(costs):
            self._log_sign = (costs > 0).all(axis=0).astype(float) - (costs < 0).all(axis=0)
            logs = self._logs(costs)
            deviation = logs.std(axis=0)
            self._centre, self._unit = logs.mean(axis=0), np.where(deviation > 0, np.sqrt(2) * deviation, 1.0)

    def _logs(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        sign = self._log_sign
        return np.where(sign != 0, sign * np.log(np.maximum(sign * costs, 1e-300)), costs)

    def features(self, positions: Positions, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Networks, features: those of the parameters, and the costs."""
        shown = np.clip((self._logs(costs) - self._centre) / self._unit, -FARTHEST, FARTHEST)
        return np.hstack([self.encoding.features(positions), shown])

    def _network(self, params: dict[str, Any]) -> Hashable:
        assert self._identity is not None
        with users_code("identity"):
            network = self._identity(params)
            hash(network)
            return network

    def _admitted(self, params: dict[str, Any]) -> bool:
        with users_code("admits"):
            return self._admits is None or bool(self._admits(params))

    def _known(self) -> list[int]:
        points = self.encoding.draw(np.random.default_rng(self._seed), POOL)
        admitted = filter(self._admitted, map(self.encoding.params, points))
        params = next(admitted, None) or self.encoding.params(points[0])  # if none is inside the limits, any tells as much
        return [i for i, value in enumerate(self._answer(params)) if value is not None]

    def _answer(self, params: dict[str, Any]) -> Sequence[float | None]:
        assert self._costs is not None
        with users_code("costs"):
            answer = self._costs(params)
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            raise NasError(f"costs gave {answer!r}; it must give a sequence with an entry for each objective")
        with users_code("costs"):
            entries = [None if value is None else float(value) for value in answer]
        if len(entries) != len(self.signs):
            raise NasError(
                f"costs gave {entries}; it must give an entry for each objective, of which there are {len(self.signs)}"
            )
        return entries

    def facts(self, position: Position) -> Facts:
        """What the user's functions say of one network."""
        params = self.encoding.params(position)
        network = tuple(map(key_of, params.values())) if self._identity is None else self._network(dict(params))
        admitted = self._admitted(dict(params))  # which may change what they are given, as the others may
        if not admitted or self._costs is None:
            return Facts(network, admitted, ())
        answer = self._answer(dict(params))
        costs = tuple(self.signs[i] * value for i in self.known if (value := answer[i]) is not None)
        if len(costs) != len(self.known) or not all(map(math.isfinite, costs)):
            raise NasError(
                f"costs gave {answer} for {params}; it must give finite numbers, and None for the same objectives always"
            )
        return Facts(network, admitted, costs)

    def of_trial(self, number: int, params: Mapping[str, Any]) -> tuple[Position | None, Facts]:
        """Where a trial's network is, and the same of it; remembered. One that lacks parameters is nothing but itself."""
        before = self._of_trials.get(number)
        if before is not None and before[0] == params:
            return before[1:]
        position, facts = self.encoding.position(params), Facts(None, False, ())
        if position is not None:
            position = self.encoding.canonical(position[None])[0]
            partial = bool((position == ABSENT).any())
            itself = tuple(sorted(((name, key_of(value)) for name, value in params.items()), key=str))
            facts = Facts(itself, True, ()) if partial else self.facts(position)
        self._of_trials[number] = dict(params), position, facts
        return position, facts

    def vary(
        self, rng: np.random.Generator, parents: Positions, number: int, seen: Collection[Hashable], fixed: Position
    ) -> Batch:
        """About so many new networks like these; fewer, where most of what is like them is outside the limits."""
        found = self._batch(self.encoding.change(rng, parents, number), fixed).unlike(seen)
        for _ in range(AGAIN):
            if len(found) < number / 2:
                found += self._batch(self.encoding.change(rng, parents, number), fixed).unlike(seen)
        return found

    def _batch(self, positions: Positions, fixed: Position) -> Batch:
        """Those that the limits admit, each network once."""
        positions = self.imposed(positions, fixed)
        found: dict[Hashable, tuple[NDArray[np.float64], tuple[float, ...]]] = {}
        for position in np.unique(positions, axis=0):
            facts = self.facts(position)
            if facts.admitted and facts.id not in found:
                found[facts.id] = (position, facts.costs)
        costs = np.array([of[1] for of in found.values()]).reshape(len(found), len(self.known))
        return Batch(np.array([of[0] for of in found.values()]).reshape(len(found), positions.shape[1]), list(found), costs)
