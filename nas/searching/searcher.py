"""Ray Tune's searcher: it gives Ray the next network to train, and logs what each trial reports.

It wraps an Optuna study, so that Ray runs the trials and any Optuna sampler proposes them. `tuner.py` runs it.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final

from pydantic import TypeAdapter
from ray.tune.search import Searcher

from nas.errors import NasError
from nas.records import parse
from nas.runs.trial import Outcome, Reason, Status
from nas.searching.replay import replay
from nas.searching.state import ActiveTrial, SearchState
from nas.searching.warm_start import reused_starts
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

OUTCOME: Final = TypeAdapter(Outcome)
SILENT_SECONDS: Final = 600.0  # without a report, after which the log says so
SILENT_FACTOR: Final = 10.0  # ... or so many times the longest silence before
EPOCH_FIELDS = tuple(field.name for field in fields(Epoch))


class ArchitectureSearcher(Searcher):
    """Gives Ray feasible networks without duplicates, and logs their trials."""

    def __init__(self, state: SearchState, *, workers: int) -> None:
        """Restore the state from the run's earlier sessions; at most `workers` trials run at a time."""
        super().__init__()
        self.state = state
        self.workers = workers
        self.failure: Exception | None = None  # the first fatal error; Ray swallows exceptions here, so the driver re-raises it
        self.pending: dict[str, ActiveTrial] = {}  # by Ray's trial id
        self._warnings: set[str] = set()
        self._longest_silence = 0.0  # seconds between two reports of a trial
        plan = state.session.plan
        replay(state)
        self._baselines = deque((name, point) for name, point in plan.baselines.items() if point.id not in state.proposer.seen)
        starts = [*reused_starts(plan.problem.space, plan.reused.values()), *plan.starts]
        state.proposer.enqueue_starts(starts, plan.feasibility)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles searchers to resume a search, but here the run folder holds the state."""
        return {}

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002 - Ray's
        """True: the searcher itself limits the number of concurrent trials."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next network for Ray to run; None if Ray should ask again later; FINISHED if there is none."""
        if self.failure is not None or self.state.interrupted.is_set():
            return Searcher.FINISHED
        if len(self.pending) >= self.workers:
            return None
        pending = None
        with self._keeping_failure():
            pending = self.state.waiting.popleft() if self.state.waiting else self._new()
        if pending is None:  # a running trial may have to start again
            return None if self.pending and self.failure is None else Searcher.FINISHED
        pending.started = pending.begun = None
        pending.overdue = pending.is_silent = False
        self.pending[trial_id] = pending
        costs = None if pending.optuna_trial is None else self.state.session.plan.problem.cost_losses(pending.point)
        return {"trial": pending.number, "network": pending.point.text, "costs": costs}

    def started(self, trial_id: str) -> None:
        """Note that a trial has its worker process."""
        if trial_id in self.pending:
            self.pending[trial_id].started = self.pending[trial_id].heard = time.monotonic()

    def record(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Log a trial's report: its begin, an epoch or its outcome, and the warnings of its worker process, each text once."""
        pending = self.pending.get(trial_id)
        if pending is None or self.failure is not None:
            return
        self._hear(pending)
        for text in result.get("warnings", "").splitlines():
            if text not in self._warnings:
                logger.warning("trial %d: %s", pending.number, text)
            self._warnings.add(text)
        if "outcome" in result:
            self._end(trial_id, parse(OUTCOME, result["outcome"], "the worker's report"))
        elif "epoch" in result:
            with self._keeping_failure():
                self.state.epoch(pending, Epoch(**{name: result[name] for name in EPOCH_FIELDS}))
        elif "begun" in result:
            pending.begun = time.monotonic()

    def overdue(self) -> Iterator[str]:
        """Ray's ids of the trials whose worker process is to be killed, each once: they have had more than their time.

        Logs a trial whose worker process has been silent for long; without a timeout it continues.
        """
        timeout = self.state.session.experiment.trial_timeout
        for trial_id, pending in self.pending.items():
            if pending.seconds_over(timeout) > 0 and not pending.overdue:
                pending.overdue = True
                yield trial_id
            silent = 0.0 if pending.started is None else time.monotonic() - pending.heard
            if silent > max(SILENT_SECONDS, SILENT_FACTOR * self._longest_silence) and not pending.is_silent:
                pending.is_silent = True
                hint = "its worker process may hang; --trial-timeout ends such trials"
                logger.warning("trial %d has not reported for %.0f min: %s", pending.number, silent / 60, hint)

    def on_trial_complete(  # the signature is Ray's
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Log a stopped trial. If a trial ends by an error, `lost` or `fail` handles it."""
        if not error and trial_id in self.pending and not self.state.interrupted.is_set():
            self._end(trial_id, Outcome(status=Status.STOPPED))

    def lost(self, trial_id: str, node: str | None, alive: Collection[str], *, reason: Reason, cause: str) -> None:
        """Restart a trial whose worker process died on a node, or end it if that has happened too often.

        `alive` are the nodes that Ray still reaches. The reason is oom if the process was killed for its memory use, else crash;
        `cause` says why it died.
        """
        pending = self.pending.get(trial_id)
        if pending is None or self.failure is not None or self.state.interrupted.is_set():
            return
        pending.lost_nodes.append(node)
        failure = pending.failure(alive, reason, cause=cause, timeout=self.state.session.experiment.trial_timeout)
        if failure is not None:
            self._end(trial_id, failure)
            return
        with self._keeping_failure():
            self.state.log.retry(pending.number, retries=len(pending.lost_nodes), crashes=pending.crashes(alive))
            logger.info("trial %d starts again: its worker process or machine was lost (%s)", pending.number, cause)
            self.state.waiting.append(self.pending.pop(trial_id))

    def fail(self, trial_id: str, error: str) -> None:
        """End a trial with an error in our code or the user's, which would occur again."""
        if trial_id in self.pending and self.failure is None:
            self._end(trial_id, Outcome(status=Status.FAILED, reason=Reason.CRASH, error=error))

    def close(self) -> bool:
        """Log unfinished trials as interrupted; True if `resume` has work left."""
        left = [*self.pending.values(), *self.state.waiting]
        for pending in left:
            values = self.state.values_so_far(pending)
            self.state.log.interrupt(pending.number, epochs=len(pending.epochs), values=values)
        self.pending.clear()
        wanted = self.state.log.tally.ended < self.state.session.experiment.trials and not self.state.proposer.exhausted
        return bool(left or self._baselines) or wanted

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state. Ray calls this after every trial."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state."""

    def stop(self, error: NasError) -> None:
        """End the search for an error, the first of which the driver raises: no trial starts, running ones end their epochs."""
        self.failure = self.failure or error
        self.state.interrupted.set()

    def _hear(self, pending: ActiveTrial) -> None:
        """Note that a trial has just reported."""
        now = time.monotonic()
        self._longest_silence = max(self._longest_silence, now - pending.heard)
        pending.heard, pending.is_silent = now, False

    def _new(self) -> ActiveTrial | None:
        """The next new trial, baselines first; None if the search is over."""
        state = self.state
        if self._baselines:
            name, point = self._baselines.popleft()
            return state.begin(point, source="reference", name=name)
        begun = state.log.tally.ended + sum(pending.optuna_trial is not None for pending in self.pending.values())
        while begun < state.session.experiment.trials and not state.proposer.exhausted:
            proposal = state.proposer.ask()
            if proposal is None:
                logger.warning("no other feasible network was found; the search ends early")
                return None
            optuna_trial, point = proposal
            reused = state.session.plan.reused.get(point.id)
            if reused is None:
                start = optuna_trial.user_attrs
                return state.begin(point, source=start.get("source", "search"), name=start.get("name"), optuna_trial=optuna_trial)
            pending = state.begin(point, source="reuse", name=reused.name, optuna_trial=optuna_trial)
            state.end(pending, reused.outcome, weights=reused.weights, reused=True)
        return None

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        """Log a trial's outcome; a disk that cannot be written ends the search instead, and the trial is tried again."""
        if outcome.is_disk_fault:
            error = (outcome.error or "").removeprefix("NasError: ")
            self.stop(NasError(f"trial {self.pending[trial_id].number}: {error}"))
            return
        with self._keeping_failure():
            self.state.end(self.pending.pop(trial_id), outcome)

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        """Keeps a NasError from the log or the user's code, which ends the search."""
        try:
            yield
        except NasError as error:
            self.stop(error)
