"""Trackers: other tools that show a search or a training while it runs, such as TensorBoard or MLflow.

Each file here exports one TRACKER, a class, and is named after it. Their libraries are imported when a tracker is opened.
`Tracking` makes all calls of them, so that none delays or ends a search. Read `tensorboard.py` next.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from nas.errors import NasError, user_code
from nas.plugins import load_plugin
from nas.records import append_record, cut_torn_line, read_records
from nas.runs.trial import Status
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

PROJECT: Final = "frontier-nas"  # the project, or MLflow's experiment, unless the tool's own environment variable names another
JOBS_FILE: Final = "trackers.jsonl"  # how far each job is in each tracker, from where a later session continues it
THREAD: Final = "tracker "  # how the name of a tracker's thread begins
WAIT_SECONDS: Final = 30.0  # at the end, for what the trackers still have to log


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A search, a trial of it, or a full training, as a tracker begins it."""

    key: str
    """What tells it from others of its group: `search`, `trial3`; for a full training its name."""
    group: str
    """The name of the run folder, or of the full training."""
    kind: Literal["search", "trial", "train"]
    folder: Path
    """Where a tracker that writes files and has no other place may write them."""
    params: Mapping[str, Any]
    """What it began with: texts, numbers, truth values and None."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What is measured before its first epoch, such as multiply-adds."""

    @property
    def name(self) -> str:
        """Its name among those of all groups."""
        return f"{self.group}-{self.key}" if self.kind == "trial" else self.group


class Tracker(ABC):
    """A tool's log of a search with its trials, or of a full training.

    The constructor takes no arguments, imports the tool's library and writes nothing. The methods run in one thread, in the order
    of the events, and may take their time. After an error in one of them, none is called any more.
    """

    @abstractmethod
    def begin(self, job: Job, past: str | None) -> str:
        """Begin a job, or continue it under the id that an earlier `begin` returned; returns its id."""

    @abstractmethod
    def log(self, key: str, step: int, values: Mapping[str, float]) -> None:
        """Log values of a job at a step, which is the epoch of a training."""

    @abstractmethod
    def attach(self, key: str, file: Path) -> None:
        """Keep a file with a job; the file is removed afterwards."""

    @abstractmethod
    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """End a job with its last values: numbers and texts, such as the reason of a failure."""

    @abstractmethod
    def place(self, key: str) -> str:
        """Where to look at a job: an address, or a command to type."""


