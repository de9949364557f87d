"""Reads the trial log of a run, `trials.jsonl`, and builds trials from its events. Read `results.py` next."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, TypeAdapter

from nas.errors import NasError
from nas.records import Time, parse, read_records
from nas.runs.run_folder import HISTORY_FILE, TRIALS_FILE, is_running
from nas.runs.trial import UNDER_WAY, Outcome, Status, Trial, Weights
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)


class Event(StrEnum):
    """The kind of a line of the log."""

    START = "start"
    RETRY = "retry"
    RESUME = "resume"
    MEASURED = "measured"
    """Costs of an earlier session's trial, measured for a limit that this session sets."""
    INTERRUPT = "interrupt"
    END = "end"
    INFEASIBLE = "infeasible"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    """What the lines of a start and of a skipped proposal have in common."""

    time: Time
    id: str
    params: dict[str, Any]
    values: dict[str, float]
    source: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start(_Proposal):
    event: Literal[Event.START]
    trial: NonNegativeInt
    architecture: str
    weights: Weights | None = None
    from_trial: NonNegativeInt | None = None
    baseline: bool = False
    seed: NonNegativeInt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Skip(_Proposal):
    event: Literal[Event.INFEASIBLE, Event.DUPLICATE]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Retry:
    event: Literal[Event.RETRY]
    trial: NonNegativeInt
    retries: NonNegativeInt
    crashes: NonNegativeInt
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interrupt:
    event: Literal[Event.INTERRUPT]
    trial: NonNegativeInt
    epochs: NonNegativeInt
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """A resume, or costs measured later."""

    event: Literal[Event.RESUME, Event.MEASURED]
    trial: NonNegativeInt
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End(Outcome):
    event: Literal[Event.END]
    time: Time
    trial: NonNegativeInt
    status: Literal[Status.DONE, Status.FAILED, Status.STOPPED]
    values: Mapping[str, float]
    reused: bool = False


_Line: TypeAlias = _Start | _Skip | _Retry | _Interrupt | _Values | _End
LINE: Final = TypeAdapter[_Line](Annotated[_Line, Field(discriminator="event")])


@dataclass(frozen=True, slots=True, kw_only=True)
class _EpochLine(Epoch):
    trial: NonNegativeInt


EPOCH_LINE: Final = TypeAdapter(_EpochLine)
MAX_EPOCH_BYTES: Final = 4096  # far more than a line of the history takes


def read_trials(run: Path) -> list[Trial]:
    """Every proposal of a run in order, each built from all of its events; works while the search runs.

    Raises: NasError for a damaged log, or one that is older than the history of epochs.
    """
    trials: dict[Any, Trial] = {}
    file = run / TRIALS_FILE
    latest = _latest_epoch(run)  # before the log, to which a running search writes first
    for number, line in read_records(file, LINE):
        if isinstance(line, _Skip):
            trials[f"line {number}"] = _proposed(line)
            continue
        before = trials.get(line.trial)
        if wrong := _wrong_order(before, line):
            raise NasError(f"{file}: line {number} is damaged: trial {line.trial} {wrong}; restore the file from a copy")
        trial = _proposed(line) if isinstance(line, _Start) else _updated(trials[line.trial], line)
        earlier = {} if isinstance(line, _End) else trial.values  # an end has all values; a failed trial loses its epochs'
        trials[line.trial] = replace(trial, values={**earlier, **line.values})
    if latest is not None and latest not in trials:
        raise NasError(_apart(run, latest))
    if is_running(run):
        return list(trials.values())
    lost = {Status.RUNNING: Status.INTERRUPTED}  # a killed search logs no end
    return [replace(trial, status=lost.get(trial.status, trial.status)) for trial in trials.values()]


def _wrong_order(before: Trial | None, line: _Start | _Retry | _Interrupt | _Values | _End) -> str | None:
    """What is wrong with an event after the earlier ones of its trial; None if nothing is."""
    if isinstance(line, _Start):
        return None if before is None else "starts twice"
    if before is None:
        return f"has the event {line.event} before its start"
    if before.status in UNDER_WAY or line.event == Event.MEASURED:
        return None
    return f"has the event {line.event} after its end"


def _proposed(line: _Start | _Skip) -> Trial:
    """The trial that an event starts, or the proposal that it skips."""
    what = {name: getattr(line, name) for name in ("id", "params", "values", "source", "name")}
    if isinstance(line, _Skip):
        return Trial(number=None, status=Status(line.event.value), started=line.time, **what)
    return Trial(
        number=line.trial,
        status=Status.RUNNING,
        architecture=line.architecture,
        weights=line.weights,
        from_trial=line.from_trial,
        is_baseline=line.baseline,
        seed=line.seed,
        started=line.time,
        **what,
    )


def _updated(trial: Trial, line: _Retry | _Interrupt | _Values | _End) -> Trial:
    match line:
        case _Retry():
            return replace(trial, status=Status.RUNNING, retries=line.retries, crashes=line.crashes)
        case _End():
            outcome = Outcome(**{one.name: getattr(line, one.name) for one in fields(Outcome)})
            if outcome.is_disk_fault:  # `resume` tries its network again
                return replace(trial, status=Status.INTERRUPTED, outcome=replace(outcome, status=Status.INTERRUPTED))
            return replace(trial, status=outcome.status, outcome=outcome, ended=line.time, reused=line.reused)
        case _Interrupt():
            so_far = Outcome(status=Status.INTERRUPTED, epochs=line.epochs)
            return replace(trial, status=Status.INTERRUPTED, outcome=so_far)
        case _Values(event=Event.RESUME):
            return replace(trial, status=Status.RUNNING)
    return trial


def read_history(run: Path) -> list[tuple[int, Epoch]]:
    """(trial, epoch) of every epoch of a run, in the order in which they ended.

    Raises: NasError for a damaged history.
    """
    names = [one.name for one in fields(Epoch)]
    lines = (line for _, line in read_records(run / HISTORY_FILE, EPOCH_LINE))
    return [(line.trial, Epoch(**{name: getattr(line, name) for name in names})) for line in lines]


def check_history(run: Path, trials: Collection[Trial], history: Collection[tuple[int, Epoch]]) -> None:
    """Check that every epoch belongs to a trial; warn of done trials whose epochs are missing.

    Raises: NasError if one does not, as when one of the files was restored from an older copy.
    """
    numbers = {trial.number for trial in trials}
    unknown = next((number for number, _ in history if number not in numbers), None)
    if unknown is not None:
        raise NasError(_apart(run, unknown))
    with_epochs = {number for number, _ in history}
    lacking = [trial.number for trial in trials if trial.number not in with_epochs and _has_epochs(trial)]
    if lacking:
        logger.warning("%s lacks the epochs of trials %s, whose learning curves are lost", run / HISTORY_FILE, lacking)


def _has_epochs(trial: Trial) -> bool:
    return trial.status is Status.DONE and not trial.reused and trial.outcome is not None and trial.outcome.epochs > 0


def _apart(run: Path, trial: int) -> str:
    return f"{run}: {HISTORY_FILE} has epochs of trial {trial}, which {TRIALS_FILE} lacks; restore both files from one copy"


def _latest_epoch(run: Path) -> int | None:
    """The trial of the last whole line of the history; None without one. Reads the end of the file alone."""
    file = run / HISTORY_FILE
    if not file.is_file():
        return None
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - MAX_EPOCH_BYTES))
        *whole, _ = log.read().split(b"\n")
    try:
        return parse(EPOCH_LINE, whole[-1], str(file)).trial if whole else None
    except NasError:  # `read_history` says it; the trials can be read without it
        return None
