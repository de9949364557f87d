"""The writer of a run's trial log, and the counts of its trials by status."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.records import append_record
from nas.runs.run_folder import HISTORY_FILE, TRIALS_FILE
from nas.runs.trial import Outcome, Reason, Status, Trial
from nas.runs.trial_log import Event
from nas.searching.problem import Point
from nas.searching.tracked import TrackedTrials
from nas.training.settings import Epoch


@dataclass(slots=True)
class Tally:
    """The numbers of a run's trials and skipped proposals by status, over all its sessions."""

    done: int = 0
    failed: int = 0
    stopped: int = 0
    infeasible: int = 0
    """Skipped proposals of infeasible networks."""
    duplicate: int = 0
    """Skipped proposals of networks that have a trial."""
    reused: int = 0
    """Trials whose outcome comes from another run."""

    def count(self, status: Status, *, reason: Reason | None = None, reused: bool = False) -> None:
        """Count an ended trial or a skipped proposal; a trial that a new limit ended does not count."""
        name = "reused" if reused else status.value
        if reason is not Reason.LIMIT:
            setattr(self, name, getattr(self, name) + 1)

    @property
    def ended(self) -> int:
        """The number of ended trials that count towards the experiment's `trials`; reused ones do not."""
        return self.done + self.failed + self.stopped


@dataclass(slots=True, kw_only=True)
class TrialLog:
    """The one writer of a run's trial log and of its history of epochs.

    Every method raises NasError if the disk is full or the folder is gone; what was written before stays.
    """

    run: Path
    tally: Tally = field(default_factory=Tally)
    tracked: TrackedTrials = field(default_factory=TrackedTrials)
    """Hands the same events to the trackers of the search, if it has some."""

    def start(self, trial: Trial) -> None:
        """Log a trial that starts."""
        what = {"id": trial.id, "values": dict(trial.values), "params": dict(trial.params), "architecture": trial.architecture}
        what |= {name: getattr(trial, name) for name in ("source", "name", "weights", "from_trial", "seed")}
        self._write(Event.START, trial.number, **what, baseline=trial.is_baseline or None)
        self.tracked.begin(trial)

    def skip(self, status: Status, point: Point, *, source: str = "search", name: str | None = None) -> None:
        """Log and count a skipped proposal: infeasible or a duplicate."""
        self.tally.count(status)
        what = {"id": point.id, "values": dict(point.values), "params": point.params}
        self._write(Event(status.value), None, **what, source=source, name=name)

    def measured(self, trial: int, values: Mapping[str, float]) -> None:
        """Log costs of an earlier trial that a new limit needs."""
        self._write(Event.MEASURED, trial, values=dict(values))

    def resume(self, trial: Trial) -> None:
        """Log that a trial of an earlier session continues."""
        self._write(Event.RESUME, trial.number)
        self.tracked.begin(trial)

    def retry(self, trial: int, *, retries: int, crashes: int) -> None:
        """Log that a trial starts again after it lost its worker process or machine."""
        self._write(Event.RETRY, trial, retries=retries, crashes=crashes)

    def interrupt(self, trial: int, *, epochs: int, values: Mapping[str, float]) -> None:
        """Log a trial that has not ended, with its values so far."""
        self._write(Event.INTERRUPT, trial, epochs=epochs, values=dict(values))
        self.tracked.end(trial, Outcome(status=Status.INTERRUPTED, epochs=epochs, values=values))

    def end(self, trial: int, outcome: Outcome, *, reused: bool = False) -> None:
        """Log the end of a trial, with all its values."""
        record = outcome.to_record()
        del record["history"]
        self._write(Event.END, trial, **record, reused=reused or None)
        self.tracked.end(trial, outcome)

    def epoch(self, trial: int, epoch: Epoch) -> None:
        """Log an epoch of a trial."""
        append_record(self.run / HISTORY_FILE, {"trial": trial} | asdict(epoch))
        self.tracked.epoch(trial, epoch)

    def _write(self, event: Event, trial: int | None, **fields: Any) -> None:
        """Write one event without the fields that are None."""
        record = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "trial": trial, **fields}
        append_record(self.run / TRIALS_FILE, {name: value for name, value in record.items() if value is not None})
