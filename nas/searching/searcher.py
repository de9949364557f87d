"""Ray Tune's searcher: it gives Ray the next network to train, and logs what each trial reports.

It wraps an Optuna study, so that Ray runs the trials and any Optuna sampler proposes them. `tuner.py` runs it.
"""

import logging
import math
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
from nas.runs.experiment import AUTO
from nas.runs.run_folder import read_experiment, write_experiment
from nas.runs.trial import Outcome, Reason, Status, Weights
from nas.searching.phases import (
    ORDER,
    Phase,
    front_phases,
    front_trainings,
    num_wanted,
    scored_front,
    scored_starts,
    work_left,
)
from nas.searching.replay import replay
from nas.searching.state import ActiveTrial, SearchState
from nas.searching.warm_start import reused_starts
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

OUTCOME: Final = TypeAdapter(Outcome)
IDLE_SECONDS: Final = 60.0  # without any trial that has a worker process, after which the log says so
SILENT_SECONDS: Final = 600.0  # without a report, after which the log says so
SILENT_FACTOR: Final = 10.0  # ... or so many times the longest silence before
NEAR_CHANCE: Final = 0.1  # of the way from chance to 100 %, above which shared weights have learned something
MAX_FAILED: Final = 20  # trials in a row that end a search with --trials auto, which no number of trials would end
MAX_BATCH: Final = 16  # scores that Ray runs as one trial of its own, as each of these costs it 0.14 s
EPOCH_FIELDS = tuple(field.name for field in fields(Epoch))


