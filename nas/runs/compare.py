"""Two searches held against each other, and a search's short trainings against full ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.objectives import loss
from nas.runs.pareto import Box
from nas.runs.results import full_trainings, losses, results, run_folders
from nas.runs.trial import Status
from nas.statistics import RankAgreement, difference_interval, rank_agreement

ENOUGH: Final = 2  # runs of a side, that tell something of the noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `nas compare` tells."""

    one: tuple[float, ...]
    """The hypervolume of each run of the first side, as a share of the box around all that any run found (`pareto.Box`)."""
    other: tuple[float, ...]
    """The same of the second side."""
    reference: dict[str, float]
    """Objective → a tenth beyond the worst value that any run found, so that the ends of a front count too."""

    @property
    def verdict(self) -> str:
        """Which side is better, or that nothing tells; the interval holds 95 % of the difference of the means."""
        difference = float(np.mean(self.one) - np.mean(self.other))
        if min(len(self.one), len(self.other)) < ENOUGH:
            return (
                f"hypervolumes differ by {difference:+.4f}; a side has one run alone, so nobody knows whether "
                "that is noise: give folders of runs over several seeds"
            )
        low, high = difference_interval(self.one, self.other)
        between = f"{difference:+.4f}, 95 % from {low:+.4f} to {high:+.4f}"
        if low <= 0 <= high:
            return f"the difference of hypervolumes is within the noise: {between}"
        return f"the {'first' if difference > 0 else 'second'} is better by hypervolume: {between}"


def compare(one: Any, other: Any) -> Comparison:
    """Hold two searches against each other: each a run folder, or a folder of runs over several seeds.

    Raises: NasError for runs with different objectives, or without a network on their front.
    """
    tables = [[results(run) for run in run_folders(side)] for side in (one, other)]
    directions = _common_directions([table for side in tables for table in side])
    found = [[losses(_found(table), directions) for table in side] for side in tables]
    box = Box.around([point for side in found for points in side for point in points])
    mine, theirs = (tuple(map(box.share, side)) for side in found)
    reference = map(loss, box.reference, directions.values())
    return Comparison(one=mine, other=theirs, reference=dict(zip(directions, reference, strict=True)))


def _common_directions(tables: list[pd.DataFrame]) -> dict[str, str]:
    """The objectives of all the runs.

    Raises: NasError where they differ.
    """
    asked = [", ".join(f"{name} ({how})" for name, how in table.attrs["directions"].items()) for table in tables]
    for table, theirs in zip(tables, asked, strict=True):
        if table.attrs["directions"] != tables[0].attrs["directions"]:
            what = f"{_name(table)} was searched for {theirs}, and {_name(tables[0])} for {asked[0]}"
            raise NasError(f"{what}; give runs of the same objectives")
    return dict(tables[0].attrs["directions"])


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How well a search's ranking agrees with that of full trainings."""

    networks: int
    seeds: int
    """Of each network, at the least."""
    epochs: int
    """Of each full training."""
    agreement: RankAgreement
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
    if curve is None:
        return None
    searched = df.dropna(subset=["trial"]).set_index("trial")[curve]
    full = full_trainings(run)
    full = full[full["trial"].isin(searched.index)]
    networks = full.groupby("epochs")["trial"].nunique()
    if not (networks > 1).any():
        return None
    epochs = networks[networks > 1].index.max()
    tests = full[full["epochs"] == epochs].groupby("trial")["test_top1_pct"].agg(list)
    return Trust(
        networks=len(tests),
        seeds=int(tests.map(len).min()),
        epochs=int(epochs),
        agreement=rank_agreement(searched[tests.index].tolist(), tests.tolist()),
    )
