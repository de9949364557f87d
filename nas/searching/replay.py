"""Restores a run's state from its earlier sessions: ended trials, and those to continue."""

from collections.abc import Mapping
from dataclasses import replace

from nas.errors import NasError, user_code
from nas.models.network import parse_network
from nas.runs.trial import ENDED, UNDER_WAY, Outcome, Reason, Status, Trial, Weights
from nas.sampler.settings import LEARNING_CURVE
from nas.searching.early_stopping import Traits
from nas.searching.phases import can_continue
from nas.searching.problem import Point
from nas.searching.state import ActiveTrial, SearchState
from nas.searching.warm_start import examine_in_space

Epochs = Mapping[int, Mapping[int, float]]  # trial → epoch → top-1 after it


def replay(state: SearchState) -> None:
    """Restore the counts, Optuna's study, the front and the early stopping; queue the trials that had not ended.

    Raises: NasError if the space now decodes parameters to other networks.
    """
    epochs: dict[int, dict[int, float]] = {}
    for number, epoch in state.session.history:
        epochs.setdefault(number, {})[epoch.epoch] = epoch.val_top1_pct
    points: dict[int, Point] = {}  # of the trainings that early stopping compares
    if state.weights is Weights.TRAINED:
        state.scores |= _scores(state)
    for logged in state.session.past:
        if logged.status is Status.DUPLICATE:
            state.log.tally.count(logged.status)
            continue
        point = _point(state, logged)
        trial = _added(state, logged, point)
        if trial.number is not None and not trial.is_baseline and trial.weights is Weights.TRAINED and trial.seed is None:
            points[trial.number] = point
        if trial.status in UNDER_WAY:
            _continue(state, trial, point, epochs)
            continue
        _add_to_front(state, trial, point)
        if not trial.is_baseline:
            _add_to_study(state, trial, point, epochs)
    for trial in state.session.past:  # a driver may have been killed between writing an outcome and keeping its weights
        if trial.number is not None and (trial.status in ENDED if not trial.is_baseline else trial.status is Status.DONE):
            state.front_weights.collect(trial.number, again=True)
    for number, epoch in state.session.history:
        if number in points:
            problem, point = state.session.plan.problem, points[number]
            traits = Traits(costs=problem.cost_losses(point), settings=problem.setting_numbers(point), feasible=point.feasible)
            state.stopping.add(number, epoch.epoch, epoch.val_top1_pct, val_images=epoch.val_images, traits=traits)
    if state.session.past:
        state.update_beliefs(at_once=True)


def _point(state: SearchState, trial: Trial) -> Point:
    """The network of an earlier trial, compared with this session's limits."""
    problem = state.session.plan.problem
    if trial.is_baseline:
        assert trial.architecture is not None
        return examine_in_space(problem, parse_network(trial.architecture))
    point = problem.examine({name: trial.params[name] for name in problem.space.parameters if name in trial.params})
    if point.id != trial.id:
        raise NasError(
            f"space {problem.space.name} has changed: parameters that meant architecture {trial.id} now mean {point.id}; begin a "
            f"new run, with --reuse {state.session.run}"
        )
    return point


def _scores(state: SearchState) -> dict[str, float]:
    """Network → its top-1 by shared weights."""
    objective = state.session.plan.problem.trained[0]
    scored = [one for one in state.session.past if one.weights is Weights.SHARED and one.status is Status.DONE]
    return {one.id: one.values[objective.name] for one in scored}


def _added(state: SearchState, trial: Trial, point: Point) -> Trial:
    """The trial with costs that a new limit needs; its network is not proposed again. A skipped proposal is as it was."""
    if trial.number is None:
        return trial
    state.next_number = max(state.next_number, trial.number + 1)
    if trial.is_baseline and point.in_space:
        state.front_weights.pinned.add(trial.number)
    if not point.values.items() <= trial.values.items():  # a new limit's objective was not measured before
        state.log.measured(trial.number, point.values)
        trial = replace(trial, values={**trial.values, **point.values})
    state.add(trial)
    return trial


def _continue(state: SearchState, trial: Trial, point: Point, epochs: Epochs) -> None:
    """Queue a trial that had not ended; end it if it is now infeasible, or if another run has its outcome."""
    assert trial.number is not None
    if not can_continue(trial, state.session.experiment):
        return
    is_choice = trial.weights == state.weights and not trial.is_baseline and trial.from_trial is None
    pending = ActiveTrial(
        number=trial.number,
        point=point,
        weights=trial.weights,
        optuna_trial=state.proposer.enqueue(dict(point.params))[0] if is_choice else None,
        from_trial=trial.from_trial,
        name=trial.name if trial.is_baseline else None,
        seed=trial.seed,
        epochs=dict(epochs.get(trial.number, {})),
        lost_nodes=[None] * trial.crashes,  # earlier sessions did not record the nodes
    )
    reused = state.session.plan.reused.get(point.id)
    if not (trial.is_baseline or point.feasible):
        state.end(pending, Outcome(status=Status.STOPPED, reason=Reason.LIMIT))
    elif reused is not None and is_choice and trial.seed is None:
        state.end(pending, reused.outcome, weights=reused.weights, reused=True)
    else:
        state.log.resume(trial)
        state.waiting.append(pending)


def _add_to_front(state: SearchState, trial: Trial, point: Point) -> None:
    """Add a trial to the front if it is done, feasible and not dominated."""
    losses = state.session.plan.problem.losses(trial.values)
    if trial.status is Status.DONE and point.feasible and losses is not None and trial.number is not None:
        state.front_weights.add(trial.number, losses)


def _add_to_study(state: SearchState, trial: Trial, point: Point, epochs: Epochs) -> None:
    """Add an ended trial or an infeasible proposal to Optuna's study, whose trials all have the same kind of weights.

    In a search by trainings, a score of an earlier session is a trial that stopped after epoch 0.
    """
    status, is_own = trial.status, trial.number is None or trial.weights == state.weights
    if is_own and trial.from_trial is None:
        reason = None if trial.outcome is None else trial.outcome.reason
        state.log.tally.count(status, reason=reason, reused=trial.reused)
    if status is Status.INFEASIBLE:
        state.proposer.infeasible.add(point.id)
    if not is_own:
        if trial.weights is not Weights.SHARED or trial.id not in state.scores:
            return
        status = Status.STOPPED
    curve = [] if trial.number is None else state.learned_curve(trial, epochs.get(trial.number, {}))
    with user_code(f"space {state.session.plan.problem.space.name} has changed: a trial of {state.session.run}"):
        values = state.study_values(trial) if is_own else None
        state.proposer.add_past_trial(point, status, values, {LEARNING_CURVE: curve} if curve else {})
