"""Ray Tune's callback: passes the reports and ends of trials to the searcher, ends trials that hang, and watches Ray itself."""

from contextlib import suppress
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayError
from ray.tune.experiment import Trial

from nas.errors import NasError, describe_error
from nas.runs.trial import Reason
from nas.searching.ray_faults import Health, death_of, error_of, error_text, is_users
from nas.searching.ray_session import OWN_RAY
from nas.searching.searcher import ArchitectureSearcher
from nas.searching.worker import RetiredError


class ReportCallback(tune.Callback):
    """Tells the searcher what becomes of the trials. Tune calls `on_step_begin` ten times a second or more often."""

    def __init__(self, searcher: ArchitectureSearcher) -> None:
        self.searcher = searcher
        self.health = Health()
        self._workers: set[ActorHandle] = set()  # every process that has had a trial

    def kill_workers(self) -> None:
        """Kill the worker processes that are left, such as one that hangs, in a Ray that goes on after the search."""
        if OWN_RAY.locked():
            return  # it ends with its processes
        for actor in self._workers:
            with suppress(RayError):
                ray.kill(actor)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002 - the signature is Ray's
        """Kill the worker processes of trials that have had their time; end the search if Ray itself has ended.

        Raises: KeyboardInterrupt, after which Tune does not wait for a Ray that does not answer.
        """
        for trial_id in self.searcher.overdue():
            actor = next(trial.temporary_state.ray_actor for trial in trials if trial.trial_id == trial_id)
            if actor is not None:
                ray.kill(actor)  # also one that is stopped, or on another machine
        if ended := self.health.ended():
            self.searcher.stop(NasError(f"Ray's process {ended} has ended: it was killed, or the machine lacks memory"))
            raise KeyboardInterrupt

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial has its worker process."""
        self._workers.add(trial.temporary_state.ray_actor)
        self.searcher.started(trial.trial_id)

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """A trial has reported."""
        self.searcher.record(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial has raised an exception, or lost its worker process."""
        error, text, report = error_of(trial), error_text(trial), trial.last_result or {}
        if isinstance(error, RetiredError):
            return
        if error is not None and is_users(error):
            self.searcher.fail(trial.trial_id, describe_error(error))
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        is_oom = isinstance(error, OutOfMemoryError) or "OutOfMemoryError" in text or "running low on memory" in text
        reason = Reason.OOM if is_oom else Reason.CRASH  # Ray kills the process with the most memory
        cause = "Ray killed it for lack of memory" if is_oom else death_of(text, report)
        self.searcher.lost(trial.trial_id, report.get("node"), alive, reason=reason, cause=cause)
