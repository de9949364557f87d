"""What the trackers of a search get: the search as a job, its trainings as jobs of their own, and at the end its front."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from nas.errors import NasError, user_code
from nas.runs.columns import SETTINGS
from nas.runs.experiment import Experiment
from nas.runs.serialization import PLAIN
from nas.runs.trial import ENDED, Outcome, Status, Trial, Weights
from nas.searching.plan import Session
from nas.trackers import Job, Tracking, plain_values
from nas.training.settings import Epoch
from nas.training.tuned import PREFIX, setting_changes

logger = logging.getLogger(__name__)

SEARCH: Final = "search"  # the key of the search itself
OF_EPOCHS: Final = frozenset(("val_top1_pct",))  # values of an outcome that its epochs have logged already


@dataclass(slots=True)
class TrackedTrials:
    """Hands a search's trials to its trackers, each training as a job. Scores are no jobs: a search has hundreds."""

    tracking: Tracking = field(default_factory=Tracking)
    run: Path = Path()
    history: Sequence[tuple[int, Epoch]] = ()
    """(trial, epoch) of earlier sessions."""
    _begun: set[int] = field(default_factory=set)

    def begin(self, trial: Trial) -> None:
        """Begin or continue a training."""
        if trial.number is None or trial.weights is Weights.SHARED or not self.tracking.is_on:
            return
        self._begun.add(trial.number)
        self.tracking.begin(_job(trial, self.run), [epoch for number, epoch in self.history if number == trial.number])

    def complete(self, past: Iterable[Trial]) -> None:
        """Log what is missing of the trainings that ended in earlier sessions."""
        epochs: dict[int, list[Epoch]] = {}
        for number, epoch in self.history:
            epochs.setdefault(number, []).append(epoch)
        for trial in past:
            if trial.number is not None and trial.weights is not Weights.SHARED and trial.status in ENDED and trial.outcome:
                job, last = _job(trial, self.run), _last_values(trial.outcome)
                self.tracking.complete(job, epochs.get(trial.number, []), trial.status, last)

    def epoch(self, number: int, epoch: Epoch) -> None:
        """Log an epoch of a training."""
        if number in self._begun:
            self.tracking.epoch(_key(number), epoch)

    def end(self, number: int, outcome: Outcome) -> None:
        """End a training with its values."""
        if number not in self._begun:
            return
        self._begun.remove(number)
        self.tracking.end(_key(number), outcome.status, _last_values(outcome))

    def progress(self, ended: int, values: Mapping[str, float]) -> None:
        """Log how far the search is after so many trials."""
        self.tracking.log(SEARCH, ended, values)


def _job(trial: Trial, run: Path) -> Job:
    """A training as a job."""
    about = {name: getattr(trial, name) for name in ("id", "source", "name", "weights", "from_trial", "seed")}
    params = {f"params.{name}": value for name, value in trial.params.items() if not name.startswith(PREFIX)}
    params |= {f"{SETTINGS}{name}": value for name, value in setting_changes(trial.params).items()}
    key, plain = _key(trial.number), plain_values(params | about)
    return Job(key=key, group=run.name, kind="trial", folder=run, params=plain, values=dict(trial.values))


def _last_values(outcome: Outcome) -> dict[str, Any]:
    """What a training ends with, without the values that its epochs have logged."""
    values = {name: value for name, value in outcome.values.items() if not (outcome.epochs and name in OF_EPOCHS)}
    about = {name: getattr(outcome, name) for name in ("reason", "error", "seconds", "val_loss", "peak_memory_mb", "device")}
    return values | plain_values(about)


def _key(number: int | None) -> str:
    return f"trial{number}"


@contextmanager
def tracked(session: Session) -> Iterator[None]:
    """Logs the search around the block, and its front and page after it; waits for the trackers."""
    tracking, run = session.tracking, session.run
    if not tracking.is_on:
        yield
        return
    params = _params(session.experiment)
    tracking.begin(Job(key=SEARCH, group=run.name, kind="search", folder=run, params=params))
    TrackedTrials(tracking, run, session.history).complete(session.past)
    status, error, is_hurried = Status.FAILED, None, False
    try:
        yield
        status = Status.DONE
    except KeyboardInterrupt as stop:
        status, is_hurried = Status.INTERRUPTED, bool(stop.args)  # it has the signal that ended the search at once
        raise
    except NasError as failure:
        error = str(failure)
        raise
    finally:
        with TemporaryDirectory(prefix="nas-") as folder:
            for file in () if is_hurried else _front_files(run, Path(folder)):
                tracking.attach(SEARCH, file)
            tracking.end(SEARCH, status, {"error": error})
            tracking.close()


def _params(experiment: Experiment) -> dict[str, Any]:
    """The fields of an experiment, each by the name of its option."""
    parts = {
        "space": experiment.space.name,
        "dataset": experiment.dataset.name,
        "objectives": tuple(one.name for one in experiment.objectives),
        "limits": experiment.limits,
        "sampler": experiment.sampler if isinstance(experiment.sampler, str) else type(experiment.sampler).__name__,
    }
    train = {f"train.{name}": value for name, value in asdict(experiment.train).items()}
    return plain_values(parts | train | {name: getattr(experiment, name) for name in PLAIN})


def _front_files(run: Path, folder: Path) -> list[Path]:
    """The front of a run as a table, and its page; none if no network is done, or if they cannot be made."""
    from nas.runs.front import front
    from nas.runs.report import write_report
    from nas.runs.results import results
    from nas.runs.table_file import write_table

    try:
        with user_code("the front"):
            rows = front(df := results(run))
            if rows.empty:
                return []
            columns = ["trial", "id", *df.attrs["directions"], "epochs", "seconds", "source", "name"]
            write_table(rows[columns], folder / "front.csv")
            return [folder / "front.csv", write_report(run, folder / "report.html")]
    except NasError as error:
        logger.warning("trackers get no front: %s", error)
        return []
