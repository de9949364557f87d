"""An Optuna sampler for objectives some of which cost nothing to compute."""

import logging
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError
from nas.sampler.candidates import (
    Admits,
    Batch,
    Candidates,
    Costs,
    Functions,
    Position,
    Record,
    learning_curve,
    propose,
    read,
    rows,
)
from nas.sampler.encoding import ABSENT, Encoding, Identity, Positions
from nas.sampler.settings import SETTINGS
from nas.sampler.surrogate import BelievedLoss, KnownLoss, Scale, Surrogate, expected_gain, fitted_on

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]


class FrontierSampler(BaseSampler):
    """Proposes networks whose training promises the most, where costs are known and trainings are dear.

    Only the objectives that need training are modelled, by a Gaussian process over the parameters and the costs. Of random
    networks and changed good ones it takes that with the greatest expected growth of the volume that the front dominates, or with
    one objective the greatest expected improvement. What is outside the limits, or was proposed before, is never proposed; when
    nothing else is found (of up to 65,536 points: is left), `optimize` is stopped, and whoever asks on gets repeats with a
    warning. Parameters that have the same choices, and names that differ by numbers alone, as `kernel1` and `kernel2`, teach each
    other.

    Trials under way count as if they had come out as predicted; stopped ones by what the last value that they reported told of
    the end in others, and less surely; failed ones, and those whose values are not finite, as if they were the worst, with much
    doubt. Where Optuna takes no reports, as of several objectives, values are looked for in the trial's user attribute
    `learning_curve`: [step, value] pairs, of the first objective that needs training. Parameters that a trial was enqueued with,
    or that PartialFixedSampler fixes, are kept, and the others chosen for them, inside the limits where they allow it.

    Every proposal follows from the seed, the trial's number and the trials in the study, so a study goes on from its storage, and
    several processes or threads share one. It is made for 1 to 4 objectives in any directions. Parameters of a trial that are not
    among `distributions` are drawn at random.

    Args:
        distributions: every parameter of the space.
        costs: parameters → one entry per objective in the study's order, None for those that need training.
        identity: parameters → what tells networks apart; without it different parameters are different networks.
        admits: parameters → whether they are inside the limits.
        seed: of all that is random; None takes another each time.

    Raises: NasError if these are of another kind.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        *,
        costs: Costs | None = None,
        identity: Identity | None = None,
        admits: Admits | None = None,
        seed: int | None = None,
    ) -> None:
        if not isinstance(distributions, Mapping):
            raise NasError(f"distributions: {distributions!r} is not a mapping from names to distributions of Optuna's")
        for name, of in distributions.items():
            if not isinstance(of, BaseDistribution):
                raise NasError(f"distributions[{name!r}]: {of!r} is none of Optuna's, such as CategoricalDistribution((1, 2))")
        self._distributions = dict(distributions)
        self._functions = Functions(costs=costs, identity=identity, admits=admits)
        if seed is not None and (not isinstance(seed, Integral) or int(seed) < 0):
            raise NasError(f"seed: {seed!r} is not a whole number of 0 or more, or None")
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._spaces: dict[tuple[Any, ...], Candidates] = {}
        self._exhausted = False
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_spaces": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Every parameter."""
        return dict(self._distributions)  # others take parameters out of it

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A value for each parameter of the search space.

        Raises: NasError if a function of the user's raises or answers wrongly.
        """
        fixed = trial.system_attrs.get("fixed_params", {})
        if not search_space or search_space.keys() <= fixed.keys():
            self._exhausted = False
            return {}  # nothing to choose, or enqueued
        fixed = fixed | getattr(study.sampler, "_fixed_params", {})  # PartialFixedSampler's, which takes them out of the space
        with self._lock:
            params = self._propose(study, trial, self._distributions | search_space, fixed)
        return {name: params[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value of a parameter that is not of the space."""
        rng = np.random.default_rng((self._seed, 2, trial.number, zlib.crc32(param_name.encode())))
        encoding = Encoding({param_name: param_distribution})
        return encoding.params(encoding.draw(rng, 1)[0])[param_name]

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        state: TrialState,  # noqa: ARG002
        values: Sequence[float] | None,  # noqa: ARG002
    ) -> None:
        """Stop the study if it has tried every network, and none is enqueued."""
        if self._exhausted and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            try:
                study.stop()
            except RuntimeError:
                return  # it is asked and told by somebody who may do so for ever
            logger.warning("no network is left that is inside the limits and was not tried; the study is stopped")

    def _propose(
        self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution], fixed: Mapping[str, Any]
    ) -> dict[str, Any]:
        candidates = self._candidates(study, space)
        position = candidates.encoding.position
        fixed = {name: value for name, value in fixed.items() if name in space and position({name: value}) is not None}
        at = position(fixed)
        assert at is not None  # as each of them is one that the space has
        imposed = np.where(at == ABSENT, np.nan, at)
        while True:
            record = read(study, candidates, beside=trial.number)
            chosen = self._choose(candidates, record, np.random.default_rng((self._seed, 1, trial.number)), imposed)
            params = candidates.encoding.params(chosen)
            propose(study, trial, params | fixed, candidates)
            network = candidates.facts(chosen).id
            # Another process may have chosen the same meanwhile: whichever writes last sees it, and chooses again.
            if network in record.seen or network not in read(study, candidates, beside=trial.number).seen:
                return params

    def _choose(self, candidates: Candidates, record: Record, rng: np.random.Generator, fixed: Position) -> Position:
        """Where to go next, with parameters fixed at positions that are not NaN."""
        free = bool(np.isnan(fixed).all())
        new = candidates.pool(fixed)
        if not candidates.complete:
            some = rng.permutation(len(new))[: SETTINGS.pool_values // new.positions.shape[1]]
            new = new.where(np.isin(np.arange(len(new)), some))
        new = new.unlike(record.seen)
        self._exhausted = candidates.complete and len(new if free else candidates.pool(candidates.free).unlike(record.seen)) <= 1
        tried = len(record.losses) + len(record.stopped) + len(record.failed) + len(record.pending)
        least, most = SETTINGS.initial_trials
        untaught = tried < max(least, min(most, len(fixed) // 3)) or len(record.losses) < SETTINGS.min_observations
        if untaught and len(new):
            return _spread(candidates, new, record, rng, tried)
        search = _Search(candidates, new, record, rng, fixed)
        chosen = search.best()
        if chosen is None and not candidates.complete and (every := candidates.every(fixed)) is not None:
            left = every.unlike(record.seen)
            self._exhausted = free and len(left) <= 1
            chosen = _Search(candidates, left, record, rng, fixed).best()
        if chosen is not None:
            return chosen
        self._exhausted |= free
        return _repeated(candidates, search.parents, rng, fixed)

    def _candidates(self, study: Study, space: Mapping[str, BaseDistribution]) -> Candidates:
        signs = tuple(-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions)
        key = (signs, *((name, repr(distribution)) for name, distribution in space.items()))
        if key not in self._spaces:
            self._spaces[key] = Candidates(space, signs, self._functions, seed=self._seed)
        return self._spaces[key]


def _repeated(candidates: Candidates, tried: Positions, rng: np.random.Generator, fixed: Position) -> Position:
    """Fallback when the space is exhausted: repeats a tried network, with a warning.

    Raises: NasError if none is known that is inside the limits, and no parameter is fixed.
    """
    whole = tried[(tried != ABSENT).all(axis=1)]
    known = candidates.imposed(whole if len(whole) else candidates.encoding.draw(rng, 1), fixed)
    inside = known[[candidates.facts(position).admitted for position in known]]
    if len(inside):
        warnings.warn("no network was found that was not tried before; this one was", stacklevel=3)
        return np.asarray(rng.choice(inside))
    if not np.isnan(fixed).all():
        warnings.warn("with these parameters fixed no network was found inside the limits; this one is outside", stacklevel=3)
        return np.asarray(rng.choice(known))
    if candidates.every(fixed) is None:
        raise NasError("no network inside the limits was found among random ones; enqueue one that is")
    raise NasError(f"none of all {candidates.encoding.num_points:,} parameter sets is inside the limits")


def _spread(candidates: Candidates, new: Batch, record: Record, rng: np.random.Generator, turn: int) -> NDArray[np.float64]:
    """Space-filling trial: fills the next gap in the costs with the network least like those before."""
    level, base, rest = 0.0, 0.5, turn + 1
    while rest:  # van der Corput's sequence: 1/2, 1/4, 3/4, 1/8, ...
        level, base, rest = level + base * (rest % 2), base / 2, rest // 2
    shuffled = rng.permutation(len(new))
    if candidates.known:
        ranks = np.argsort(np.argsort(new.costs[shuffled], axis=0), axis=0).mean(axis=1) / len(new)
        shuffled = shuffled[np.argsort(np.abs(ranks - level), kind="stable")]
    some = new.positions[shuffled[:64]]
    before = [*record.positions, *(one[0] for of in (record.stopped, record.failed, record.pending) for one in of)]
    if not before:
        return np.asarray(some[0])
    one, other = candidates.encoding.features(some), candidates.encoding.features(np.array(before))
    distances = ((one[:, None] - other[None]) ** 2).sum(axis=2)
    return np.asarray(some[np.argmax(distances.min(axis=1) + 1e-3 * distances.mean(axis=1))])


def _beaten(losses: Floats) -> NDArray[np.int64]:
    """By how many others each is matched or beaten on every loss."""
    counts = np.empty(len(losses), np.int64)
    ranks = [np.unique(column, return_inverse=True)[1].astype(np.uint16) for column in losses.T]
    for part in np.array_split(np.arange(len(losses)), 1 + len(losses) // 500):
        counts[part] = np.logical_and.reduce([rank <= rank[part, None] for rank in ranks]).sum(axis=1) - 1
    return counts


class _Search:
    """The search for the next network: what is known, the models, and where they promise most."""

    def __init__(
        self, candidates: Candidates, new: Batch, record: Record, rng: np.random.Generator, fixed: NDArray[np.float64]
    ) -> None:
        self._candidates, self._new, self._record, self._rng, self._fixed = candidates, new, record, rng, fixed
        self._known = candidates.known
        self._trained = [i for i in range(len(candidates.signs)) if i not in candidates.known]
        self._models: dict[int, tuple[Scale, Surrogate]] = {}
        self._learn()

    def _learn(self) -> None:
        """A model of each objective that needs training, and the losses of all networks as they are believed to be."""
        record, width = self._record, len(self._candidates.encoding.distributions)
        losses = rows(record.losses, len(self._candidates.signs))
        chosen = self._modelled(losses)
        losses, admitted = losses[chosen], np.array(record.admitted, bool)[chosen]
        positions = rows(record.positions, width)[chosen]
        pending = rows([position for position, _ in record.pending], width)
        pending_costs = rows([costs for _, costs in record.pending], len(self._known))
        features = self._candidates.features(positions, losses[:, self._known])
        further, groups = self._candidates.features(pending, pending_costs), self._candidates.groups
        believed, hoped = losses.copy(), np.empty((len(pending), losses.shape[1]))
        hoped[:, self._known] = pending_costs
        for objective in self._trained if len(losses) else ():
            scale, logs = Scale.of(losses[:, objective]), self._fit(objective)
            targets, noise, taught = scale.model(losses[:, objective]), np.zeros(len(losses)), features
            for more, estimates, doubt in self._further(scale, objective, targets):
                taught = np.vstack([taught, more])
                targets, noise = np.append(targets, estimates), np.append(noise, doubt)
            model = Surrogate(logs, taught, groups, targets, noise)
            if len(pending):
                model.believe(further)
            means = scale.losses(model.means())
            believed[:, objective], hoped[:, objective] = means[: len(losses)], means[len(targets) :]
            self._models[objective] = scale, model
        places, self._front = np.vstack([positions[admitted], pending]), np.empty((0, losses.shape[1]))
        if len(places) and (self._models or not self._trained):
            known, first = np.unique(np.vstack([believed[admitted], hoped]), axis=0, return_index=True)
            places = places[first]
            beaten = _beaten(known)
            places = places[np.argsort(beaten, kind="stable")[: max(SETTINGS.min_parents, int((beaten == 0).sum()))]]
            self._front, self._worst = known[beaten == 0], np.vstack([believed, hoped]).max(axis=0)
        most = SETTINGS.min_parents
        pool, tried = self._candidates.pool(self._fixed).positions[:most], rows(record.places[-most:], width)
        self.parents = next((found for found in (places, pool) if len(found)), tried)
        """Networks that others are made from: those that fewest dominate, as far as is believed."""

    def _fit(self, objective: int) -> Floats:
        """The relevances of the features; those that were found for the same observations, where they are still known."""
        chosen, record = fitted_on(len(self._record.losses)), self._record
        losses = rows([record.losses[i] for i in chosen], len(self._candidates.signs))
        positions = rows([record.positions[i] for i in chosen], len(self._fixed))
        return self._candidates.fit(objective, positions.tobytes(), losses.tobytes())

    def _modelled(self, losses: Floats) -> NDArray[np.int64]:
        """Indices of the observations that are modelled: all, or the least dominated and a random part of the rest."""
        half = SETTINGS.max_observations // 2
        if len(losses) <= 2 * half:
            return np.arange(len(losses))
        order = np.argsort(_beaten(losses), kind="stable")
        return np.sort(np.append(order[:half], self._rng.choice(order[half:], half, replace=False)))

    def _further(self, scale: Scale, objective: int, targets: Floats) -> Iterator[tuple[Floats, Floats, Floats]]:
        """Features, expected u and its variance for trials that did not finish: stopped ones, and failed ones as if the worst."""
        if objective == self._trained[0] and self._record.stopped:
            yield self._stopped(scale, objective)
        if failed := self._record.failed:
            doubt = max(float(np.var(targets)), 0.01)
            yield self._features(failed), np.full(len(failed), targets.max()), np.full(len(failed), doubt)

    def _features(self, found: Sequence[tuple[Any, ...]]) -> Floats:
        """Features of networks given as (position, costs, ...)."""
        positions, costs = [one[0] for one in found], [one[1] for one in found]
        return self._candidates.features(rows(positions, len(self._fixed)), rows(costs, len(self._known)))

    def _stopped(self, scale: Scale, objective: int) -> tuple[Floats, Floats, Floats]:
        """Features, expected u and its variance, of trials that were stopped at a step that others have passed."""
        record, sign = self._record, self._candidates.signs[objective]
        most = SETTINGS.max_observations
        curves = list(map(learning_curve, record.trained[-most:]))
        ends = np.array([losses[objective] for losses in record.losses[-most:]])
        told: dict[int, tuple[float, float]] = {}  # step → by how much losses change after it, and the variance of u then
        for last in {max(curve) for _, _, curve in record.stopped}:
            passed = [last in curve for curve in curves]
            if sum(passed) >= SETTINGS.min_curves:
                then = np.array([sign * curve[last] for curve in curves if last in curve])
                later = float(np.mean(ends[passed] - then))
                error = scale.model(ends[passed]) - scale.model(then + later)
                told[last] = later, 2 * float(np.var(error, ddof=1)) + 0.01
        found = []
        for position, costs, curve in record.stopped:
            if (last := max(curve)) in told:
                later, doubt = told[last]
                found.append((position, costs, float(scale.model(np.array(sign * curve[last] + later))), doubt))
        return self._features(found), np.array([one[2] for one in found]), np.array([one[3] for one in found])

    def best(self) -> NDArray[np.float64] | None:
        """The candidate with the greatest expected gain; None if there is none."""
        rng, batch = self._rng, self._new
        if len(self.parents) and not self._candidates.complete:
            number = min(SETTINGS.max_children, SETTINGS.child_values // self.parents.shape[1])
            batch += self._candidates.vary(rng, self.parents, number, self._record.seen, self._fixed)
        if not len(batch):
            return None
        if not len(self._front):
            return np.asarray(rng.choice(batch.positions))
        losses = self._losses(batch)
        self._reference = self._beyond(losses)
        gains = self._gains(losses)
        for _ in range(0 if self._candidates.complete else SETTINGS.climb_rounds):
            climbers = batch.positions[np.argsort(-gains)[: SETTINGS.climb_parents]]
            seen = self._record.seen | set(batch.ids)
            more = self._candidates.vary(rng, climbers, SETTINGS.climb_children, seen, self._fixed)
            if len(more):
                batch, gains = batch + more, np.append(gains, self._gains(self._losses(more)))
        order = rng.permutation(len(gains))  # as several may promise as much
        return np.asarray(batch.positions[order[np.argmax(gains[order])]])

    def _beyond(self, losses: Sequence[KnownLoss | BelievedLoss]) -> Floats:
        """Where the volume ends: a level beyond the worst of each loss, or what is best at that level would add nothing to it.

        Of so many levels, one is that share of their range, as Ishibuchi et al. advise (doi:10.1162/evco_a_00226, 1 + 1/H).
        """
        middles = [loss.scale.losses(loss.mean) if isinstance(loss, BelievedLoss) else loss.values for loss in losses]
        worst = np.maximum(self._worst, np.max(middles, axis=1))
        reach = worst - np.minimum(self._front.min(axis=0), np.min(middles, axis=1))
        levels = np.array([len(np.unique(values)) for values in middles])
        return np.asarray(worst + np.where(reach > 0, reach, 1.0) / np.maximum(levels - 1, 1))

    def _losses(self, batch: Batch) -> list[KnownLoss | BelievedLoss]:
        features = self._candidates.features(batch.positions, batch.costs)
        return [
            BelievedLoss(self._models[objective][0], *self._models[objective][1].predict(features))
            if objective in self._models
            else KnownLoss(batch.costs[:, self._known.index(objective)])
            for objective in range(len(self._candidates.signs))
        ]

    def _gains(self, losses: Sequence[KnownLoss | BelievedLoss]) -> Floats:
        lowest = np.minimum(self._front.min(axis=0), self._reference)
        for objective, loss in enumerate(losses):
            floor = loss.values.min() if isinstance(loss, KnownLoss) else loss.scale.best - 0.9 * loss.scale.spread
            lowest[objective] = min(lowest[objective], floor)
        return expected_gain(losses, self._front, lowest, self._reference, self._trained[0] if self._trained else 0)
