"""Searches in processes of their own, timed from start to end, and what their rows were worth at any second."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd
import torch

from experiments.benchmarks.shared_weights.measurements import NEEDS_ROOT, Bench
from nas import results
from nas.datasets import Dataset, load_part
from nas.models.export_folder import with_weights
from nas.models.network import parse_network
from nas.runs.pareto import Losses, dominates, hypervolume, non_dominated
from nas.runs.run_folder import weights_file
from nas.training.predict import Preprocess, num_correct, predict

WORKERS: Final = 2
STOP_SECONDS: Final = 180.0  # for the epochs under way to end, before the search is ended at once
ENDLESS: Final = ("--trials", "1000000")  # trials of a search that its time ends


class Point(NamedTuple):
    """A network that was once on a search's front."""

    seconds: float
    """From the start of the search's process to the network's row."""
    val_top1_pct: float
    macs_m: float
    test_top1_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search that has ended."""

    run: Path
    seconds: float
    """The whole process."""
    rows: pd.DataFrame
    """Its networks that are done, with `at`: seconds from the start of the process to the row."""


@contextmanager
def searched(bench: Bench, name: str, options: Sequence[str], *, seconds: float | None = None) -> Iterator[Search]:
    """`nas search` as a user types it, on two workers, ended by Ctrl-C after `seconds`; its run folder is removed at the end.

    Raises: SystemExit with the end of its output if it fails.
    """
    roots = ["--dataset.root", str(bench.root)] if name == NEEDS_ROOT else []
    with tempfile.TemporaryDirectory() as folder:
        line = ["nas", "search", name, "--runs", f"{folder}/runs", "--workers", str(WORKERS), *roots, *options]
        log, began, clock = Path(folder, "log"), datetime.now(UTC).replace(tzinfo=None), time.monotonic()
        code = _run(line, log, seconds)
        took = time.monotonic() - clock
        if code not in (0, 128 + signal.SIGINT if seconds else 0):
            raise SystemExit(f"{' '.join(line)} ended with code {code}:\n{log.read_text(encoding='utf-8')[-4000:]}")
        (run,) = Path(folder, "runs").iterdir()
        table = results(run)
        rows = table[(table["status"] == "done") & ~table["is_baseline"]].sort_values("ended", kind="stable")
        yield Search(run=run, seconds=took, rows=rows.assign(at=(rows["ended"] - began).dt.total_seconds()))


def _run(line: Sequence[str], log: Path, seconds: float | None) -> int:
    """The exit code of a command, which is interrupted after `seconds`; what it prints goes into `log`."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen([sys.executable, "-m", *line], stdout=output, stderr=subprocess.STDOUT)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            return process.wait(STOP_SECONDS)
        finally:
            process.terminate()  # it may have overstayed, or this process ends
            process.wait()


def ever_on_front(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that were on the front when they ended, by top-1 on the search validation part; `rows` are in that order."""
    front: list[Losses] = []
    kept = []
    for top1_pct, macs_m in zip(rows["val_top1_pct"], rows["macs_m"], strict=True):
        point = (-top1_pct, macs_m)
        kept.append(not any(other == point or dominates(other, point) for other in front))
        if kept[-1]:
            front = [other for other in front if not dominates(point, other)] + [point]
    return rows[kept]


@torch.inference_mode()
def test_points(search: Search, rows: pd.DataFrame, dataset: Dataset) -> list[Point]:
    """These rows of a search, with their saved weights measured on the test part."""
    torch.set_num_threads(WORKERS)
    data, num_classes, points = load_part(dataset, "test"), len(dataset.classes), []
    for row in rows.itertuples():
        network = parse_network(str(row.architecture))
        model = with_weights(network, num_classes, weights_file(search.run, int(str(row.trial))))
        preprocess = Preprocess(resolution=network.resolution, mean=dataset.mean, std=dataset.std)
        test_top1_pct = 100.0 * num_correct(predict(model, data, preprocess), data) / len(data)
        seconds, val_top1_pct, macs_m = (float(str(value)) for value in (row.at, row.val_top1_pct, row.macs_m))
        points.append(Point(seconds, val_top1_pct, macs_m, test_top1_pct))
    return points


def front_at(points: Sequence[Point], seconds: float) -> list[Point]:
    """The front by the search validation part of the networks that were measured by then; of equal ones the latest alone."""
    latest = {(-point.val_top1_pct, point.macs_m): point for point in points if point.seconds <= seconds}
    return [point for point, kept in zip(latest.values(), non_dominated(list(latest)), strict=True) if kept]


def share_pct(front: Sequence[tuple[float, float]], chance_pct: float, macs_m: float) -> float:
    """Hypervolume of (top-1, MACs) above the top-1 of chance and below `macs_m`, in percent of what 100 % without MACs has."""
    volume = hypervolume([(-top1_pct, cost) for top1_pct, cost in front], (-chance_pct, macs_m))
    return 100.0 * volume / ((100.0 - chance_pct) * macs_m)


def seconds_until(rows: pd.DataFrame, share: float, chance_pct: float, macs_m: float) -> float | None:
    """Seconds until the front by the search validation part has a share of the hypervolume; None if it never has."""
    front: list[tuple[float, float]] = []
    for row in ever_on_front(rows).itertuples():
        front.append((float(str(row.val_top1_pct)), float(str(row.macs_m))))
        if share_pct(front, chance_pct, macs_m) >= share:
            return float(str(row.at))
    return None
