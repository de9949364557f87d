"""The networks that a sampler may choose from, what is known of each before it is trained, and what a study tells of them."""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError, user_code
from nas.sampler.encoding import ABSENT, Encoding, Identity, Positions, key_of
from nas.sampler.settings import CURVE, SETTINGS
from nas.sampler.surrogate import fit

Costs: TypeAlias = Callable[[dict[str, Any]], Sequence[float | None]]
Admits: TypeAlias = Callable[[dict[str, Any]], bool]
Position: TypeAlias = NDArray[np.float64]  # of one network

PROPOSED: Final = "frontier:proposed"  # system attribute of a trial: what it was given, by name as storages have it
UNDER_WAY: Final = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """What a user tells about networks; each function gets a dict of parameters of its own, which it may change.

    Raises: NasError if one is no function; from every method if one raises or answers wrongly.
    """

    costs: Costs | None = None
    identity: Identity | None = None
    admits: Admits | None = None

    def __post_init__(self) -> None:
        for name, function in (("costs", self.costs), ("identity", self.identity), ("admits", self.admits)):
            if function is not None and not callable(function):
                raise NasError(f"{name}: {function!r} is not a function of the parameters")

    def id(self, params: Mapping[str, Any]) -> Hashable:
        """What tells the network apart."""
        if self.identity is None:
            return tuple(map(key_of, params.values()))
        with user_code("identity"):
            network = self.identity(dict(params))
            hash(network)
            return network

    def admitted(self, params: Mapping[str, Any]) -> bool:
        """Whether the network is inside the limits."""
        with user_code("admits"):
            return self.admits is None or bool(self.admits(dict(params)))

    def answer(self, params: Mapping[str, Any], number: int) -> Sequence[float | None]:
        """The cost of each of so many objectives, None for those that need training."""
        assert self.costs is not None
        with user_code("costs"):
            entries = [None if value is None else float(value) for value in self.costs(dict(params))]
        if len(entries) != number:
            raise NasError(f"costs gave {entries}; it must give an entry for each objective, of which there are {number}")
        return entries


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one network."""

    id: Hashable
    admitted: bool
    costs: tuple[float, ...]
    """Losses on the objectives that need no training; empty if the limits do not admit it."""


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


@dataclass(frozen=True, slots=True)
class CostScale:
    """Costs as features: logarithms, of their amounts where all are negative, unless some are positive and some are not."""

    log_sign: NDArray[np.float64]
    """cost → 1 or -1 if it is a logarithm, else 0."""
    centre: NDArray[np.float64]
    unit: NDArray[np.float64]

    @staticmethod
    def of(costs: NDArray[np.float64]) -> "CostScale":
        """The scale on which these have a standard deviation of 1 / sqrt(2)."""
        neutral, ones = np.zeros(costs.shape[1]), np.ones(costs.shape[1])
        if not len(costs):
            return CostScale(neutral, neutral, ones)
        log_sign = (costs > 0).all(axis=0).astype(float) - (costs < 0).all(axis=0)
        logs = CostScale(log_sign, neutral, ones).shown(costs)
        deviation = logs.std(axis=0)
        return CostScale(log_sign, logs.mean(axis=0), np.where(deviation > 0, np.sqrt(2) * deviation, 1.0))

    def shown(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Networks, features."""
        sign = self.log_sign
        logs = np.where(sign != 0, sign * np.log(np.maximum(sign * costs, 1e-300)), costs)
        return np.asarray((logs - self.centre) / self.unit)


