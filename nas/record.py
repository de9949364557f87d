"""What a study tells a sampler that models its losses. Read `samplers.py` next."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.candidates import Candidates, Facts, Position
from nas.sampler_settings import CURVE, SETTINGS

PROPOSED: Final = "frontier:proposed"  # system attribute of a trial: what it was given, by name as storages have it
UNDER_WAY: Final = (TrialState.RUNNING, TrialState.WAITING)


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
