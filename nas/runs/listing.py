"""Every run in a folder, and what of them could be removed. Needs neither torch nor Ray."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nas.errors import NasError
from nas.runs.folder import EXPERIMENT_FILE, WEIGHTS, is_running, locked, read_experiment, weights_file
from nas.runs.results import best, results
from nas.runs.trial import UNDER_WAY
from nas.runs.trial_log import read_trials


class RunSummary(NamedTuple):
    """A run at a glance."""

    run: Path
    state: str
    """running, finished, or interrupted, which `nas resume` continues; or what is wrong with it."""
    trials: str = ""
    """How many have ended, of how many."""
    front: int = 0
    """Networks on the front."""
    best: str = ""
    """The best value of the first objective."""
    size_mb: float = 0.0
    """On the disk, 10^6 bytes."""


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs in a folder, in the order of their names; one that cannot be read is listed with the reason.

    Raises: NasError if there is no such folder.
    """
    if not folder.is_dir():
        raise NasError(f"{folder} is not a folder; `nas search` makes one for its runs, by default runs/")
    return [summarize(file.parent) for file in sorted(folder.glob(f"*/{EXPERIMENT_FILE}"))]


def summarize(run: Path) -> RunSummary:
    """A run at a glance; never raises for what is in its folder."""
    size = size_mb(run)
    try:
        described, df = read_experiment(run), results(run)
    except NasError as error:
        return RunSummary(run=run, state=f"unreadable: {error}", size_mb=size)
    ended = sum(trial.counts for trial in read_trials(run))
    first = described["objectives"][0]["name"]
    finished = ended >= described["trials"] or described.get("exhausted", False)
    return RunSummary(
        run=run,
        state="running" if is_running(run) else "finished" if finished else "interrupted",
        trials=f"{ended}/{described['trials']}",
        front=int(df["is_front"].sum()),
        best=f"{first} {best(df, first, within_error=True)[first]:.4g}" if df["is_front"].any() else "",
        size_mb=size,
    )


def removable(run: Path) -> list[Path]:
    """What a run keeps that no network on its front needs: weights off the front, checkpoints of trials that have ended.

    Raises: NasError if it is not a run folder.
    """
    df = results(run)
    front = {weights_file(run, trial).name for trial in df["trial"][df["is_front"]]}
    under_way = {f"trial{trial}" for trial in df["trial"][df["status"].isin(UNDER_WAY)]}
    return [entry for entry in sorted((run / WEIGHTS).glob("*")) if entry.name not in front | under_way]


def size_mb(path: Path) -> float:
    """Of a file, or of all files under a folder; 10^6 bytes."""
    found = 0
    for folder, _, names in os.walk(path) if path.is_dir() else [(path.parent, (), [path.name])]:
        for name in names:
            with suppress(FileNotFoundError):  # a search removes what it no longer needs
                found += Path(folder, name).stat().st_size
    return found / 1e6


def clean(run: Path) -> float:
    """Remove what is removable, and give how many MB that was.

    Raises: NasError if a process searches on the run.
    """
    with locked(run):
        entries = removable(run)
        freed = sum(map(size_mb, entries))
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return freed
