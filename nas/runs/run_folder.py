"""The run folder: its files, its lock, and how it is created and read. Needs neither torch nor Ray.

`experiment.json`: the experiment, and each session's versions and machine. `trials.jsonl`: the log from which trials are read.
`history.jsonl`: one line per trial and epoch. `checkpoints/`: weights. `latency.json`: the latency table, if one is used.
`trackers.jsonl`: the ids of the run and its trials in the tools of `--log`. `tensorboard/`: event files.
`shared/`: shared weights, and the record of their training. `full/`: networks trained in full. `ray/`: Ray's state during a
search. Read `trial_log.py` next.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nas.datasets.images.fingerprint import Fingerprint
from nas.errors import NasError
from nas.files import is_locked, write_atomically
from nas.files import locked as lock_file
from nas.paths import absolute
from nas.records import cut_torn_line, parse
from nas.runs.description import DESCRIPTION, HEADER
from nas.runs.experiment import Experiment
from nas.runs.serialization import SCHEMA, describe

EXPERIMENT_FILE: Final = "experiment.json"
TRIALS_FILE: Final = "trials.jsonl"
HISTORY_FILE: Final = "history.jsonl"
LOCK_FILE: Final = "lock"
WEIGHTS: Final = "checkpoints"
RAY: Final = "ray"
LATENCY_FILE: Final = "latency.json"
SHARED: Final = "shared"  # shared weights
FULL: Final = "full"  # export folders of full trainings
LOCK_WAIT: Final = 2.0  # seconds; `is_running` in another process holds the lock for a moment
BUSY: Final = "another process is searching {run}; wait for its end, or stop it with Ctrl-C"


def weights_file(run: Path, trial: int) -> Path:
    """The file of the weights of a finished trial; it exists only if the run keeps them."""
    return run / WEIGHTS / f"{trial}.safetensors"


def shared_weights_file(run: Path) -> Path:
    """The file of a run's shared weights; it exists once they are trained."""
    return run / SHARED / "weights.safetensors"


def create_run(
    experiment: Experiment, name: str, fingerprint: Fingerprint | None = None, teachers: Mapping[str, str] | None = None
) -> Path:
    """Create a run folder with its experiment.json under `experiment.runs`.

    Raises: NasError if the folder cannot be written.
    """
    stem = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    described = describe(experiment, name, fingerprint, teachers)
    try:
        run = _new_folder(absolute(experiment.runs), stem)
        (run / WEIGHTS).mkdir()
        for file in (TRIALS_FILE, HISTORY_FILE, LOCK_FILE):
            (run / file).touch()
    except OSError as error:
        raise NasError(f"runs folder {experiment.runs!r} cannot be written: {error.strerror}; give another folder") from None
    write_experiment(run, described)
    return run


def write_experiment(run: Path, described: Mapping[str, Any]) -> None:
    """Write experiment.json atomically.

    Raises: NasError if it cannot be written.
    """
    write_atomically(run / EXPERIMENT_FILE, json.dumps(described, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock the run against searches by other processes; the system unlocks it if this process dies.

    Raises: NasError if another process holds the lock, or the run cannot be written.
    """
    with lock_file(run / LOCK_FILE, busy=BUSY.format(run=run), wait_seconds=LOCK_WAIT):
        yield


def check_free(run: Path) -> None:
    """Check that no other process searches the run.

    Raises: NasError if one does.
    """
    if is_running(run):
        raise NasError(BUSY.format(run=run))


def is_running(run: Path) -> bool:
    """Whether a process is searching the run, on this machine or on another one if the file system shares locks."""
    return is_locked(run / LOCK_FILE)


def mend_logs(run: Path) -> None:
    """Cut off a torn last line, which a killed writer leaves, from both logs, so that new lines can follow."""
    for name in (TRIALS_FILE, HISTORY_FILE):
        cut_torn_line(run / name)


def _new_folder(parent: Path, stem: str) -> Path:
    """A new folder `stem` in `parent`; `stem-2` and so on if a run of the same second exists."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def read_experiment(run: Path) -> dict[str, Any]:
    """The contents of a run's experiment.json.

    Raises: NasError if `run` is no run folder, or has a schema that this version does not read.
    """
    file = run / EXPERIMENT_FILE
    if not file.is_file() or not (run / TRIALS_FILE).is_file():
        raise NasError(
            f"{run} is not a run folder: it has no {EXPERIMENT_FILE} and {TRIALS_FILE}; `nas search` makes one under runs/"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NasError(f"{file} cannot be read: {error}") from None
    schema = parse(HEADER, text, str(file)).schema
    if schema != SCHEMA:
        raise NasError(f"{run} has schema {schema!r}, and this version of nas reads {SCHEMA}; use the version that wrote it")
    parse(DESCRIPTION, text, str(file))
    return dict(json.loads(text))


def directions_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Objective → minimize or maximize, of the objectives that a run searches by; those only to look at are left out."""
    return {one["name"]: one["direction"] for one in described["objectives"] if one["steers"]}
