"""What a session of a search works with, and how a trial begins and ends in it."""

import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

import optuna

from nas.runs.study import create_study
from nas.runs.trial import Outcome, Reason, Status, Trial
from nas.sampler.settings import LEARNING_CURVE
from nas.searching.early_stopping import Halving
from nas.searching.front_weights import Keeper
from nas.searching.plan import Session
from nas.searching.problem import Point
from nas.searching.proposals import Proposer
from nas.searching.samplers import make_sampler
from nas.searching.storage import TrialFolder
from nas.searching.trial_writer import TrialLog
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

CRASHES: Final = 2  # of the worker process, after which a network is given up
NODE_LOSSES: Final = 4  # after which a trial is given up


@dataclass(slots=True, kw_only=True)
class Pending:
    """A trial under way, or to be continued."""

    number: int
    """In the order of proposal, from 0."""
    point: Point
    asked: optuna.Trial | None = None
    """Optuna's; None for a baseline, which nobody proposed."""
    name: str | None = None
    """Of a baseline."""
    epochs: dict[int, float] = field(default_factory=dict)
    """Epoch → top-1 after it."""
    lost_on: list[str | None] = field(default_factory=list)
    """The machine on which each of its worker processes died, where it is known."""
    started: float = 0.0
    """When Ray was last given it, by the monotonic clock."""

    def crashes(self, alive: Collection[str]) -> int:
        """How often its process was lost and not its machine, which may show later: those `alive` are."""
        return sum(where is None or where in alive for where in self.lost_on)

    def failure(self, alive: Collection[str], reason: Reason, *, timeout: float) -> Outcome | None:
        """The failure as which it ends now that its process was lost again; None if it begins again.

        A worker ends itself after `timeout` seconds, which this clock, being set earlier, has passed by then.
        """
        crashes = self.crashes(alive)
        if time.monotonic() - self.started >= timeout:
            return Outcome(status=Status.FAILED, reason=Reason.TIMEOUT, error=f"not done after {timeout:g} s")
        if len(self.lost_on) - crashes == NODE_LOSSES:
            return Outcome(status=Status.FAILED, reason=Reason.NODE, error=f"its machine was lost, {NODE_LOSSES} times")
        if crashes == CRASHES:
            why = " for lack of memory" if reason is Reason.OOM else ""
            return Outcome(status=Status.FAILED, reason=reason, error=f"the worker process died{why}")
        return None


@dataclass(slots=True, kw_only=True)
class SearchState:
    """What the searcher and the replay of earlier sessions share."""

    session: Session
    proposer: Proposer
    log: TrialLog
    keeper: Keeper
    halving: Halving
    interrupted: Event = field(default_factory=Event)
    """Set by Ctrl-C: no more trials, and those under way stop after their epoch."""
    next_number: int = 0
    waiting: deque[Pending] = field(default_factory=deque)
    """Trials to be continued, before anything new begins."""

    def begin(self, point: Point, *, source: str, name: str | None, asked: optuna.Trial | None = None) -> Pending:
        """A new trial, written to the log."""
        pending = Pending(number=self.next_number, point=point, asked=asked, name=name if asked is None else None)
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
                is_baseline=asked is None,
            )
        )
        self.next_number += 1
        self.proposer.seen[point.id] = pending.number
        if asked is None and point.in_space:
            self.keeper.pinned.add(pending.number)
        return pending

    def epoch(self, pending: Pending, epoch: Epoch) -> None:
        """Log an epoch of a trial, once."""
        if epoch.epoch not in pending.epochs:
            pending.epochs[epoch.epoch] = epoch.val_top1_pct
            self.log.epoch(pending.number, epoch)

    def values_so_far(self, pending: Pending) -> dict[str, float]:
        """What is known of a trial before its end."""
        values = dict(pending.point.values)
        curve = self.curve(pending.epochs)
        return values | ({self.session.plan.problem.trained[0].name: curve[-1][1]} if curve else {})

    def curve(self, epochs: Mapping[int, float]) -> list[tuple[int, float]]:
        """Epochs and the values after them of the objective that needs training, if that is what epochs tell."""
        return sorted(epochs.items()) if self.session.experiment.has_learning_curve else []

    def end(self, pending: Pending, outcome: Outcome, *, weights: Path | None = None, reused: bool = False) -> None:
        """Write the outcome of a trial to the log, keep its weights (from `weights` if they are there), and tell Optuna."""
        for epoch in outcome.history:  # trained, but not reported before the worker died
            self.epoch(pending, epoch)
        failed = outcome.status is Status.FAILED
        values = dict(pending.point.values) if failed else self.values_so_far(pending) | dict(outcome.values)
        outcome = replace(outcome, values=values, history=(), epochs=outcome.epochs or len(pending.epochs))
        self.log.end(pending.number, outcome, reused=reused)
        if outcome.status is Status.DONE:
            losses = self.session.plan.problem.losses(values) if pending.point.feasible else None
            self.keeper.done(pending.number, losses, weights=weights)
        else:
            self.keeper.ended(pending.number)
        if pending.asked is not None:
            if curve := self.curve(pending.epochs):
                pending.asked.set_user_attr(LEARNING_CURVE, curve)
            objectives = [one.name for one in self.session.plan.problem.objectives]
            told = [values[name] for name in objectives] if outcome.status is Status.DONE else None
            self.proposer.tell(pending.asked, outcome.status, told)
            self.log.tally.count(outcome.status, reason=outcome.reason, reused=reused)
        logger.info("%s", self._summary(pending, outcome, reused=reused))

    def _summary(self, pending: Pending, outcome: Outcome, *, reused: bool) -> str:
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
        if pending.asked is None:
            return f"baseline {pending.name} {outcome.status}: {result}"
        if reused:
            return f"trial {pending.number} reused: {result}"
        return f"{tally.ended}/{experiment.trials} trial {pending.number} {outcome.status}{after}: {result}"


def make_state(session: Session) -> SearchState:
    """The state of a session before anything is replayed or proposed."""
    experiment, problem = session.experiment, session.plan.problem
    sampler = make_sampler(experiment.sampler, problem, seed=experiment.seed, session=session.number)
    log = TrialLog(run=session.run)
    directions = {objective.name: objective.direction for objective in problem.objectives}
    study = create_study(directions, name=session.run.name, sampler=sampler)
    return SearchState(
        session=session,
        proposer=Proposer(problem, study, log, seed=experiment.seed),
        log=log,
        keeper=Keeper(
            run=session.run,
            folder=partial(TrialFolder.of, session.storage),
            keep_all=experiment.keep_all,
            trained=bool(problem.trained),
        ),
        halving=Halving(epochs=experiment.train.epochs),
    )