def open_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """Name → tracker, with its library imported and nothing written.

    Raises: NasError for an unknown name, a library that is missing or has no account, or a file that exports no tracker.
    """
    trackers: dict[str, Tracker] = {}
    for name in names:
        kind = load_plugin("tracker", name)
        if not (isinstance(kind, type) and issubclass(kind, Tracker)):
            raise NasError(f"tracker {name}: its TRACKER is {kind!r}; it must be a class that inherits nas.Tracker")
        with user_code(f"tracker {name}"):
            trackers[name] = kind()
    return trackers


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a job has them: numbers, truth values and None as they are, tuples with commas, all others as texts."""
    texts = {name: ", ".join(map(str, value)) for name, value in values.items() if isinstance(value, tuple)}
    plain = {name: value if isinstance(value, bool | int | float | None) else str(value) for name, value in values.items()}
    return plain | texts


def is_no_library(record: logging.LogRecord) -> bool:
    """False for what the library of a tracker logs, such as each try to reach a server; one warning here says what went wrong."""
    return record.name.startswith("nas.") or not (record.threadName or "").startswith(THREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """A line of the file of jobs: the id or status that a job now has, or an epoch that is logged."""

    tracker: str
    job: str
    id: str | None = None
    epoch: int | None = None
    status: Status | None = None


NOTE: Final = TypeAdapter(_Note)


class _Line(Thread):
    """The thread of one tracker: it makes the calls in their order, until the first error."""

    def __init__(self, name: str, tracker: Tracker, jobs: Path) -> None:
        super().__init__(name=f"{THREAD}{name}", daemon=True)
        self.tracker = tracker
        self._key, self._file = name, jobs
        self._ids: dict[str, str] = {}
        self._epochs: dict[str, set[int]] = {}  # those of each job that are logged
        self._statuses: dict[str, Status] = {}
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.is_off = False

    def add(self, call: Callable[[], None] | None) -> None:
        """Add a call; None ends the thread."""
        if not self.is_off:
            self._calls.put(call)

    def run(self) -> None:
        """Make the calls. An error turns the tracker off, which one warning says."""
        try:
            with user_code(self.name):
                self._read_notes()
                while (call := self._calls.get()) is not None:
                    call()
        except NasError as error:
            if not self.is_off:
                logger.warning("%s; it logs no more, and all else continues", error)
        self.is_off = True

    def begin(self, job: Job, epochs: Iterable[Epoch]) -> None:
        """Begin or continue a job, and log those of its epochs that are missing."""
        past = self._ids.get(job.key)
        now = self.tracker.begin(job, past)
        if not isinstance(now, str):
            raise NasError(f"begin returned {now!r}; it must return a text, the id of the job")
        logged = self._epochs.setdefault(job.key, set())
        if self._statuses.get(job.key) is Status.RUNNING and logged:  # it was killed, perhaps before the last one was sent
            logged.remove(max(logged))
        self._note(job.key, id=now, status=Status.RUNNING)
        if job.kind != "trial":
            logger.info("%s: %s", self.name, self.tracker.place(job.key))
        for epoch in sorted(epochs, key=lambda epoch: epoch.epoch):
            self.epoch(job.key, epoch)

    def epoch(self, key: str, epoch: Epoch) -> None:
        """Log an epoch, unless it is logged."""
        if epoch.epoch not in self._epochs.get(key, ()):
            values = {"val_top1_pct": epoch.val_top1_pct, "train_loss": epoch.train_loss, "epoch_seconds": epoch.seconds}
            self.tracker.log(key, epoch.epoch, values)
            self._note(key, epoch=epoch.epoch)

    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """End a job."""
        self.tracker.end(key, status, values)
        self._note(key, status=status)

    def complete(self, job: Job, epochs: Iterable[Epoch], status: Status, values: Mapping[str, Any]) -> None:
        """Log what is missing of a job that has ended."""
        if self._statuses.get(job.key) is not status:
            self.begin(job, epochs)
            self.end(job.key, status, values)

    def _note(self, key: str, **fields: Any) -> None:
        append_record(self._file, {"tracker": self._key, "job": key, **fields})
        self._heed(_Note(tracker=self._key, job=key, **fields))

    def _heed(self, note: _Note) -> None:
        if note.id is not None:
            self._ids[note.job] = note.id
        if note.epoch is not None:
            self._epochs.setdefault(note.job, set()).add(note.epoch)
        if note.status is not None:
            self._statuses[note.job] = note.status

    def _read_notes(self) -> None:
        if self._file.is_file():
            for _, note in read_records(self._file, NOTE):
                if note.tracker == self._key:
                    self._heed(note)


class Tracking:
    """The trackers of a search or a training, each in a thread of its own: all methods but `close` return at once."""

    def __init__(self, trackers: Mapping[str, Tracker] | None = None, folder: Path = Path()) -> None:
        """`folder` has the file of jobs.

        Raises: NasError if that file cannot be read.
        """
        file = folder / JOBS_FILE
        self._lines = [_Line(name, tracker, file) for name, tracker in (trackers or {}).items()]
        if self._lines and file.is_file():
            cut_torn_line(file)
        for line in self._lines:
            line.start()

    @property
    def is_on(self) -> bool:
        """Whether a tracker still logs."""
        return any(not line.is_off for line in self._lines)

    def begin(self, job: Job, epochs: Sequence[Epoch] = ()) -> None:
        """Begin a job, or continue it in the trackers where an earlier session began it; `epochs` are those that it has."""
        self._add(lambda line: line.begin(job, epochs))

    def log(self, key: str, step: int, values: Mapping[str, float]) -> None:
        """Log values of a job at a step."""
        self._add(lambda line: line.tracker.log(key, step, dict(values)))

    def epoch(self, key: str, epoch: Epoch) -> None:
        """Log an epoch of a job, unless it is logged."""
        self._add(lambda line: line.epoch(key, epoch))

    def attach(self, key: str, file: Path) -> None:
        """Keep a file with a job; it must stay until `close` returns."""
        self._add(lambda line: line.tracker.attach(key, file))

    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """End a job with its last values, those that are not None."""
        self._add(lambda line: line.end(key, status, _present(values)))

    def complete(self, job: Job, epochs: Sequence[Epoch], status: Status, values: Mapping[str, Any]) -> None:
        """Log what is missing, after a kill, of a job that has ended with these epochs and last values."""
        self._add(lambda line: line.complete(job, epochs, status, _present(values)))

    def close(self) -> None:
        """Wait for the trackers, at most WAIT_SECONDS; a warning names each that needs longer."""
        deadline = time.monotonic() + WAIT_SECONDS
        for line in self._lines:
            line.add(None)
        for line in self._lines:
            line.join(max(0.0, deadline - time.monotonic()))
            if line.is_alive():
                line.is_off = True
                logger.warning("%s still had to log after %g s; what it had left is lost", line.name, WAIT_SECONDS)

    def _add(self, call: Callable[[_Line], None]) -> None:
        for line in self._lines:
            line.add(partial(call, line))


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
