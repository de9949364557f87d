"""Two searches held against each other, and a search's short trainings against full ones. Read `report.py` next."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.pareto import Box, Losses, dominates, loss
from nas.statistics import Agreement, Interval, agreement, difference_interval
from nas.table import front, full_trainings, losses, results, run_folders
from nas.trial import Status

ENOUGH: Final = 2  # runs of a side, that tell something of the noise
LEVELS: Final = 5  # costs at which attainment is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One or several runs of a comparison."""

    runs: tuple[str, ...]
    hypervolumes: tuple[float, ...]
    """Of each run's front, as a share of the box around all that any run found (`pareto.Box`)."""
    coverage: float
    """Share of the other side's front networks that one of this side's beats; mean over all pairs of runs."""
    attained: tuple[float, ...]
    """At each of `Comparison.levels`, the best value of the first objective within it; median over the runs, NaN for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `nas compare` tells."""

    one: Side
    other: Side
    objectives: tuple[str, ...]
    reference: tuple[float, ...]
    """A tenth beyond the worst value of each objective that any run found, so that the ends of a front count too."""
    levels: tuple[float, ...]
    """Of the second objective; empty where there is one objective alone."""
    difference: float
    """Mean hypervolume of one less that of the other."""
    interval: Interval | None
    """Holds 95 % of it (over the runs of each side); None where a side has one alone."""

    @property
    def verdict(self) -> str:
        """Which is better, or that nothing tells."""
        if self.interval is None:
            return (
                f"hypervolumes differ by {self.difference:+.4f}; a side has one run alone, so nobody knows whether "
                "that is noise: give folders of runs over several seeds"
            )
        low, high = self.interval
        between = f"{self.difference:+.4f}, 95 % from {low:+.4f} to {high:+.4f}"
        if low <= 0 <= high:
            return f"the difference of hypervolumes is within the noise: {between}"
        return f"the {'first' if self.difference > 0 else 'second'} is better by hypervolume: {between}"


def compare(one: Any, other: Any) -> Comparison:
    """Hold two searches against each other: each a run folder, or a folder of runs over several seeds.

    Raises: NasError for runs with different objectives, or without a network on their front.
    """
    tables = [[results(run) for run in run_folders(side)] for side in (one, other)]
    directions = _common_directions([table for side in tables for table in side])
    found = [[_found(table) for table in side] for side in tables]
    done = [point for side in found for table in side for point in losses(table, directions)]
    box = Box.around(done)
    fronts = [[losses(front(table, directions), directions) for table in side] for side in found]
    volumes = [tuple(map(box.share, side)) for side in fronts]
    levels = tuple(np.quantile([point[1] for point in done], np.linspace(0, 1, LEVELS))) if len(directions) > 1 else ()
    hows = list(directions.values())
    sides = [
        Side(
            runs=tuple(map(_name, tables[i])),
            hypervolumes=volumes[i],
            coverage=float(np.mean([_coverage(a, b) for a in fronts[i] for b in fronts[1 - i]])),
            attained=tuple(loss(_attained(fronts[i], level), hows[0]) for level in levels),
        )
        for i in (0, 1)
    ]
    return Comparison(
        one=sides[0],
        other=sides[1],
        objectives=tuple(directions),
        reference=tuple(map(loss, box.reference, hows)),
        levels=tuple(loss(float(level), hows[1]) for level in levels),
        difference=float(np.mean(volumes[0]) - np.mean(volumes[1])),
        interval=difference_interval(*volumes) if min(map(len, volumes)) >= ENOUGH else None,
    )


def _common_directions(tables: list[pd.DataFrame]) -> dict[str, str]:
    """The objectives of all the runs.

    Raises: NasError where they differ.
    """
    directions: dict[str, str] = tables[0].attrs["directions"]
    for table in tables:
        if table.attrs["directions"] != directions:
            theirs, ours = (
                ", ".join(f"{name} ({how})" for name, how in asked.items()) for asked in (table.attrs["directions"], directions)
            )
            raise NasError(
                f"{_name(table)} was searched for {theirs}, and {_name(tables[0])} for {ours}; give runs of the same objectives"
            )
    return directions


def _name(table: pd.DataFrame) -> str:
    return str(table["run"].iloc[0]) if len(table) else "a run without trials"


def _found(df: pd.DataFrame) -> pd.DataFrame:
    """What the search itself has found: done and within the limits, and no baseline.

    Raises: NasError where that is nothing.
    """
    known = df[list(df.attrs["directions"])].notna().all(axis=1)
    found = df[(df["status"] == Status.DONE) & df["within_limits"] & ~df["is_baseline"] & known]
    if found.empty:
        raise NasError(f"{_name(df)} has found no network yet, so there is nothing to compare")
    return found


def _coverage(one: list[Losses], other: list[Losses]) -> float:
    """Share of the other's points that one of the first's beats."""
    return sum(any(dominates(mine, theirs) for mine in one) for theirs in other) / len(other)


def _attained(fronts: list[list[Losses]], level: float) -> float:
    """The best first loss within a level of the second: median over the runs, NaN where half of them have none."""
    best = [min((point[0] for point in front if point[1] <= level), default=math.inf) for front in fronts]
    median = float(np.median(best))
    return median if math.isfinite(median) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How well a search's ranking agrees with that of full trainings."""

    networks: int
    seeds: int
    """Of each network, at the least."""
    epochs: int
    """Of each full training."""
    agreement: Agreement
    """Between the objective that has a learning curve and the mean test top-1 of the full trainings."""

    def __str__(self) -> str:
        """In one sentence."""
        return (
            f"Kendall's tau between the search's ranking and that of full trainings: {self.agreement} "
            f"({self.networks} networks, {self.epochs} epochs, {self.seeds} seeds or more of each)"
        )


def trust(run: Path) -> Trust | None:
    """How the rankings of a run agree, by its full trainings of the most epochs that at least two networks have.

    None where there are no such trainings, or no objective of the run has a learning curve.
    """
    df = results(run)
    curve = df.attrs["learning_curve"]
    searched = dict(zip(df["trial"], df[curve], strict=True)) if curve else {}
    of_epochs: dict[int, dict[int, list[float]]] = {}
    for training in full_trainings(run):
        if training.trial in searched:
            of_epochs.setdefault(training.epochs, {}).setdefault(training.trial, []).append(training.test_top1_pct)
    epochs = max((number for number, tests in of_epochs.items() if len(tests) > 1), default=None)
    if epochs is None:
        return None
    tests = of_epochs[epochs]
    return Trust(
        networks=len(tests),
        seeds=min(map(len, tests.values())),
        epochs=epochs,
        agreement=agreement([searched[trial] for trial in tests], list(tests.values())),
    )
