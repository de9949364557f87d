"""Reads the trial log of a run, `trials.jsonl`, and builds trials from its events. Read `results.py` next."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.files import read_records
from nas.runs.run_folder import HISTORY_FILE, TRIALS_FILE, is_running
from nas.runs.trial import Outcome, Status, Trial
from nas.training.settings import Epoch


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


def read_trials(run: Path) -> list[Trial]:
    """Every proposal of a run in order, each built from all of its events; works while the search runs.

    Raises: NasError for a damaged log.
    """
    trials: dict[Any, Trial] = {}
    file = run / TRIALS_FILE
    try:
        for line, event in enumerate(read_records(file)):
            key, kind = event.get("trial", f"line {line}"), Event(event["event"])
            before = trials.get(key)
            trial = _proposed(event, kind) if before is None else _updated(before, event, kind)
            earlier = {} if kind is Event.END else trial.values  # an end has all values; a failed trial loses those of its epochs
            trials[key] = replace(trial, values={**earlier, **event.get("values", {})})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NasError(f"{file} is damaged: an event lacks a field or has a wrong one ({error})") from None
    if is_running(run):
        return list(trials.values())
    lost = {Status.RUNNING: Status.INTERRUPTED}  # a killed search logs no end
    return [replace(trial, status=lost.get(trial.status, trial.status)) for trial in trials.values()]


def _proposed(event: Mapping[str, Any], kind: Event) -> Trial:
    """The trial that an event starts, or the proposal that it skips."""
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


def _updated(trial: Trial, event: Mapping[str, Any], kind: Event) -> Trial:
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
