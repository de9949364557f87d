"""The choice of the next network: space-filling at first, then the one with the greatest expected hypervolume improvement."""

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume

from nas.errors import NasError
from nas.sampler.acquisition import (
    ExactLosses,
    Losses,
    PredictedLosses,
    expected_hypervolume_improvement,
    num_dominating,
    reference_point_for,
)
from nas.sampler.candidates import Batch, CandidatePool
from nas.sampler.encoding import ABSENT, Position, Positions
from nas.sampler.history import History, PastTrial, as_rows, learning_curve
from nas.sampler.settings import SETTINGS
from nas.sampler.surrogate import Floats, LossScale, Surrogate, fit_subset


class Belief(NamedTuple):
    """A value as a normal distribution."""

    mean: float
    deviation: float
    """Its standard deviation."""


class Choice(NamedTuple):
    """A network to try, and what that is worth."""

    position: Position
    growth: float
    """The expected growth of the hypervolume that the front dominates."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The network to try next."""

    position: Position
    exhausted: bool
    """True if no other feasible network without a trial is left."""
    growth: float | None = None
    """The expected growth of the front's hypervolume, as a share of it; None for a network chosen without a surrogate."""
    predicted: Belief | None = None
    """What the training will measure of the first objective that needs training."""
    is_repeat: bool = False
    """Whether the network has a trial, and another value of it is worth more than a new network."""


