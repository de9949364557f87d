"""What the sampler learns from an Optuna study: the trials by their states, and the parameters proposed to each."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.sampler.candidates import CandidatePool, Network
from nas.sampler.encoding import Position
from nas.sampler.settings import LEARNING_CURVE, SETTINGS
from nas.sampler.surrogate import Floats

PROPOSED: Final = "frontier:proposed"  # system attribute of a trial: its proposed parameters, by name, in Optuna's internal form
GROWTH: Final = "frontier:growth"  # system attribute of a trial: by which share the front's hypervolume was expected to grow
PREDICTED: Final = "frontier:predicted"  # system attribute of a trial: mean and standard deviation of the value to be measured
REPEAT: Final = "frontier:repeat"  # system attribute of a trial: whether its network was chosen to be tried again
UNDER_WAY: Final = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True, slots=True)
class PastTrial:
    """A trial of the study with its place in the space."""

    position: Position
    network: Network
    trial: FrozenTrial

    @property
    def feasible(self) -> bool:
        """True if the network meets the user's limits, and the trial meets its constraints."""
        return self.network.feasible and all(value <= 0 for value in self.trial.constraints.values())


@dataclass(slots=True)
class History:
    """All trials of a study except one, in the order of their numbers."""

    seen: set[Hashable] = field(default_factory=set)
    """Ids of all networks that have a trial, other than a forecast."""
    positions: list[Position] = field(default_factory=list)
    """Positions of all trials."""
    finished: list[PastTrial] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    """The losses of each finished trial on every objective."""
    stopped: list[PastTrial] = field(default_factory=list)
    """Pruned trials that reported values."""
    failed: list[PastTrial] = field(default_factory=list)
    """Failed trials of networks that have no other trial."""
    pending: list[PastTrial] = field(default_factory=list)
    num_tried: Counter[Hashable] = field(default_factory=Counter)
    """Network → its trials of any state, other than forecasts."""
    troubled: set[Hashable] = field(default_factory=set)
    """Networks of which a trial failed."""

    @property
    def num_trials(self) -> int:
        """The number of trials that the sampler learns from."""
        return len(self.finished) + len(self.stopped) + len(self.failed) + len(self.pending)


def read_history(study: Study, pool: CandidatePool, *, exclude: int) -> History:
    """The study's trials except number `exclude`; includes trials that a pruner hides from its sampler."""
    history, succeeded = History(), set[Hashable]()
    storage, study_id = study._storage, study._study_id  # noqa: SLF001
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        params = {} if trial.number == exclude else _params(trial, pool)
        incomplete = trial.state == TrialState.WAITING and not params.keys() >= pool.encoding.distributions.keys()
        if not params or incomplete:
            continue
        position, network = pool.trial_network(trial.number, params)
        if position is None:
            continue
        if not _is_forecast(trial):
            history.seen.add(network.id)
            history.num_tried[network.id] += 1
        history.positions.append(position)
        _add(history, PastTrial(position, network, trial), pool)
        (history.troubled if _has_failed(trial) else succeeded).add(network.id)
    recent = SETTINGS.max_unfinished
    history.failed = [past for past in history.failed if past.network.id not in succeeded][-recent:]
    history.stopped, history.pending = history.stopped[-recent:], history.pending[-recent:]
    return history


def _add(history: History, past: PastTrial, pool: CandidatePool) -> None:
    """Add a trial to the list of its state. One without costs (infeasible or incomplete) counts only if it finished."""
    failed = _has_failed(past.trial)
    if past.trial.state == TrialState.COMPLETE and not failed:
        history.finished.append(past)
        history.losses.append([sign * value for sign, value in zip(pool.signs, past.trial.values, strict=True)])
    elif len(past.network.costs) < len(pool.cost_objectives):
        return
    elif failed:
        history.failed.append(past)
    elif past.trial.state in UNDER_WAY:
        history.pending.append(past)
    elif learning_curve(past.trial):
        history.stopped.append(past)


def _is_forecast(trial: FrozenTrial) -> bool:
    """Whether it was pruned at step 0, before any training, so that its network may still get a trial."""
    return trial.state == TrialState.PRUNED and max(learning_curve(trial), default=1) == 0


def _has_failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL or not all(map(math.isfinite, trial.values or ()))


def learning_curve(trial: FrozenTrial) -> dict[int, float]:
    """Step → value that the trial reported, where it is finite."""
    reports = trial.intermediate_values.items() or trial.user_attrs.get(LEARNING_CURVE, ())
    try:
        curve = {int(step): float(value) for step, value in reports}
    except (TypeError, ValueError):
        return {}  # another program's attribute of the same name
    return {step: value for step, value in curve.items() if math.isfinite(value)}


def store_proposal(study: Study, trial: FrozenTrial, params: Mapping[str, Any], pool: CandidatePool) -> None:
    """Store the proposed parameters on the trial at once, so that concurrent samplers see them."""
    internal = {name: of.to_internal_repr(params[name]) for name, of in pool.encoding.distributions.items()}
    study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, internal)  # noqa: SLF001 as Optuna's samplers do


def store_expectation(
    study: Study, trial: FrozenTrial, *, growth: float | None, predicted: Sequence[float] | None, repeat: bool
) -> None:
    """Store what is expected of a trial, if anything is, and whether it tries a network again."""
    for name, value in ((GROWTH, growth), (PREDICTED, predicted and list(predicted)), (REPEAT, repeat or None)):
        if value is not None:
            study._storage.set_trial_system_attr(trial._trial_id, name, value)  # noqa: SLF001 as Optuna's samplers do


def is_repeat(trial: Trial) -> bool:
    """Whether the sampler chose to try the network of an asked trial again."""
    return REPEAT in _stored(trial)


class Expectation(NamedTuple):
    """What a surrogate expected of a trial."""

    growth: float
    """The share by which it makes the front's hypervolume grow."""
    mean: float
    """The value to be measured of the first objective that needs training."""
    deviation: float
    """Its standard deviation."""

    def surprise(self, value: float) -> float:
        """How far a value lies above the mean, in standard deviations."""
        return (value - self.mean) / self.deviation


def expectation(trial: Trial) -> Expectation | None:
    """What was expected of an asked trial; None if no surrogate chose it."""
    growth, predicted = (_stored(trial).get(name) for name in (GROWTH, PREDICTED))
    return None if growth is None or predicted is None else Expectation(growth, *predicted)


def _stored(trial: Trial) -> dict[str, Any]:
    """The system attributes of an asked trial."""
    attributes: dict[str, Any] = trial.study._storage.get_trial(trial._trial_id).system_attrs  # noqa: SLF001
    return attributes


def _params(trial: FrozenTrial, pool: CandidatePool) -> dict[str, Any]:
    """The parameters of a trial: those suggested so far, and those proposed or enqueued for it."""
    distributions = pool.encoding.distributions
    if trial.params.keys() >= distributions.keys():
        return dict(trial.params)
    proposed: dict[str, Any] = {}
    for name, value in trial.system_attrs.get(PROPOSED, {}).items():
        distribution = distributions.get(name)
        if distribution is not None and distribution._contains(value):  # noqa: SLF001
            proposed[name] = distribution.to_external_repr(value)
    return {**proposed, **trial.system_attrs.get("fixed_params", {}), **trial.params}


def as_rows(values: Sequence[Any], num_columns: int) -> Floats:
    """A two-dimensional array with one row per value, even if there are no values."""
    return np.array(values, float).reshape(len(values), num_columns)
