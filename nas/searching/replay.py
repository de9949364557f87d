"""What earlier sessions of a run found, and the trials that they left, put into a new session."""

from collections.abc import Mapping

from nas.errors import NasError, user_code
from nas.models.network import parse_network
from nas.runs.trial import ENDED, UNDER_WAY, Outcome, Reason, Status, Trial
from nas.sampler.settings import LEARNING_CURVE
from nas.searching.early_stopping import Standing
from nas.searching.problem import Point
from nas.searching.state import Pending, SearchState
from nas.searching.warm_start import point_of

Epochs = Mapping[int, Mapping[int, float]]  # trial → epoch → top-1 after it


def replay(state: SearchState) -> None:
    """Count, tell and keep what earlier sessions found, and put what had not ended among the trials that wait.

    Raises: NasError if the space means other networks by the same parameters than it did.
    """
    epochs: dict[int, dict[int, float]] = {}
    for number, epoch in state.session.history:
        epochs.setdefault(number, {})[epoch.epoch] = epoch.val_top1_pct
    judged: dict[int, Point] = {}
    for trial in state.session.past:
        if trial.status is Status.DUPLICATE:
            state.log.tally.count(trial.status)
            continue
        point = _point(state, trial)
        if trial.number is not None:
            _note(state, trial, point)
            if not trial.is_baseline:
                judged[trial.number] = point
        if trial.status in UNDER_WAY:
            _continue(state, trial, point, epochs)
        elif trial.is_baseline:
            _keep(state, trial, point)
        else:
            _tell(state, trial, point, epochs)
    for trial in state.session.past:  # a driver may have been killed between writing an outcome and keeping its weights
        if trial.number is not None and (trial.status in ENDED if not trial.is_baseline else trial.status is Status.DONE):
            state.keeper.settle(trial.number)
    for number, epoch in state.session.history:
        if number in judged:
            costs = state.session.plan.problem.cost_losses(judged[number])
            state.halving.goes_on(number, epoch.epoch, Standing.of(epoch.val_top1_pct, epoch.val_images, costs))


def _point(state: SearchState, trial: Trial) -> Point:
    """The network of an earlier trial, held against the limits of today."""
    problem = state.session.plan.problem
    if trial.is_baseline:
        assert trial.architecture is not None
        return point_of(problem, parse_network(trial.architecture))
    point = problem.examine({name: trial.params[name] for name in problem.space.parameters if name in trial.params})
    if point.id != trial.id:
        raise NasError(
            f"space {problem.space.name} has changed: parameters that meant architecture {trial.id} now mean {point.id}; begin a "
            f"new run, with --reuse {state.session.run}"
        )
    return point


def _note(state: SearchState, trial: Trial, point: Point) -> None:
    """An earlier trial's network is proposed no more."""
    assert trial.number is not None
    state.next_number = max(state.next_number, trial.number + 1)
    state.proposer.seen[point.id] = trial.number
    if trial.is_baseline and point.in_space:
        state.keeper.pinned.add(trial.number)
    if not point.values.items() <= trial.values.items():  # a limit on something that was not measured before
        state.log.measured(trial.number, point.values)


def _continue(state: SearchState, trial: Trial, point: Point, epochs: Epochs) -> None:
    """A trial that had not ended waits to be continued, unless another run has its outcome or a limit now forbids it."""
    assert trial.number is not None
    pending = Pending(
        number=trial.number,
        point=point,
        asked=None if trial.is_baseline else state.proposer.enqueue(dict(point.params))[0],
        name=trial.name if trial.is_baseline else None,
        epochs=dict(epochs.get(trial.number, {})),
        lost_on=[None] * trial.crashes,  # where its processes died is no longer known
    )
    reused = state.session.plan.reused.get(point.id)
    if not (trial.is_baseline or point.feasible):
        state.end(pending, Outcome(status=Status.STOPPED, reason=Reason.LIMIT))
    elif reused is not None and not trial.is_baseline:
        state.end(pending, reused.outcome, weights=reused.weights, reused=True)
    else:
        state.log.resume(trial.number)
        state.waiting.append(pending)


def _keep(state: SearchState, trial: Trial, point: Point) -> None:
    """The weights of a finished trial stay if it is on the front."""
    losses = state.session.plan.problem.losses(trial.values)
    if trial.status is Status.DONE and point.feasible and losses is not None and trial.number is not None:
        state.keeper.note(trial.number, losses)


def _tell(state: SearchState, trial: Trial, point: Point, epochs: Epochs) -> None:
    """Optuna learns of a trial that ended, or of a proposal that was infeasible."""
    reason = None if trial.outcome is None else trial.outcome.reason
    state.log.tally.count(trial.status, reason=reason, reused=trial.reused)
    if trial.status is Status.INFEASIBLE:
        state.proposer.infeasible.add(point.id)
    curve = [] if trial.number is None else state.curve(epochs.get(trial.number, {}))
    objectives = state.session.plan.problem.objectives
    with user_code(f"space {state.session.plan.problem.space.name} has changed: a trial of {state.session.run}"):
        values = [trial.values[objective.name] for objective in objectives] if trial.status is Status.DONE else None
        state.proposer.tell_past(point, trial.status, values, {LEARNING_CURVE: curve} if curve else {})
    _keep(state, trial, point)
