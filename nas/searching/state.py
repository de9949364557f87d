"""The state of a search session, and what begins and ends a trial in it."""

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

import optuna

from nas.runs.optuna_study import create_study
from nas.runs.trial import Outcome, Reason, Status, Trial, Weights
from nas.sampler.settings import LEARNING_CURVE
from nas.searching.checkpoint_storage import TrialFolder
from nas.searching.early_stopping import SuccessiveHalving
from nas.searching.front_weights import FrontWeights
from nas.searching.plan import Session
from nas.searching.problem import Point
from nas.searching.proposals import Proposer
from nas.searching.samplers import make_sampler
from nas.searching.trial_writer import TrialLog
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

MAX_CRASHES: Final = 2  # a trial fails when its worker process has died this many times
MAX_NODE_LOSSES: Final = 4  # a trial fails when it has lost its machine this many times
START_SECONDS: Final = 600.0  # of a worker process, before it trains; it imports torch, on a busy or remote disk


@dataclass(slots=True, kw_only=True)
class ActiveTrial:
    """A trial that runs or waits to continue."""

    number: int
    """In the order of proposal, from 0."""
    point: Point
    optuna_trial: optuna.Trial | None = None
    """None for a baseline, which Optuna did not propose."""
    name: str | None = None
    """The name of a baseline, else None."""
    epochs: dict[int, float] = field(default_factory=dict)
    """Epoch → top-1 after it."""
    lost_nodes: list[str | None] = field(default_factory=list)
    """The node of each worker process that died, None if unknown."""
    started: float | None = None
    """When its worker process was last there, by the monotonic clock; None until then."""
    begun: float | None = None
    """When it last began to train; before, its process imports what it needs."""
    heard: float = 0.0
    """When it last reported."""
    overdue: bool = False
    """Whether its process is killed for taking too long."""
    is_silent: bool = False
    """Whether the log says that its worker process has been silent."""

    def crashes(self, alive: Collection[str]) -> int:
        """The number of worker processes that died on a node that is still alive, or is unknown."""
        return sum(where is None or where in alive for where in self.lost_nodes)

    def seconds_over(self, timeout: float) -> float:
        """The seconds beyond its time: `timeout`, which counts from the begin of its training; at least START_SECONDS before."""
        if self.begun is not None:
            return time.monotonic() - self.begun - timeout
        return -math.inf if self.started is None else time.monotonic() - self.started - max(timeout, START_SECONDS)

    def failure(self, alive: Collection[str], reason: Reason, *, cause: str, timeout: float) -> Outcome | None:
        """Its failure if it took too long or has lost too many worker processes; None if it starts again.

        `cause` says why the last worker process died.
        """
        crashes = self.crashes(alive)
        if self.overdue and self.begun is not None:
            return Outcome(status=Status.FAILED, reason=Reason.TIMEOUT, error=f"not done after {timeout:g} s")
        if self.overdue:
            cause = f"it did not begin within {max(timeout, START_SECONDS):g} s"
        if len(self.lost_nodes) - crashes == MAX_NODE_LOSSES:
            return Outcome(status=Status.FAILED, reason=Reason.NODE, error=f"its machine was lost, {MAX_NODE_LOSSES} times")
        if crashes == MAX_CRASHES:
            return Outcome(status=Status.FAILED, reason=reason, error=f"the worker process died ({cause})")
        return None