class Candidates:
    """Draws networks of a space, and knows what the user's functions say of them."""

    def __init__(
        self, distributions: Mapping[str, BaseDistribution], signs: Sequence[int], functions: Functions, *, seed: int
    ) -> None:
        """`signs` has 1 for each objective that is minimized and -1 for one that is maximized."""
        self._functions, self.signs, self._seed = functions, signs, seed
        self.encoding = Encoding(distributions, functions.identity and functions.id, seed)
        self._of_trials: dict[int, tuple[Any, Position | None, Facts]] = {}
        self.fit = lru_cache(SETTINGS.cached_fits)(self._fitted)
        self.complete = self.encoding.num_points <= SETTINGS.scored_points
        """Whether the pool is the whole space."""
        self.known = [] if functions.costs is None else self._known()
        """Indices of the objectives that need no training."""
        self._pool = lru_cache(SETTINGS.cached_pools)(self._drawn)
        self._every = lru_cache(SETTINGS.cached_pools)(lambda fixed: self._batch(self.encoding.every(), np.frombuffer(fixed)))
        self._scale = CostScale.of(self.pool(self.free).costs)
        groups = self.encoding.groups
        self.groups = np.append(groups, groups.max(initial=-1) + 1 + np.arange(len(self.known)))
        """Feature → its group: those of the parameters, and one for each cost."""

    @property
    def free(self) -> Position:
        """What `pool` and `vary` take where no parameter is fixed."""
        return np.full(len(self.encoding.distributions), np.nan)

    def pool(self, fixed: Position) -> Batch:
        """Random networks, the same ones always, with parameters fixed at positions that are not NaN."""
        return self._pool(fixed.tobytes())

    def _drawn(self, of: bytes) -> Batch:
        rng, size, fixed = np.random.default_rng((self._seed, 0)), SETTINGS.pool_size, np.frombuffer(of)
        if self.complete:
            return self._batch(self.encoding.every(), fixed)
        pool, drawn = self._batch(self.encoding.draw(rng, size), fixed), size
        while len(pool) < size / 2 and drawn < SETTINGS.max_draws:
            pool += self._batch(self.encoding.draw(rng, size), fixed)
            drawn += size
        for _ in range(3):  # steps away from those that are known to be admitted
            if 0 < len(pool) < SETTINGS.sparse_pool:
                pool += self._batch(self.encoding.change(rng, pool.positions, size), fixed)
        return pool

    def every(self, fixed: Position) -> Batch | None:
        """All networks with parameters fixed at positions that are not NaN; None of a space of very many."""
        if self.complete:
            return self.pool(fixed)
        if self.encoding.num_points > SETTINGS.enumerated_points:
            return None
        return self._every(fixed.tobytes())

    def imposed(self, positions: Positions, fixed: Position) -> Positions:
        """The same, with some parameters fixed."""
        return self.encoding.canonical(np.where(np.isnan(fixed), positions, fixed))

    def features(self, positions: Positions, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Networks, features: those of the parameters, and the costs, clipped as some outside the limits cost very much more."""
        most = SETTINGS.max_cost_deviations
        return np.hstack([self.encoding.features(positions), np.clip(self._scale.shown(costs), -most, most)])

    def _known(self) -> list[int]:
        points = self.encoding.draw(np.random.default_rng(self._seed), SETTINGS.pool_size)
        admitted = filter(self._functions.admitted, map(self.encoding.params, points))
        params = next(admitted, None) or self.encoding.params(points[0])  # if none is inside the limits, any tells as much
        return [i for i, value in enumerate(self._functions.answer(params, len(self.signs))) if value is not None]

    def _fitted(self, objective: int, positions: bytes, losses: bytes) -> NDArray[np.float64]:
        """What `fit` gives for an objective, at positions whose losses on all objectives are known."""
        told = np.frombuffer(losses).reshape(-1, len(self.signs))
        features = self.features(np.frombuffer(positions).reshape(len(told), -1), told[:, self.known])
        return fit(features, self.groups, told[:, objective])

    def facts(self, position: Position) -> Facts:
        """What the user's functions say of one network."""
        params = self.encoding.params(position)
        network, admitted = self._functions.id(params), self._functions.admitted(params)
        if not admitted or self._functions.costs is None:
            return Facts(network, admitted, ())
        answer = self._functions.answer(params, len(self.signs))
        costs = tuple(self.signs[i] * value for i in self.known if (value := answer[i]) is not None)
        if len(costs) != len(self.known) or not all(map(math.isfinite, costs)):
            raise NasError(
                f"costs gave {answer} for {params}; it must give finite numbers, and None for the same objectives always"
            )
        return Facts(network, admitted, costs)

    def of_trial(self, number: int, params: Mapping[str, Any]) -> tuple[Position | None, Facts]:
        """Encoded position and facts of a trial (cached); an incomplete trial equals only itself."""
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
        for _ in range(SETTINGS.mutation_retries):
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


@dataclass(slots=True)
class Record:
    """What a study holds, each loss the lower the better; rows of the arrays belong together."""

    seen: set[Hashable] = field(default_factory=set)
    places: list[Position] = field(default_factory=list)  # the same networks, however they ended
    alive: set[Hashable] = field(default_factory=set)  # those that had a trial which did not fail
    positions: list[Position] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    admitted: list[bool] = field(default_factory=list)
    trained: list[FrozenTrial] = field(default_factory=list)
    stopped: list[tuple[Position, tuple[float, ...], dict[int, float]]] = field(default_factory=list)
    failed: list[tuple[Position, tuple[float, ...], Hashable]] = field(default_factory=list)
    pending: list[tuple[Position, tuple[float, ...]]] = field(default_factory=list)


def propose(study: Study, trial: FrozenTrial, params: Mapping[str, Any], candidates: Candidates) -> None:
    """Stores the proposed parameters on the trial at once, so that concurrent samplers see them."""
    given = {name: of.to_internal_repr(params[name]) for name, of in candidates.encoding.distributions.items()}
    study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, given)  # noqa: SLF001 as Optuna's samplers do


