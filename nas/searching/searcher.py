"""What Ray Tune asks and tells: which network to run next, and what became of it.

A Ray Tune Searcher around an Optuna study, so that Ray runs the trials and any of Optuna's samplers proposes them. Read
`tuner.py` next for how the two are run.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from ray.tune.search import Searcher

from nas.errors import NasError
from nas.runs.trial import Outcome, Reason, Status
from nas.searching.replay import replay
from nas.searching.state import Pending, SearchState
from nas.searching.warm_start import reused_starts
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

EPOCH_FIELDS = tuple(field.name for field in fields(Epoch))


class ArchitectureSearcher(Searcher):
    """Gives Ray networks that are feasible and were never proposed before, and logs what became of them."""

    def __init__(self, state: SearchState, *, workers: int) -> None:
        """Continue what earlier sessions of the run left; `workers` trials run at a time."""
        super().__init__()
        self.state = state
        self.workers = workers
        self.failure: Exception | None = None  # the first fatal error; Ray swallows exceptions here, so the driver re-raises it
        self.pending: dict[str, Pending] = {}  # by Ray's trial id
        plan = state.session.plan
        replay(state)
        self._baselines = deque((name, point) for name, point in plan.baselines.items() if point.id not in state.proposer.seen)
        starts = [*reused_starts(plan.problem.space, plan.reused.values()), *plan.starts]
        state.proposer.begin_with(starts, plan.feasibility)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles searchers to resume from, and here the run folder holds the state."""
        return {}

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002 - Ray's
        """Whether the searcher itself keeps to the number of trials at a time: yes."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next network for Ray to run, None for not now, or FINISHED."""
        if self.failure is not None or self.state.interrupted.is_set():
            return Searcher.FINISHED
        if len(self.pending) >= self.workers:
            return None
        pending = None
        with self._failing():
            pending = self.state.waiting.popleft() if self.state.waiting else self._new()
        if pending is None:  # one under way may have to begin again
            return None if self.pending and self.failure is None else Searcher.FINISHED
        pending.started = time.monotonic()
        self.pending[trial_id] = pending
        costs = None if pending.asked is None else self.state.session.plan.problem.cost_losses(pending.point)
        return {"trial": pending.number, "network": pending.point.text, "costs": costs}

    def record(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Log what a trial reports: an epoch, or its outcome."""
        if trial_id not in self.pending or self.failure is not None:
            return
        if "outcome" in result:
            self._end(trial_id, Outcome.from_record(json.loads(result["outcome"])))
        elif "epoch" in result:
            with self._failing():
                self.state.epoch(self.pending[trial_id], Epoch(**{name: result[name] for name in EPOCH_FIELDS}))

    def on_trial_complete(  # the signature is Ray's
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Log that a trial was stopped; of one with an error, `lost` or `fail` gives the reason next."""
        if not error and trial_id in self.pending and not self.state.interrupted.is_set():
            self._end(trial_id, Outcome(status=Status.STOPPED))

    def lost(self, trial_id: str, node: str | None, alive: Collection[str], *, reason: Reason) -> None:
        """A trial's worker process died, on a machine that is among those `alive` or was lost too: it begins again, or not.

        The reason is crash, or oom where the system ended it as it took too much memory.
        """
        pending = self.pending.get(trial_id)
        if pending is None or self.failure is not None or self.state.interrupted.is_set():
            return
        pending.lost_on.append(node)
        failure = pending.failure(alive, reason, timeout=self.state.session.experiment.trial_timeout)
        if failure is not None:
            self._end(trial_id, failure)
            return
        with self._failing():
            self.state.log.retry(pending.number, retries=len(pending.lost_on), crashes=pending.crashes(alive))
            logger.info("trial %d begins again: the worker process died, or its machine was lost", pending.number)
            self.state.waiting.append(self.pending.pop(trial_id))

    def fail(self, trial_id: str, error: str) -> None:
        """A trial ended with an error of ours, or of what was sent with it: it would end so again."""
        if trial_id in self.pending and self.failure is None:
            self._end(trial_id, Outcome(status=Status.FAILED, reason=Reason.CRASH, error=error))

    def close(self) -> bool:
        """Log the trials that have not ended as interrupted. Whether the session ended early, so that `resume` has work left."""
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

    def _new(self) -> Pending | None:
        """A trial that begins now, baselines first; None if there is to be none."""
        state = self.state
        if self._baselines:
            name, point = self._baselines.popleft()
            return state.begin(point, source="reference", name=name)
        begun = state.log.tally.ended + sum(pending.asked is not None for pending in self.pending.values())
        while begun < state.session.experiment.trials and not state.proposer.exhausted:
            proposal = state.proposer.ask()
            if proposal is None:
                logger.warning("no further network was found that meets the limits and is new; the search ends early")
                return None
            asked, point = proposal
            reused = state.session.plan.reused.get(point.id)
            if reused is None:
                start = asked.user_attrs
                return state.begin(point, source=start.get("source", "search"), name=start.get("name"), asked=asked)
            pending = state.begin(point, source="reuse", name=reused.name, asked=asked)
            state.end(pending, reused.outcome, weights=reused.weights, reused=True)
        return None

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        with self._failing():
            self.state.end(self.pending.pop(trial_id), outcome)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """An error of the log or of a user's file ends the search; the driver raises it."""
        try:
            yield
        except NasError as error:
            self.failure = error