def propose(pool: CandidatePool, history: History, rng: np.random.Generator, fixed: Position, *, max_trials: int = 1) -> Proposal:
    """The network to try next, with parameters fixed where `fixed` is not NaN; one network may have up to `max_trials` trials.

    Raises: NasError if no feasible network was found, and no parameter is fixed.
    """
    nothing_fixed = bool(np.isnan(fixed).all())
    batch = pool.random(fixed)
    if not pool.is_whole_space:
        scored = rng.permutation(len(batch))[: SETTINGS.pool_values // pool.num_params]
        batch = batch.where(np.isin(np.arange(len(batch)), scored))
    batch = batch.without(history.seen)
    left = batch if nothing_fixed or not pool.is_whole_space else pool.random(pool.all_free).without(history.seen)
    only_new = max_trials == 1 or not nothing_fixed
    exhausted = only_new and pool.is_whole_space and len(left) <= 1
    if _is_initial(history, pool) and len(batch):
        return Proposal(_space_filling(pool, batch, history, rng), exhausted)
    search = AcquisitionSearch(pool, batch, history, rng, fixed)
    choice = search.best()
    if choice is None and not pool.is_whole_space and (every := pool.all(fixed)) is not None:
        left = every.without(history.seen)
        exhausted = only_new and nothing_fixed and len(left) <= 1
        search = AcquisitionSearch(pool, left, history, rng, fixed)
        choice = search.best()
    if not only_new:
        again = max(search.repeats(max_trials), key=lambda one: one.growth, default=None)
        if again is not None and (choice is None or again.growth > choice.growth):
            return Proposal(again.position, False, *search.expectation(again), is_repeat=True)
    if choice is not None:
        return Proposal(choice.position, exhausted, *search.expectation(choice))
    return Proposal(_duplicate(pool, search.parents, rng, fixed), exhausted or nothing_fixed)


def _is_initial(history: History, pool: CandidatePool) -> bool:
    """True while trials are space-filling, as there are too few to fit a surrogate to."""
    least, most = SETTINGS.initial_trials
    num_initial = max(least, min(most, pool.num_params // 3))
    return history.num_trials < num_initial or len(history.losses) < SETTINGS.min_observations


def _duplicate(pool: CandidatePool, tried: Positions, rng: np.random.Generator, fixed: Position) -> Position:
    """Fallback if no feasible network without a trial was found: one that has a trial, with a warning.

    Raises: NasError if no feasible network was found, and no parameter is fixed.
    """
    complete = tried[(tried != ABSENT).all(axis=1)]
    positions = pool.with_fixed(complete if len(complete) else pool.encoding.draw(rng, 1), fixed)
    feasible = positions[[pool.network(position).feasible for position in positions]]
    if len(feasible):
        warnings.warn("no feasible network without a trial was found; this one is a duplicate", stacklevel=4)
        return np.asarray(rng.choice(feasible))
    if not np.isnan(fixed).all():
        warnings.warn("with these parameters fixed, no feasible network was found; this one is infeasible", stacklevel=4)
        return np.asarray(rng.choice(positions))
    if pool.all(fixed) is None:
        raise NasError("no random network is feasible; enqueue one that is")
    raise NasError(f"none of the {pool.encoding.num_points:,} parameter sets of the space is feasible")


def _space_filling(pool: CandidatePool, batch: Batch, history: History, rng: np.random.Generator) -> Position:
    """The candidate farthest from all trials, among the 64 whose costs are nearest the next level.

    The levels, 0 to 1 of the mean rank of the costs, follow van der Corput's sequence: 1/2, 1/4, 3/4, 1/8, ...
    """
    level, base, rest = 0.0, 0.5, history.num_trials + 1
    while rest:
        level, base, rest = level + base * (rest % 2), base / 2, rest // 2
    order = rng.permutation(len(batch))
    if pool.cost_objectives:
        ranks = np.argsort(np.argsort(batch.costs[order], axis=0), axis=0).mean(axis=1) / len(batch)
        order = order[np.argsort(np.abs(ranks - level), kind="stable")]
    positions = batch.positions[order[:64]]
    past = [*history.finished, *history.stopped, *history.failed, *history.pending]
    if not past:
        return np.asarray(positions[0])
    features, tried = pool.encoding.features(positions), pool.encoding.features(np.array([one.position for one in past]))
    distances = ((features[:, None] - tried[None]) ** 2).sum(axis=2)
    return np.asarray(positions[np.argmax(distances.min(axis=1) + 1e-3 * distances.mean(axis=1))])


class AcquisitionSearch:
    """The search for the candidate with the greatest expected hypervolume improvement; a surrogate predicts each trained loss."""

    def __init__(self, pool: CandidatePool, batch: Batch, history: History, rng: np.random.Generator, fixed: Position) -> None:
        """Fit the surrogates to the history; `batch` are the candidates to begin with."""
        self._pool, self._batch, self._history, self._rng, self._fixed = pool, batch, history, rng, fixed
        self._trained = [i for i in range(len(pool.signs)) if i not in pool.cost_objectives]
        self._surrogates: dict[int, tuple[LossScale, Surrogate]] = {}
        self._front, self._front_trials = np.empty((0, len(pool.signs))), list[PastTrial]()
        self._reference_point = np.zeros(len(pool.signs))
        least = SETTINGS.min_parents
        good = self._fit_surrogates()
        random, tried = pool.random(fixed).positions[:least], as_rows(history.positions[-least:], pool.num_params)
        self.parents = next((positions for positions in (good, random) if len(positions)), tried)
        """Networks to mutate: the least dominated ones by expected losses; if there are none, random or tried ones."""

    def best(self) -> Choice | None:
        """The candidate with the greatest acquisition value; None if there is none."""
        pool, rng, batch = self._pool, self._rng, self._batch
        if len(self.parents) and not pool.is_whole_space:
            num_children = min(SETTINGS.max_children, SETTINGS.child_values // self.parents.shape[1])
            batch += pool.mutations(rng, self.parents, num_children, self._history.seen, self._fixed)
        if not len(batch):
            return None
        if not len(self._front):
            return Choice(rng.choice(batch.positions), 0.0)
        losses = self._losses(batch)
        self._reference_point = reference_point_for(losses, self._front, self._worst)
        values = self._acquisition(losses)
        for _ in range(0 if pool.is_whole_space else SETTINGS.climb_rounds):
            parents = batch.positions[np.argsort(-values)[: SETTINGS.climb_parents]]
            seen = self._history.seen | set(batch.ids)
            children = pool.mutations(rng, parents, SETTINGS.climb_children, seen, self._fixed)
            if len(children):
                batch += children
                values = np.append(values, self._acquisition(self._losses(children)))
        order = rng.permutation(len(values))  # breaks ties at random
        best = order[np.argmax(values[order])]
        return Choice(batch.positions[best], float(values[best]))

    def repeats(self, max_trials: int) -> Iterator[Choice]:
        """The networks of the front that may get a further trial, and what it is worth.

        A further trial changes what is believed of its network. The hypervolume of the believed front can be expected to grow by
        that: where the network turns out worse, others take its place.
        """
        if not self._surrogates or len(self._trained) > 1:
            return
        (objective,) = self._trained
        scale, surrogate = self._surrogates[objective]
        history = self._history
        excluded = history.troubled | {past.network.id for past in history.pending}
        past = [one for one in self._front_trials if one.network.id not in excluded]
        past = [one for one in past if history.num_tried[one.network.id] < max_trials]
        if not past:
            return
        mean, deviation = surrogate.predict(self._features(past))
        change = deviation**2 / np.sqrt(deviation**2 + surrogate.noise_variance)  # of what is believed, by another trial
        for i in np.argsort(-change)[: SETTINGS.repeat_candidates]:
            costs = self._costs([past[i]] * 2)
            losses: list[Losses] = [ExactLosses(costs[:, j]) for j in range(costs.shape[1])]
            after_and_now = PredictedLosses(scale, np.full(2, mean[i]), np.array([change[i], 1e-9]))
            losses.insert(objective, after_and_now)
            own = np.isclose(self._front[:, self._pool.cost_objectives], costs[:1]).all(axis=1)
            own &= np.isclose(self._front[:, objective], after_and_now.means[0])
            after, now = self._acquisition(losses, self._front[~own])
            yield Choice(past[i].position, float(after - now))

    def expectation(self, choice: Choice) -> tuple[float | None, Belief | None]:
        """By which share of the front's hypervolume a choice is expected to make it grow, and what its training will measure."""
        if not self._surrogates or not len(self._front):
            return None, None
        volume = compute_hypervolume(self._front, self._reference_point)
        scale, surrogate = self._surrogates[self._trained[0]]
        network = self._pool.network(choice.position)
        features = self._pool.features(choice.position[None], as_rows([network.costs], len(self._pool.cost_objectives)))
        mean, deviation = surrogate.predict(features)
        deviation = np.sqrt(deviation**2 + surrogate.noise_variance)
        sign = self._pool.signs[self._trained[0]]
        (measured,) = _beliefs(scale, mean, deviation, sign)
        return (choice.growth / volume if volume > 0 else None), measured

    def beliefs(self) -> dict[Hashable, Belief]:
        """Network → its value on the first objective that needs training, for each network of a finished trial."""
        finished = self._history.finished
        if not (self._surrogates and finished):
            return {}
        scale, surrogate = self._surrogates[self._trained[0]]
        losses = as_rows(self._history.losses, len(self._pool.signs))  # an infeasible network has no costs but these
        features = self._pool.features(self._positions(finished), losses[:, self._pool.cost_objectives])
        beliefs = _beliefs(scale, *surrogate.predict(features), self._pool.signs[self._trained[0]])
        return {past.network.id: belief for past, belief in zip(finished, beliefs, strict=True)}

    def _acquisition(self, losses: Sequence[Losses], front: Floats | None = None) -> Floats:
        along = self._trained[0] if self._trained else 0
        front = self._front if front is None else front
        return expected_hypervolume_improvement(losses, front, self._reference_point, along)

    def _losses(self, batch: Batch) -> list[Losses]:
        features = self._pool.features(batch.positions, batch.costs)
        losses: list[Losses] = []
        for objective in range(len(self._pool.signs)):
            if objective in self._surrogates:
                scale, surrogate = self._surrogates[objective]
                losses.append(PredictedLosses(scale, *surrogate.predict(features)))
            else:
                losses.append(ExactLosses(batch.costs[:, self._pool.cost_objectives.index(objective)]))
        return losses

    def _fit_surrogates(self) -> Positions:
        """Fit a surrogate of each trained objective, find the front by expected losses, return the least dominated networks."""
        pool, pending = self._pool, self._history.pending
        losses = as_rows(self._history.losses, len(pool.signs))
        modelled = self._modelled(losses)
        losses, finished = losses[modelled], [self._history.finished[i] for i in modelled]
        positions, pending_positions = self._positions(finished), self._positions(pending)
        features, pending_features = pool.features(positions, losses[:, pool.cost_objectives]), self._features(pending)
        expected, expected_pending = losses.copy(), np.empty((len(pending), losses.shape[1]))
        expected_pending[:, pool.cost_objectives] = self._costs(pending)
        for objective in self._trained if len(losses) else ():
            scale, surrogate = self._fit_surrogate(objective, features, losses[:, objective])
            if pending:
                surrogate.add_pending(pending_features)
            means = scale.inverse(surrogate.fitted_means())
            expected[:, objective], expected_pending[:, objective] = means[: len(losses)], means[len(means) - len(pending) :]
            self._surrogates[objective] = scale, surrogate
        feasible = np.array([past.feasible for past in finished], bool)
        positions = np.vstack([positions[feasible], pending_positions])
        if not len(positions) or (self._trained and not self._surrogates):
            return positions
        unique, first = np.unique(np.vstack([expected[feasible], expected_pending]), axis=0, return_index=True)
        counts = num_dominating(unique)
        self._front, self._worst = unique[counts == 0], np.vstack([expected, expected_pending]).max(axis=0)
        span = self._worst - self._front.min(axis=0)
        self._reference_point = self._worst + np.where(span > 0, span, 1.0) / 10  # without candidates
        members, networks = [past for past in finished if past.feasible], set[Hashable]()
        for i in first[counts == 0]:
            if i < len(members) and members[i].network.id not in networks:
                networks.add(members[i].network.id)
                self._front_trials.append(members[i])
        return positions[first][np.argsort(counts, kind="stable")[: max(SETTINGS.min_parents, len(self._front))]]

    def _modelled(self, losses: Floats) -> NDArray[np.int64]:
        """Indices of the finished trials that are modelled: all if they are few, else the least dominated and random others."""
        half = SETTINGS.max_observations // 2
        if len(losses) <= 2 * half:
            return np.arange(len(losses))
        order = np.argsort(num_dominating(losses), kind="stable")
        return np.sort(np.append(order[:half], self._rng.choice(order[half:], half, replace=False)))

    def _fit_surrogate(self, objective: int, features: Floats, losses: Floats) -> tuple[LossScale, Surrogate]:
        """A surrogate of finished trials, stopped ones (extrapolated), and failed ones (as the worst, with much noise)."""
        scale, failed = LossScale.of(losses), self._history.failed
        targets = scale.transform(losses)
        variance = max(float(np.var(targets)), 0.01)
        stopped, stopped_targets, stopped_noise = self._extrapolate(scale, objective)
        features = np.vstack([features, self._features(stopped), self._features(failed)])
        noise = np.concatenate([np.zeros(len(losses)), stopped_noise, np.full(len(failed), variance)])
        targets = np.concatenate([targets, stopped_targets, np.full(len(failed), targets.max())])
        return scale, Surrogate(self._hyperparameters(objective), features, self._pool.groups, targets, noise)

    def _hyperparameters(self, objective: int) -> Floats:
        """The hyperparameters fitted to some of the finished trials; cached as long as these stay the same."""
        subset = fit_subset(len(self._history.losses))
        losses = as_rows([self._history.losses[i] for i in subset], len(self._pool.signs))
        positions = self._positions([self._history.finished[i] for i in subset])
        return self._pool.hyperparameters(objective, positions.tobytes(), losses.tobytes())

    def _extrapolate(self, scale: LossScale, objective: int) -> tuple[list[PastTrial], list[float], list[float]]:
        """(stopped trials, their expected final u, its variance), from finished trials that reported the same step.

        Only the first trained objective has learning curves; for another one the result is empty.
        """
        stopped = self._history.stopped if objective == self._trained[0] else []
        sign, recent = self._pool.signs[objective], SETTINGS.max_observations
        last_reports = [max(learning_curve(past.trial).items()) for past in stopped]
        curves = [learning_curve(past.trial) for past in self._history.finished[-recent:]] if stopped else []
        final = np.array([losses[objective] for losses in self._history.losses[-recent:]])
        changes: dict[int, tuple[float, float]] = {}  # step → the mean change of the loss after it, and the variance of u
        for step in {step for step, _ in last_reports}:
            passed = [step in curve for curve in curves]
            if sum(passed) >= SETTINGS.min_curves:
                at_step = np.array([sign * curve[step] for curve in curves if step in curve])
                change = float(np.mean(final[passed] - at_step))
                error = scale.transform(final[passed]) - scale.transform(at_step + change)
                changes[step] = change, 2 * float(np.var(error, ddof=1)) + 0.01
        usable = [
            (past, sign * value, *changes[step])
            for past, (step, value) in zip(stopped, last_reports, strict=True)
            if step in changes
        ]
        targets = [float(scale.transform(np.array(loss + change))) for _, loss, change, _ in usable]
        return [past for past, *_ in usable], targets, [variance for *_, variance in usable]

    def _positions(self, past: Sequence[PastTrial]) -> Positions:
        return as_rows([one.position for one in past], self._pool.num_params)

    def _costs(self, past: Sequence[PastTrial]) -> Floats:
        return as_rows([one.network.costs for one in past], len(self._pool.cost_objectives))

    def _features(self, past: Sequence[PastTrial]) -> Floats:
        return self._pool.features(self._positions(past), self._costs(past))


def _beliefs(scale: LossScale, mean: Floats, deviation: Floats, sign: int) -> list[Belief]:
    """Values whose u are normal: the value at the mean of u, and the standard deviation of the log-normal distribution."""
    values = sign * scale.inverse(mean)
    deviations = scale.spread * np.exp(mean + deviation**2 / 2) * np.sqrt(np.expm1(deviation**2))
    return [Belief(float(value), float(spread)) for value, spread in zip(values, deviations, strict=True)]
