"""The networks that a sampler may choose from, and what is known of each before it is trained. Read `samplers.py` next."""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from nas.encoding import ABSENT, Encoding, Positions, key_of
from nas.errors import NasError, users_code

Costs: TypeAlias = Callable[[dict[str, Any]], Sequence[float | None]]
Identity: TypeAlias = Callable[[dict[str, Any]], Hashable]
Admits: TypeAlias = Callable[[dict[str, Any]], bool]

WHOLE: Final = 2_048  # points of a space, up to which all are looked at for every proposal
POOL: Final = 1_024  # points of a larger space, that some are taken from
DRAWS: Final = 5_000  # random points at most, to fill the pool with networks that the limits admit
FARTHEST: Final = 10.0  # standard deviations of a cost as a feature, beyond which one outside the limits counts no farther
AGAIN: Final = 2  # times that networks are changed anew, when less than half are inside the limits and new
ENOUGH: Final = 256  # networks of the pool, below which those inside the limits are varied to find more


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
        self._of_trials: dict[int, tuple[dict[str, Any], NDArray[np.float64] | None, Facts]] = {}
        self.fits: dict[Hashable, NDArray[np.float64]] = {}
        rng = np.random.default_rng((seed, 0))
        self.complete = self.encoding.num_points <= WHOLE
        """Whether the pool is the whole space."""
        some = self.encoding.every() if self.complete else self.encoding.draw(rng, POOL)
        self.known = self._known(self.encoding.params(some[0])) if len(some) else []
        """Indices of the objectives that need no training."""
        self.pool = self.batch(some)
        drawn = len(some)
        while not self.complete and len(self.pool) < POOL / 2 and drawn < DRAWS:
            self.pool += self.batch(self.encoding.draw(rng, POOL))
            drawn += POOL
        for _ in range(3):  # steps away from those that are known to be admitted
            if not self.complete and 0 < len(self.pool) < ENOUGH:
                self.pool += self.batch(self.encoding.change(rng, self.pool.positions, POOL))

        self._scale_costs(self.pool.costs)
        groups = self.encoding.groups
        self.groups = np.append(groups, groups.max(initial=-1) + 1 + np.arange(len(self.known)))
        """Feature → its group: those of the parameters, and one for each cost."""

    def _scale_costs(self, costs: NDArray[np.float64]) -> None:
        """Costs as features are logarithms, if none is negative."""
        self._logarithmic = (costs > 0).all(axis=0) if len(costs) else np.zeros(len(self.known), bool)
        self._centre, self._unit = np.zeros(len(self.known)), np.ones(len(self.known))
        shown = self._shown(costs)
        if len(costs):
            deviation = shown.std(axis=0)
            self._centre, self._unit = shown.mean(axis=0), np.where(deviation > 0, np.sqrt(2) * deviation, 1.0)

    def _shown(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        logs = np.log(np.where(self._logarithmic, np.maximum(costs, 1e-300), 1.0))
        shown = (np.where(self._logarithmic, logs, costs) - self._centre) / self._unit
        return np.asarray(np.clip(shown, -FARTHEST, FARTHEST))

    def features(self, positions: Positions, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Networks, features: those of the parameters, and the costs."""
        return np.hstack([self.encoding.features(positions), self._shown(costs)])

    def _network(self, params: dict[str, Any]) -> Hashable:
        assert self._identity is not None
        with users_code("identity"):
            return self._identity(params)

    def _known(self, params: dict[str, Any]) -> list[int]:
        return [] if self._costs is None else [i for i, value in enumerate(self._answer(params)) if value is not None]

    def _answer(self, params: dict[str, Any]) -> Sequence[float | None]:
        assert self._costs is not None
        with users_code("costs"):
            answer = list(self._costs(params))
        if len(answer) != len(self.signs):
            raise NasError(f"costs gave {len(answer)} entries; it must give one for each of the {len(self.signs)} objectives")
        return answer

    def facts(self, position: NDArray[np.float64]) -> Facts:
        """What the user's functions say of one network."""
        params = self.encoding.params(position)
        network = tuple(map(key_of, params.values())) if self._identity is None else self._network(params)
        with users_code("admits"):
            admitted = self._admits is None or bool(self._admits(params))
        if not admitted or self._costs is None:
            return Facts(network, admitted, ())
        answer = self._answer(params)
        costs = tuple(self.signs[i] * float(value) for i in self.known if (value := answer[i]) is not None)
        if len(costs) != len(self.known) or not all(map(math.isfinite, costs)):
            raise NasError(
                f"costs gave {answer} for {params}; it must give finite numbers, and None for the same objectives always"
            )
        return Facts(network, admitted, costs)

    def of_trial(self, number: int, params: Mapping[str, Any]) -> tuple[NDArray[np.float64] | None, Facts]:
        """Where a trial's network is, and the same of it; remembered. One that lacks parameters is nothing but itself."""
        before = self._of_trials.get(number)
        if before is not None and before[0] == params:
            return before[1:]
        position = self.encoding.position(params)
        facts = Facts(None, False, ())
        if position is not None:
            partial = bool((position == ABSENT).any())
            position = position if partial else self.encoding.canonical(position[None])[0]
            facts = Facts(tuple(sorted(params.items(), key=str)), True, ()) if partial else self.facts(position)
        self._of_trials[number] = dict(params), position, facts
        return position, facts

    def vary(self, rng: np.random.Generator, parents: Positions, number: int, seen: Collection[Hashable]) -> Batch:
        """About so many new networks like these; fewer, where most of what is like them is outside the limits."""
        found = self.batch(self.encoding.change(rng, parents, number)).unlike(seen)
        for _ in range(AGAIN):
            if len(found) < number / 2:
                found += self.batch(self.encoding.change(rng, parents, number)).unlike(seen)
        return found

    def batch(self, positions: Positions) -> Batch:
        """Those that the limits admit, each network once."""
        found: dict[Hashable, tuple[NDArray[np.float64], tuple[float, ...]]] = {}
        for position in np.unique(positions, axis=0):
            facts = self.facts(position)
            if facts.admitted and facts.id not in found:
                found[facts.id] = (position, facts.costs)
        costs = np.array([of[1] for of in found.values()]).reshape(len(found), len(self.known))
        return Batch(np.array([of[0] for of in found.values()]).reshape(len(found), positions.shape[1]), list(found), costs)
