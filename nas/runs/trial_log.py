"""The trial log of a run, `trials.jsonl`: its events, read as trials."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.files import read_records
from nas.runs.folder import HISTORY_FILE, TRIALS_FILE, is_running
from nas.runs.trial import Outcome, Status, Trial
from nas.training.settings import Epoch


class Event(StrEnum):
    """What a line of the log tells."""

    START = "start"
    RETRY = "retry"
    RESUME = "resume"
    MEASURED = "measured"
    """Costs that a limit of a later session asks for."""
    INTERRUPT = "interrupt"
    END = "end"
    INFEASIBLE = "infeasible"
    DUPLICATE = "duplicate"


def read_trials(run: Path) -> list[Trial]:
    """Every proposal of a run in order, of all that its events say; also while the search runs.

    Raises: NasError for a damaged log.
    """
    found: dict[Any, Trial] = {}
    file = run / TRIALS_FILE
    try:
        for line, event in enumerate(read_records(file)):
            key, kind = event.get("trial", f"line {line}"), Event(event["event"])
            before = found.get(key)
            trial = _proposed(event, kind) if before is None else _changed(before, event, kind)
            known = {} if kind is Event.END else trial.values  # the end of a failed trial takes back what its epochs told
            found[key] = replace(trial, values={**known, **event.get("values", {})})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NasError(f"{file} is damaged: an event lacks a field or has a wrong one ({error})") from None
    trials = list(found.values())
    if is_running(run):
        return trials
    lost = {Status.RUNNING: Status.INTERRUPTED}  # a driver that was killed wrote no end
    return [replace(trial, status=lost.get(trial.status, trial.status)) for trial in trials]


def _proposed(event: Mapping[str, Any], kind: Event) -> Trial:
    """The trial that an event begins, or the proposal that it skips."""
    return Trial(
        number=event.get("trial"),
        id=event["id"],
        status=Status.RUNNING if kind is Event.START else Status(kind.value),
        params=event["params"],
        values={},
        architecture=event["architecture"] if kind is Event.START else None,
        source=event["source"],
        name=event.get("name"),
        is_baseline=event.get("baseline", False),
        started=event["time"],
    )


def _changed(trial: Trial, event: Mapping[str, Any], kind: Event) -> Trial:
    match kind:
        case Event.RETRY:
            return replace(trial, status=Status.RUNNING, retries=event["retries"], crashes=event["crashes"])
        case Event.RESUME:
            return replace(trial, status=Status.RUNNING)
        case Event.INTERRUPT:
            so_far = Outcome(status=Status.INTERRUPTED, epochs=event["epochs"])
            return replace(trial, status=Status.INTERRUPTED, outcome=so_far)
        case Event.END:
            outcome = Outcome.from_record(event)
            return replace(trial, status=outcome.status, outcome=outcome, ended=event["time"], reused=event.get("reused", False))
    return trial


def read_history(run: Path) -> list[tuple[int, Epoch]]:
    """(trial, epoch) of every epoch of a run, in the order in which they ended.

    Raises: NasError for a damaged history.
    """
    try:
        return [(line.pop("trial"), Epoch(**line)) for line in read_records(run / HISTORY_FILE)]
    except (KeyError, TypeError) as error:
        raise NasError(f"{run / HISTORY_FILE} is damaged: an epoch lacks a field or has a wrong one ({error})") from None