class ArchitectureSearcher(Searcher):
    """Gives Ray feasible networks, and logs their trials."""

    def __init__(self, state: SearchState, *, workers: int) -> None:
        """Restore the state from the run's earlier sessions; at most `workers` trials run at a time."""
        super().__init__()
        self.state = state
        self._stalled_after: int | None = None  # ended trials when only networks under way were left to train again
        self._failed_in_a_row = 0
        self.over = state.session.over  # nothing more is worth proposing
        self.workers = workers
        self.failure: Exception | None = None  # the first fatal error; Ray swallows exceptions here, so the driver re-raises it
        self.pending: dict[str, deque[ActiveTrial]] = {}  # Ray's trial id → its batch, of which the first is under way
        self._warnings: set[str] = set()
        self._longest_silence = 0.0  # seconds between two reports of a trial
        self._idle_since = time.monotonic()  # when a trial last had a worker process; infinite once the log has said so
        plan = state.session.plan
        replay(state)
        trained = {trial.id for trial in state.trials.values() if trial.weights in (None, Weights.TRAINED)}
        self._baselines = deque((name, point) for name, point in plan.baselines.items() if point.id not in trained)
        self._scoring: tuple[float, int] | None = None  # when this session's scores began, and how many there were before
        scored = scored_starts(plan.problem, state.trials.values()) if state.weights is Weights.TRAINED else []
        starts = [*reused_starts(plan.problem.space, plan.reused.values()), *plan.starts, *scored]
        state.proposer.enqueue_starts(starts, plan.feasibility)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles searchers to resume a search, but here the run folder holds the state."""
        return {}

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002 - Ray's
        """True: the searcher itself limits the number of concurrent trials."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next networks for Ray to run; None if Ray should ask again later; FINISHED if there are none."""
        if self.failure is not None or self.state.interrupted.is_set():
            return Searcher.FINISHED
        if len(self.pending) >= self.workers:
            return None
        batch = self.pending[trial_id] = deque()
        with self._keeping_failure():
            self._fill(batch)
        if not batch:
            del self.pending[trial_id]
        if not batch or self.failure is not None:  # a running trial may have to start again
            return None if self.pending and self.failure is None else Searcher.FINISHED
        for trial in batch:
            trial.started = trial.begun = None
            trial.overdue = trial.is_silent = False
        first, problem = batch[0], self.state.session.plan.problem
        judged = first.optuna_trial is not None and first.weights is not Weights.SHARED and first.seed is None
        return {
            "trial": first.number,
            "networks": [
                (trial.number, trial.point.text, trial.weights and trial.weights.value, trial.point.params, trial.seed)
                for trial in batch
            ],
            "costs": problem.cost_losses(first.point) if judged else None,
            "settings": problem.setting_numbers(first.point) if judged else (),
        }

    @property
    def active(self) -> list[ActiveTrial]:
        """The trials that workers have: those under way, and those of their batches that come after them."""
        return [trial for batch in self.pending.values() for trial in batch]

    def started(self, trial_id: str) -> None:
        """Note that a trial has its worker process."""
        if trial_id in self.pending:
            first = self.pending[trial_id][0]
            first.started = first.heard = time.monotonic()

    def record(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Log a trial's report: its begin, an epoch or its outcome, and the warnings of its worker process, each text once.

        After its outcome the next trial of its batch begins.
        """
        if trial_id not in self.pending or self.failure is not None:
            return
        pending = self.pending[trial_id][0]
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
            pending.begin()
            if pending.weights is Weights.SHARED and self._scoring is None:
                self._scoring = time.monotonic(), self.state.log.tally.ended

    def overdue(self) -> Iterator[str]:
        """Ray's ids of the trials whose worker process is to be killed, each once: they have had more than their time.

        Logs a trial whose worker process has been silent for long; without a timeout it continues.
        """
        self._watch_start()
        timeout = self.state.session.experiment.trial_timeout
        for trial_id, (pending, *_) in self.pending.items():
            if pending.seconds_over(timeout) > 0 and not pending.overdue:
                pending.overdue = True
                yield trial_id
            silent = 0.0 if pending.started is None else time.monotonic() - pending.heard
            if silent > max(SILENT_SECONDS, SILENT_FACTOR * self._longest_silence) and not pending.is_silent:
                pending.is_silent = True
                hint = "its worker process may hang; --trial-timeout ends such trials"
                logger.warning("trial %d has not reported for %.0f min: %s", pending.number, silent / 60, hint)

    def _watch_start(self) -> None:
        """Log once that no trial gets a worker process."""
        if not self.pending or any(batch[0].started is not None for batch in self.pending.values()):
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > IDLE_SECONDS:
            logger.warning("no trial has begun for %.0f s: other work may hold the cores or GPUs of this Ray", IDLE_SECONDS)
            self._idle_since = math.inf

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

        The rest of its batch waits for another worker; it is not to blame.
        `alive` are the nodes that Ray still reaches. The reason is oom if the process was killed for its memory use, else crash;
        `cause` says why it died.
        """
        if trial_id not in self.pending or self.failure is not None or self.state.interrupted.is_set():
            return
        pending = self.pending[trial_id][0]
        pending.lost_nodes.append(node)
        failure = pending.failure(alive, reason, cause=cause, timeout=self.state.session.experiment.trial_timeout)
        if failure is not None:
            self._end(trial_id, failure)
            self._wait(trial_id)
            return
        with self._keeping_failure():
            self.state.log.retry(pending.number, retries=len(pending.lost_nodes), crashes=pending.crashes(alive))
            logger.info("trial %d starts again: its worker process or machine was lost (%s)", pending.number, cause)
            self.state.waiting.append(self.pending[trial_id].popleft())
            self._wait(trial_id)

    def fail(self, trial_id: str, error: str) -> None:
        """End a trial with an error in our code or the user's, which would occur again."""
        if trial_id in self.pending and self.failure is None:
            self._end(trial_id, Outcome(status=Status.FAILED, reason=Reason.CRASH, error=error))
            self._wait(trial_id)

    def phases(self) -> list[Phase]:
        """How far the session is: its proposals, and once all of these have their scores, the trainings of the front."""
        experiment, state = self.state.session.experiment, self.state
        wanted = num_wanted(experiment)
        total: int | None = None if math.isinf(wanted) else int(wanted)
        if state.proposer.exhausted or self.over:
            total = state.log.tally.ended + self._num_in_work
        name = "scores" if experiment.uses_shared_weights else "trainings"
        proposals = Phase(name, state.log.tally.ended, total)
        if total is None or proposals.ended < total or not experiment.uses_shared_weights:
            return [proposals]
        return [proposals, *front_phases(experiment, state.session.plan.problem, state.trials.values())]

    def close(self) -> bool:
        """Log unfinished trials as interrupted; True if `resume` has work left."""
        state = self.state
        left = [*self.active, *state.waiting]
        for pending in left:
            state.log.interrupt(pending.number, epochs=len(pending.epochs), values=state.values_so_far(pending))
        self.pending.clear()
        state.update_beliefs(at_once=True)
        trials, over = state.trials.values(), state.proposer.exhausted or self.over
        wanted = work_left(state.session.experiment, state.session.plan.problem, trials, over=over)
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

    def _fill(self, batch: deque[ActiveTrial]) -> None:
        """Add what a worker gets: a training, or so many scores that every worker gets some of those left."""
        size = math.ceil(min(MAX_BATCH, self._num_left / self.workers))
        while not batch or (len(batch) < size and self._is_score_next):
            trial = self.state.waiting.popleft() if self.state.waiting else self._new()
            if trial is not None:
                batch.append(trial)
            if trial is None or trial.weights is not Weights.SHARED:
                return

    @property
    def _num_left(self) -> float:
        """The number of the sampler's networks that no worker has yet."""
        return num_wanted(self.state.session.experiment) - self.state.log.tally.ended - self._num_in_work

    @property
    def _num_in_work(self) -> int:
        """The number of the sampler's networks that workers have."""
        return sum(trial.optuna_trial is not None for trial in self.active)

    @property
    def _is_score_next(self) -> bool:
        waiting = self.state.waiting
        return waiting[0].weights is Weights.SHARED if waiting else not self._baselines and self._can_propose

    @property
    def _can_propose(self) -> bool:
        return self._num_left > 0 and not (self.state.proposer.exhausted or self.over)

    def _new(self) -> ActiveTrial | None:
        """The next new trial: baselines first, then the sampler's networks, then the front by shared weights; None at the end."""
        state = self.state
        if self._baselines:
            return state.begin_baseline(*self._baselines.popleft())
        while self._can_propose:
            if self._stalled_after == state.log.tally.ended and self.active:
                return None
            proposal = state.proposer.ask()
            if proposal is None and self.active and state.session.experiment.seeds_per_network != 1:
                state.proposer.exhausted, self._stalled_after = False, state.log.tally.ended  # those to repeat are under way
                return None
            if proposal is None:
                logger.warning("no other feasible network was found; the search ends early")
                break
            optuna_trial, point = proposal
            reused = state.session.plan.reused.get(point.id)
            if reused is None or point.id in state.proposer.seen:  # a further training has another outcome
                start = optuna_trial.user_attrs
                return state.propose(point, optuna_trial, source=start.get("source", "search"), name=start.get("name"))
            pending = state.propose(point, optuna_trial, source="reuse", name=reused.name)
            state.end(pending, reused.outcome, weights=reused.weights, reused=True)
        return self._of_front() if state.session.experiment.uses_shared_weights else None

    def _of_front(self) -> ActiveTrial | None:
        """The next training of the front by shared weights; None if there is none, or until all before it have ended."""
        state = self.state
        experiment, problem = state.session.experiment, state.session.plan.problem
        if any(trial.weights is Weights.SHARED for trial in self.active):
            return None
        self._log_scores()
        training = next(front_trainings(experiment, problem, state.trials.values()), None)
        if training is None:
            return None
        before = ORDER[: ORDER.index(training.weights)]
        is_early = any(trial.weights in before for trial in self.active)
        return None if is_early else state.begin_of_front(training.scored, training.weights)

    def _log_scores(self) -> None:
        """Say once how many networks were scored, and in which time."""
        if self._scoring is None:
            return
        (begun, before), self._scoring = self._scoring, None
        num, seconds = self.state.log.tally.ended - before, time.monotonic() - begun
        problem = self.state.session.plan.problem
        front = scored_front(problem, self.state.trials.values())
        logger.info("scored %d networks in %.1f s, %.1f a second; %d on their front", num, seconds, num / seconds, len(front))
        chance, best = 100 / problem.num_classes, front[0].values[problem.trained[0].name] if front else math.inf
        if best < chance + NEAR_CHANCE * (100 - chance):
            line = "the best score is %.1f %%, and chance %.1f %%: the weights have learned little; begin anew with more %s"
            logger.warning(line, best, chance, "--shared-epochs")

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        """Log a trial's outcome; a disk that cannot be written ends the search instead, and the trial is tried again."""
        batch = self.pending[trial_id]
        if outcome.is_disk_fault:
            error = (outcome.error or "").removeprefix("NasError: ")
            self.stop(NasError(f"trial {batch[0].number}: {error}"))
            return
        with self._keeping_failure():
            self.state.end(batch.popleft(), outcome)
            self._see_whether_over()
        self._failed_in_a_row = self._failed_in_a_row + 1 if outcome.status is Status.FAILED else 0
        if self._failed_in_a_row == MAX_FAILED and self.state.session.experiment.trials == AUTO:
            self.stop(NasError(f"the last {MAX_FAILED} trials failed, the last one with: {outcome.error}"))
        if outcome.reason is Reason.CRASH or not batch:  # the worker process ends after a crash
            self._wait(trial_id)
        else:
            batch[0].started = time.monotonic()
            batch[0].begin()

    def _see_whether_over(self) -> None:
        """End the proposals of a search with --trials auto once a further trial is hardly worth it, and log that."""
        experiment, growth = self.state.session.experiment, self.state.growth
        if self.over or experiment.trials != AUTO or not growth.is_over(experiment.min_gain_share, self.workers):
            return
        self.over = True
        run = self.state.session.run
        write_experiment(run, read_experiment(run) | {"over": True})
        line = "the search is over after %d trials: a further one is expected to add %s to the hypervolume, %s"
        logger.info(line, self.state.log.tally.ended, growth.gain, f"hardly as much as --min-gain {experiment.min_gain}")

    def _wait(self, trial_id: str) -> None:
        """Let the rest of a batch, if there is any, wait for another worker."""
        self.state.waiting.extendleft(reversed(self.pending.pop(trial_id, ())))

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        """Keeps a NasError from the log or the user's code, which ends the search."""
        try:
            yield
        except NasError as error:
            self.stop(error)