@dataclass(slots=True, kw_only=True)
class SearchState:
    """The state that the searcher and the replay of earlier sessions share."""

    session: Session
    proposer: Proposer
    log: TrialLog
    front_weights: FrontWeights
    halving: SuccessiveHalving
    interrupted: Event = field(default_factory=Event)
    """Set by Ctrl-C: no trial starts, and running ones stop after their epoch."""
    next_number: int = 0
    waiting: deque[ActiveTrial] = field(default_factory=deque)
    """Trials to continue before new ones start."""

    def begin(self, point: Point, *, source: str, name: str | None, optuna_trial: optuna.Trial | None = None) -> ActiveTrial:
        """Start a new trial and log it."""
        pending = ActiveTrial(
            number=self.next_number, point=point, optuna_trial=optuna_trial, name=name if optuna_trial is None else None
        )
        self.log.start(
            Trial(
                number=pending.number,
                id=point.id,
                status=Status.RUNNING,
                params=point.params,
                values=point.values,
                architecture=point.text,
                source=source,
                name=name,
                weights=Weights.TRAINED if self.session.plan.problem.trained else None,
                is_baseline=optuna_trial is None,
            )
        )
        self.next_number += 1
        self.proposer.seen[point.id] = pending.number
        if optuna_trial is None and point.in_space:
            self.front_weights.pinned.add(pending.number)
        return pending

    def epoch(self, pending: ActiveTrial, epoch: Epoch) -> None:
        """Log an epoch of a trial, once."""
        if epoch.epoch not in pending.epochs:
            pending.epochs[epoch.epoch] = epoch.val_top1_pct
            self.log.epoch(pending.number, epoch)

    def values_so_far(self, pending: ActiveTrial) -> dict[str, float]:
        """A trial's values before its end: its costs, and the last epoch's accuracy."""
        values = dict(pending.point.values)
        curve = self.curve(pending.epochs)
        return values | ({self.session.plan.problem.trained[0].name: curve[-1][1]} if curve else {})

    def curve(self, epochs: Mapping[int, float]) -> list[tuple[int, float]]:
        """(epoch, value) pairs of the trained objective; empty if epochs do not measure it."""
        return sorted(epochs.items()) if self.session.experiment.has_learning_curve else []

    def end(self, pending: ActiveTrial, outcome: Outcome, *, weights: Path | None = None, reused: bool = False) -> None:
        """Log a trial's outcome, keep its weights (from `weights` if given) if it is on the front, and report it to Optuna."""
        for epoch in outcome.history:  # epochs that the worker trained but did not report
            self.epoch(pending, epoch)
        failed = outcome.status is Status.FAILED
        values = dict(pending.point.values) if failed else self.values_so_far(pending) | dict(outcome.values)
        outcome = replace(outcome, values=values, history=(), epochs=outcome.epochs or len(pending.epochs))
        self.log.end(pending.number, outcome, reused=reused)
        if outcome.status is Status.DONE:
            losses = self.session.plan.problem.losses(values) if pending.point.feasible else None
            self.front_weights.done(pending.number, losses, weights=weights)
        else:
            self.front_weights.ended(pending.number)
        if pending.optuna_trial is not None:
            if curve := self.curve(pending.epochs):
                pending.optuna_trial.set_user_attr(LEARNING_CURVE, curve)
            objectives = [one.name for one in self.session.plan.problem.objectives]
            objective_values = [values[name] for name in objectives] if outcome.status is Status.DONE else None
            self.proposer.tell(pending.optuna_trial, outcome.status, objective_values)
            self.log.tally.count(outcome.status, reason=outcome.reason, reused=reused)
        logger.info("%s", self._summary(pending, outcome, reused=reused))

    def _summary(self, pending: ActiveTrial, outcome: Outcome, *, reused: bool) -> str:
        """The log line of a trial that has ended."""
        experiment, tally = self.session.experiment, self.log.tally
        names = [one.name for one in experiment.objectives if one.name in outcome.values]
        result = ", ".join(f"{name} {outcome.values[name]:.4g}" for name in names)
        after = ""
        if outcome.status is Status.FAILED:
            result = f"{outcome.reason}, {outcome.error}"
        if outcome.status is Status.STOPPED:
            epochs = f" after epoch {len(pending.epochs)} of {experiment.train.epochs}"
            after = " by a limit" if outcome.reason is Reason.LIMIT else epochs
        if pending.optuna_trial is None:
            return f"baseline {pending.name} {outcome.status}: {result}"
        if reused:
            return f"trial {pending.number} reused: {result}"
        return f"{tally.ended}/{experiment.trials} trial {pending.number} {outcome.status}{after}: {result}"


def make_state(session: Session) -> SearchState:
    """The state of a session before its replay and its first proposal."""
    experiment, problem = session.experiment, session.plan.problem
    sampler = make_sampler(experiment.sampler, problem, seed=experiment.seed, session=session.number)
    log = TrialLog(run=session.run)
    directions = {objective.name: objective.direction for objective in problem.objectives}
    study = create_study(directions, name=session.run.name, sampler=sampler)
    return SearchState(
        session=session,
        proposer=Proposer(problem, study, log, seed=experiment.seed),
        log=log,
        front_weights=FrontWeights(
            run=session.run,
            folder=partial(TrialFolder.of, session.storage),
            keep_all=experiment.keep_all,
            trained=bool(problem.trained),
        ),
        halving=SuccessiveHalving(epochs=experiment.train.epochs),
    )
