"""The networks that the sampler can propose, and what the user's functions return for each before training."""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from nas.errors import NasError, user_code
from nas.sampler.encoding import ABSENT, Encoding, Identity, Position, Positions, key_of
from nas.sampler.settings import SETTINGS
from nas.sampler.surrogate import Floats, fit_hyperparameters

Costs: TypeAlias = Callable[[dict[str, Any]], Sequence[float | None]]
Feasible: TypeAlias = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFunctions:
    """The user's functions of a network; each call gets its own copy of the parameters, which the function may change.

    Raises: NasError if one is not callable; in every method, if a function raises or returns an unusable value.
    """

    costs: Costs | None = None
    identity: Identity | None = None
    feasible: Feasible | None = None

    def __post_init__(self) -> None:
        for name, function in (("costs", self.costs), ("identity", self.identity), ("feasible", self.feasible)):
            if function is not None and not callable(function):
                raise NasError(f"{name}: {function!r} is not a function of the parameters")

    def id(self, params: Mapping[str, Any]) -> Hashable:
        """The network's identity; by default, its parameters."""
        if self.identity is None:
            return tuple(map(key_of, params.values()))
        with user_code("identity"):
            network_id = self.identity(dict(params))
            hash(network_id)
            return network_id

    def is_feasible(self, params: Mapping[str, Any]) -> bool:
        """True if the network meets the limits."""
        with user_code("feasible"):
            return self.feasible is None or bool(self.feasible(dict(params)))

    def cost_values(self, params: Mapping[str, Any], num_objectives: int) -> Sequence[float | None]:
        """One cost per objective, None for those that need training."""
        assert self.costs is not None
        with user_code("costs"):
            values = [None if value is None else float(value) for value in self.costs(dict(params))]
        if len(values) != num_objectives:
            raise NasError(f"costs returned {values}; it must return one entry for each of the {num_objectives} objectives")
        return values


@dataclass(frozen=True, slots=True)
class Network:
    """A network before training."""

    id: Hashable
    feasible: bool
    costs: tuple[float, ...]
    """Losses on the objectives that need no training; empty if the network is infeasible."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Feasible networks, each once."""

    positions: Positions
    ids: list[Hashable]
    costs: Floats
    """Shape: (networks, objectives that need no training)."""

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, mask: NDArray[np.bool_]) -> "Batch":
        """The networks where the mask is True."""
        return Batch(self.positions[mask], [i for i, kept in zip(self.ids, mask, strict=True) if kept], self.costs[mask])

    def without(self, ids: Collection[Hashable]) -> "Batch":
        """The networks with other ids than these."""
        return self.where(np.array([i not in ids for i in self.ids], bool))

    def __add__(self, other: "Batch") -> "Batch":
        new = other.without(set(self.ids))
        return Batch(np.vstack([self.positions, new.positions]), self.ids + new.ids, np.vstack([self.costs, new.costs]))


@dataclass(frozen=True, slots=True)
class CostScale:
    """Turns costs into features with a standard deviation of 1 / sqrt(2).

    If all values of a cost have the same sign, it enters as sign · log |cost|; otherwise, as it is.
    """

    log_sign: Floats
    """For each cost, the sign of its values if its feature is a logarithm, else 0."""
    center: Floats
    unit: Floats

    @staticmethod
    def of(costs: Floats) -> "CostScale":
        """The scale of a sample of costs."""
        zeros, ones = np.zeros(costs.shape[1]), np.ones(costs.shape[1])
        if not len(costs):
            return CostScale(zeros, zeros, ones)
        log_sign = (costs > 0).all(axis=0).astype(float) - (costs < 0).all(axis=0)
        logs = CostScale(log_sign, zeros, ones).transform(costs)
        deviation = logs.std(axis=0)
        return CostScale(log_sign, logs.mean(axis=0), np.where(deviation > 0, np.sqrt(2) * deviation, 1.0))

    def transform(self, costs: Floats) -> Floats:
        """(networks, costs) → (networks, features)."""
        sign = self.log_sign
        logs = np.where(sign != 0, sign * np.log(np.maximum(sign * costs, 1e-300)), costs)
        return np.asarray((logs - self.center) / self.unit)