def _params(trial: FrozenTrial, candidates: Candidates) -> dict[str, Any]:
    """The parameters of a trial, with those that it was given or enqueued with, and has not asked for."""
    distributions = candidates.encoding.distributions
    if trial.params.keys() >= distributions.keys():
        return dict(trial.params)
    found: dict[str, Any] = {}
    for name, value in trial.system_attrs.get(PROPOSED, {}).items():
        distribution = distributions.get(name)
        if distribution is not None and distribution._contains(value):  # noqa: SLF001
            found[name] = distribution.to_external_repr(value)
    return {**found, **trial.system_attrs.get("fixed_params", {}), **trial.params}


def read(study: Study, candidates: Candidates, *, beside: int) -> Record:
    """What all trials tell but one, also those that a pruner hides from its sampler."""
    record = Record()
    storage, number = study._storage, study._study_id  # noqa: SLF001
    for trial in storage.get_all_trials(number, deepcopy=False):
        params = {} if trial.number == beside else _params(trial, candidates)
        partly = trial.state == TrialState.WAITING and not params.keys() >= candidates.encoding.distributions.keys()
        if not params or partly:
            continue
        position, facts = candidates.of_trial(trial.number, params)
        if position is None:
            continue
        record.seen.add(facts.id)
        record.places.append(position)
        _add(record, trial, position, facts, candidates)
    most = SETTINGS.max_unfinished
    record.failed = [one for one in record.failed if one[2] not in record.alive][-most:]
    record.stopped, record.pending = record.stopped[-most:], record.pending[-most:]
    return record


def learning_curve(trial: FrozenTrial) -> dict[int, float]:
    """The finite values of a trial on its way, by step."""
    try:
        pairs = list(trial.intermediate_values.items()) or [(int(step), float(v)) for step, v in trial.user_attrs.get(CURVE, ())]
    except (TypeError, ValueError):
        return {}  # somebody else's attribute
    return {step: value for step, value in pairs if math.isfinite(value)}


def _add(record: Record, trial: FrozenTrial, position: Position, facts: Facts, candidates: Candidates) -> None:
    """One more trial to the record."""
    failed = trial.state == TrialState.FAIL or not all(map(math.isfinite, trial.values or ()))
    if not failed:
        record.alive.add(facts.id)
    if trial.state == TrialState.COMPLETE and not failed:
        record.positions.append(position)
        record.losses.append([sign * value for sign, value in zip(candidates.signs, trial.values, strict=True)])
        record.admitted.append(facts.admitted and all(value <= 0 for value in trial.constraints.values()))
        record.trained.append(trial)
        return
    if len(facts.costs) < len(candidates.known):
        return  # its costs are not known, as it is outside the limits or lacks parameters
    if failed:
        record.failed.append((position, facts.costs, facts.id))
    elif trial.state in UNDER_WAY:
        record.pending.append((position, facts.costs))
    elif curve := learning_curve(trial):
        record.stopped.append((position, facts.costs, curve))


def rows(values: Sequence[Any], width: int) -> NDArray[np.float64]:
    """An array of so many columns, even of no rows."""
    return np.array(values, float).reshape(len(values), width)
