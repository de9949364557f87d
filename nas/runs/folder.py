"""The run folder: what was asked for, and one line for everything that happened. Needs neither torch nor Ray.

`experiment.json` holds the experiment, and a record of every session with the versions and the machine; `trials.jsonl` the trial
log, the source of truth; `history.jsonl` one line per trial and epoch; `checkpoints/` the weights; `latency.json` the latency
table, if one is used; `full/` the networks that were trained to the end; `ray/` Ray's state, while a search lasts. Read
`trial_log.py` next.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nas.errors import NasError
from nas.files import cut_torn_line, is_locked, write_atomically
from nas.files import locked as lock_file
from nas.runs.experiment import Experiment
from nas.runs.serialization import SCHEMA, describe

EXPERIMENT_FILE: Final = "experiment.json"
TRIALS_FILE: Final = "trials.jsonl"
HISTORY_FILE: Final = "history.jsonl"
LOCK_FILE: Final = "lock"
WEIGHTS: Final = "checkpoints"
RAY: Final = "ray"
LATENCY_FILE: Final = "latency.json"
FULL: Final = "full"  # export folders of trainings to the end
PATIENCE: Final = 2.0  # seconds to wait for who only looks whether a run is locked
BUSY: Final = "{run} is searched by another process; wait for its end, or stop it with Ctrl-C"


def weights_file(run: Path, trial: int) -> Path:
    """Where the weights of a finished trial are kept, if they are."""
    return run / WEIGHTS / f"{trial}.safetensors"


def create_run(experiment: Experiment, name: str) -> Path:
    """A new run folder under `experiment.runs`, with its experiment.json.

    Raises: NasError if the folder cannot be written.
    """
    stem = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    described = describe(experiment, name)
    try:
        run = _new_folder(Path(experiment.runs).resolve(), stem)
        (run / WEIGHTS).mkdir()
        for file in (TRIALS_FILE, HISTORY_FILE, LOCK_FILE):
            (run / file).touch()
    except OSError as error:
        raise NasError(f"runs folder {experiment.runs!r} cannot be written: {error.strerror}; give another with --runs") from None
    write_experiment(run, described)
    return run


def write_experiment(run: Path, described: Mapping[str, Any]) -> None:
    """Write experiment.json; in place at once or not at all.

    Raises: NasError if it cannot be written.
    """
    write_atomically(run / EXPERIMENT_FILE, json.dumps(described, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """While it lasts no other process searches on the run; the system releases it when this process dies.

    Raises: NasError if another process has it, or the run cannot be written.
    """
    with lock_file(run / LOCK_FILE, busy=BUSY.format(run=run), wait_seconds=PATIENCE):
        yield


def check_free(run: Path) -> None:
    """Refuse a run that another process searches on.

    Raises: NasError.
    """
    if is_running(run):
        raise NasError(BUSY.format(run=run))


def is_running(run: Path) -> bool:
    """Whether a process searches on the run now, on this machine or where the file system passes on its locks."""
    return is_locked(run / LOCK_FILE)


def mend_logs(run: Path) -> None:
    """Cut off a last line that was torn when its writer was killed, so that others can follow it."""
    for name in (TRIALS_FILE, HISTORY_FILE):
        cut_torn_line(run / name)


def _new_folder(parent: Path, stem: str) -> Path:
    """`stem` under `parent`, or `stem-2` and so on where a run of the same second is there already."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def read_experiment(run: Path) -> dict[str, Any]:
    """What experiment.json of a run folder holds.

    Raises: NasError if `run` is not a run folder of a schema that this version reads.
    """
    file = run / EXPERIMENT_FILE
    if not file.is_file() or not (run / TRIALS_FILE).is_file():
        raise NasError(
            f"{run} is not a run folder: it has no {EXPERIMENT_FILE} and {TRIALS_FILE}; `nas search` makes one under runs/"
        )
    try:
        described = dict(json.loads(file.read_text(encoding="utf-8")))
        schema = described["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NasError(f"{file} is damaged: it is not the JSON object that a search writes; restore it from a copy") from None
    if schema != SCHEMA:
        raise NasError(f"{run} has schema {schema!r}, and this version of nas reads {SCHEMA}; use the version that wrote it")
    return described