class CandidatePool:
    """Draws, enumerates and mutates networks of a space, and computes their costs and features.

    An argument `fixed` is a position with NaN for each free parameter.
    """

    def __init__(
        self, distributions: Mapping[str, BaseDistribution], signs: Sequence[int], functions: UserFunctions, *, seed: int
    ) -> None:
        """`signs` has 1 for each objective that is minimized and -1 for each that is maximized."""
        self._functions, self.signs, self._seed = functions, signs, seed
        self.encoding = Encoding(distributions, functions.identity and functions.id, seed)
        self._trial_networks: dict[int, tuple[Any, Position | None, Network]] = {}
        self.hyperparameters = lru_cache(SETTINGS.cached_fits)(self._hyperparameters)
        self.is_whole_space = self.encoding.num_points <= SETTINGS.scored_points
        """True if the random candidates are all networks of the space."""
        self.cost_objectives = [] if functions.costs is None else self._cost_objectives()
        """Indices of the objectives that need no training."""
        self._random = lru_cache(SETTINGS.cached_pools)(self._draw)
        self._all = lru_cache(SETTINGS.cached_pools)(lambda fixed: self._batch(self.encoding.every(), np.frombuffer(fixed)))
        self._scale = CostScale.of(self.random(self.all_free).costs)
        groups = self.encoding.groups
        self.groups = np.append(groups, groups.max(initial=-1) + 1 + np.arange(len(self.cost_objectives)))
        """Feature → its group: the groups of the parameters, then one for each cost."""

    @property
    def num_params(self) -> int:
        """The number of parameters of the space."""
        return len(self.encoding.distributions)

    @property
    def all_free(self) -> Position:
        """The value of `fixed` that fixes no parameter."""
        return np.full(self.num_params, np.nan)

    def random(self, fixed: Position) -> Batch:
        """Random feasible networks, the same at every call."""
        return self._random(fixed.tobytes())

    def _draw(self, fixed_bytes: bytes) -> Batch:
        rng, size, fixed = np.random.default_rng((self._seed, 0)), SETTINGS.pool_size, np.frombuffer(fixed_bytes)
        if self.is_whole_space:
            return self._batch(self.encoding.every(), fixed)
        batch, num_drawn = self._batch(self.encoding.draw(rng, size), fixed), size
        while len(batch) < size / 2 and num_drawn < SETTINGS.max_draws:
            batch += self._batch(self.encoding.draw(rng, size), fixed)
            num_drawn += size
        for _ in range(3):
            if 0 < len(batch) < SETTINGS.sparse_pool:
                batch += self._batch(self.encoding.mutate(rng, batch.positions, size), fixed)
        return batch

    def all(self, fixed: Position) -> Batch | None:
        """All feasible networks; None if the space is too large to enumerate."""
        if self.is_whole_space:
            return self.random(fixed)
        if self.encoding.num_points > SETTINGS.enumerated_points:
            return None
        return self._all(fixed.tobytes())

    def mutations(
        self, rng: np.random.Generator, parents: Positions, number: int, seen: Collection[Hashable], fixed: Position
    ) -> Batch:
        """About `number` new networks near the parents; fewer if most mutations are infeasible or seen."""
        batch = self._batch(self.encoding.mutate(rng, parents, number), fixed).without(seen)
        for _ in range(SETTINGS.mutation_retries):
            if len(batch) < number / 2:
                batch += self._batch(self.encoding.mutate(rng, parents, number), fixed).without(seen)
        return batch

    def with_fixed(self, positions: Positions, fixed: Position) -> Positions:
        """The positions, with the fixed parameters set to their values."""
        return self.encoding.canonical(np.where(np.isnan(fixed), positions, fixed))

    def features(self, positions: Positions, costs: Floats) -> Floats:
        """(networks, features): of the parameters, then of the costs, clipped as infeasible networks can have huge ones."""
        clip = SETTINGS.max_cost_deviations
        return np.hstack([self.encoding.features(positions), np.clip(self._scale.transform(costs), -clip, clip)])

    def network(self, position: Position) -> Network:
        """The network at a position, with what the user's functions return."""
        params = self.encoding.params(position)
        network_id, feasible = self._functions.id(params), self._functions.is_feasible(params)
        if not feasible or self._functions.costs is None:
            return Network(network_id, feasible, ())
        values = self._functions.cost_values(params, len(self.signs))
        costs = tuple(self.signs[i] * value for i in self.cost_objectives if (value := values[i]) is not None)
        if len(costs) != len(self.cost_objectives) or not all(map(math.isfinite, costs)):
            raise NasError(
                f"costs returned {values} for {params}; it must return finite numbers, and None for the same objectives always"
            )
        return Network(network_id, feasible, costs)

    def trial_network(self, number: int, params: Mapping[str, Any]) -> tuple[Position | None, Network]:
        """Position and network of a trial (cached); a trial that lacks parameters has the others as its id."""
        cached = self._trial_networks.get(number)
        if cached is not None and cached[0] == params:
            return cached[1:]
        position, network = self.encoding.position(params), Network(None, False, ())
        if position is not None:
            position = self.encoding.canonical(position[None])[0]
            partial = bool((position == ABSENT).any())
            own_id = tuple(sorted(((name, key_of(value)) for name, value in params.items()), key=str))
            network = Network(own_id, True, ()) if partial else self.network(position)
        self._trial_networks[number] = dict(params), position, network
        return position, network

    def _cost_objectives(self) -> list[int]:
        points = self.encoding.draw(np.random.default_rng(self._seed), SETTINGS.pool_size)
        feasible = filter(self._functions.is_feasible, map(self.encoding.params, points))
        params = next(feasible, None) or self.encoding.params(points[0])  # if all are infeasible, any of them will do
        return [i for i, value in enumerate(self._functions.cost_values(params, len(self.signs))) if value is not None]

    def _hyperparameters(self, objective: int, position_bytes: bytes, loss_bytes: bytes) -> Floats:
        """The surrogate's hyperparameters for an objective, fitted to observations (as bytes, so that the result is cached)."""
        losses = np.frombuffer(loss_bytes).reshape(-1, len(self.signs))
        features = self.features(np.frombuffer(position_bytes).reshape(len(losses), -1), losses[:, self.cost_objectives])
        return fit_hyperparameters(features, self.groups, losses[:, objective], num_costs=len(self.cost_objectives))

    def _batch(self, positions: Positions, fixed: Position) -> Batch:
        """The feasible networks at these positions, each once."""
        positions = self.with_fixed(positions, fixed)
        batch: dict[Hashable, tuple[Position, tuple[float, ...]]] = {}
        for position in np.unique(positions, axis=0):
            network = self.network(position)
            if network.feasible and network.id not in batch:
                batch[network.id] = (position, network.costs)
        costs = np.array([cost for _, cost in batch.values()]).reshape(len(batch), len(self.cost_objectives))
        unique = np.array([position for position, _ in batch.values()]).reshape(len(batch), positions.shape[1])
        return Batch(unique, list(batch), costs)
