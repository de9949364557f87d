"""Lists the runs in a folder, and removes weights and checkpoints that they no longer need. Needs neither torch nor Ray."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nas.errors import NasError
from nas.runs.front import best
from nas.runs.results import results
from nas.runs.run_folder import (
    EXPERIMENT_FILE,
    WEIGHTS,
    directions_of,
    is_running,
    locked,
    read_experiment,
    shared_weights_file,
    weights_file,
)
from nas.runs.trial import UNDER_WAY
from nas.runs.trial_log import read_trials


class RunSummary(NamedTuple):
    """One line of the list of runs."""

    run: Path
    state: str
    """running, finished or interrupted (`nas resume` continues it); or why it cannot be read."""
    trials: str = ""
    """Trials that have ended and count / trials of the experiment, such as 12/50 or 12/auto; by shared weights, scores."""
    front: int = 0
    """Number of networks on the front."""
    best: str = ""
    """The first objective's name and its best value."""
    size_mb: float = 0.0
    """Size on disk, 10^6 bytes."""


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs in a folder, sorted by name; a damaged run is listed with its error.

    Raises: NasError if the folder does not exist.
    """
    if not folder.is_dir():
        raise NasError(f"{folder} is not a folder; `nas search` makes one for its runs, by default runs/")
    return [summarize(file.parent) for file in sorted(folder.glob(f"*/{EXPERIMENT_FILE}"))]


def summarize(run: Path) -> RunSummary:
    """The summary of one run; a damaged run gives its error as the state."""
    size = size_mb(run)
    try:
        described, df = read_experiment(run), results(run)
    except NasError as error:
        return RunSummary(run=run, state=f"unreadable: {error}", size_mb=size)
    by_scores, trials = described["shared_weights"] != "none", read_trials(run)
    ended = sum(trial.counts_as_score if by_scores else trial.counts for trial in trials)
    wanted = described["shared_trials" if by_scores else "trials"]
    first = next(iter(directions_of(described)))
    can_count = not (by_scores or wanted == "auto")  # after scores, the front is trained
    finished = described.get("finished", False) or (can_count and ended >= wanted)
    return RunSummary(
        run=run,
        state="running" if is_running(run) else "finished" if finished else "interrupted",
        trials=f"{ended}/{wanted}",
        front=int(df["is_front"].sum()),
        best=f"{first} {best(df, first, within_error=True)[first]:.4g}" if df["is_front"].any() else "",
        size_mb=size,
    )


def removable(run: Path) -> list[Path]:
    """Files of a run that `clean` may remove: weights of trials off the front, checkpoints of trials that have ended.

    Once the run is finished, also its shared weights: its rows and the weights of its front do not need them.

    Raises: NasError if it is no run folder.
    """
    df = results(run)
    front = {weights_file(run, trial).name for trial in df["trial"][df["is_front"]]}
    under_way = {f"trial{trial}" for trial in df["trial"][df["status"].isin(UNDER_WAY)]}
    entries = [entry for entry in sorted((run / WEIGHTS).glob("*")) if entry.name not in front | under_way]
    shared = shared_weights_file(run)
    return [*entries, shared] if shared.is_file() and read_experiment(run).get("finished", False) else entries


def size_mb(path: Path) -> float:
    """The size of a file, or of all files in a folder and its subfolders, 10^6 bytes."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):  # a running search removes files
            total += file.stat().st_size if file.is_file() else 0
    return total / 1e6


def clean(run: Path) -> float:
    """Remove the `removable` files of a run; returns their size in MB (10^6 bytes).

    Raises: NasError while a search of the run is running.
    """
    with locked(run):
        entries = removable(run)
        freed = sum(map(size_mb, entries))
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return freed
