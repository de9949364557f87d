"""Two searches, or two groups of them over several seeds, held against each other. Read `cli.py` next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind

from nas.errors import NasError
from nas.pareto import dominates, hypervolume
from nas.table import front, results, run_folders

RESAMPLES: Final = 10_000  # of the bootstrap
ENOUGH: Final = 2  # runs of a side, that tell something of the noise
MANY: Final = 20  # from which on a bootstrap holds what it says
BEYOND: Final = 0.1  # of the range of values, from the worst to the reference point
LEVELS: Final = 5  # costs at which attainment is told

Points = list[tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One or several runs of a comparison."""

    runs: tuple[str, ...]
    hypervolumes: tuple[float, ...]
    """Of each run's front, as a share of the box from the best value that any run found on each objective to the reference."""
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
    interval: tuple[float, float] | None
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
    first = tables[0][0]
    directions: dict[str, str] = first.attrs["directions"]
    for table in (table for side in tables for table in side):
        if table.attrs["directions"] != directions:
            theirs = ", ".join(f"{name} ({how})" for name, how in table.attrs["directions"].items())
            ours = ", ".join(f"{name} ({how})" for name, how in directions.items())
            raise NasError(
                f"{_name(table)} was searched for {theirs}, and {_name(first)} for {ours}; give runs of the same objectives"
            )
    found = [[table[_found(table)] for table in side] for side in tables]
    for table, kept in zip(tables[0] + tables[1], found[0] + found[1], strict=True):
        if kept.empty:
            raise NasError(f"{_name(table)} has found no network yet, so there is nothing to compare")
    signs = np.array([1.0 if how == "minimize" else -1.0 for how in directions.values()])
    done = np.concatenate([_losses(table, list(directions), signs) for side in found for table in side])
    best, worst = done.min(axis=0), done.max(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    reference = worst + BEYOND * span
    losses = [[_losses(front(table, directions), list(directions), signs) for table in side] for side in found]
    fronts = [[list(map(tuple, (front - best) / span)) for front in side] for side in losses]
    box = tuple((reference - best) / span)
    volumes = [tuple(hypervolume(front, box) / math.prod(box) for front in side) for side in fronts]
    levels = () if len(signs) < 2 else tuple(np.quantile(done[:, 1], np.linspace(0, 1, LEVELS)))
    sides = [
        Side(
            runs=tuple(map(_name, tables[i])),
            hypervolumes=volumes[i],
            coverage=float(np.mean([_coverage(a, b) for a in fronts[i] for b in fronts[1 - i]])),
            attained=tuple(signs[0] * _attained(losses[i], level) for level in levels),
        )
        for i in (0, 1)
    ]
    return Comparison(
        one=sides[0],
        other=sides[1],
        objectives=tuple(directions),
        reference=tuple(map(float, signs * reference)),
        levels=tuple(float(signs[1] * level) for level in levels),
        difference=float(np.mean(volumes[0]) - np.mean(volumes[1])),
        interval=of_difference(*volumes) if min(map(len, volumes)) >= ENOUGH else None,
    )


def of_difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """What holds 95 % of the difference of two means: a bootstrap; of few runs Welch's t, as a bootstrap is too sure of them."""
    if min(len(one), len(other)) < MANY:
        if max(np.ptp(one), np.ptp(other)) == 0:
            return (float(np.mean(one) - np.mean(other)),) * 2
        found = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
        return float(found.low), float(found.high)
    generator = np.random.default_rng(0)
    means = [generator.choice(side, (RESAMPLES, len(side))).mean(axis=1) for side in (one, other)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return float(low), float(high)


def _name(table: pd.DataFrame) -> str:
    return str(table["run"].iloc[0]) if len(table) else "a run without trials"


def _found(df: pd.DataFrame) -> "pd.Series[bool]":
    """What the search itself has found: done and within the limits, and no baseline."""
    known = df[list(df.attrs["directions"])].notna().all(axis=1)
    return (df["status"] == "done") & df["within_limits"] & ~df["is_baseline"] & known


def _losses(df: pd.DataFrame, objectives: list[str], signs: Any) -> Any:
    """(networks, objectives): the lower the better."""
    return df[objectives].to_numpy(dtype=float) * signs


def _coverage(one: Points, other: Points) -> float:
    """Share of the other's points that one of the first's beats."""
    return sum(any(dominates(mine, theirs) for mine in one) for theirs in other) / len(other)


def _attained(fronts: list[Any], level: float) -> float:
    """The best first loss within a level of the second: median over the runs, NaN where half of them have none."""
    best = [front[front[:, 1] <= level, 0].min(initial=np.inf) for front in fronts]
    median = float(np.median(best))
    return median if np.isfinite(median) else float("nan")
