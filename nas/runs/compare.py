"""Compares two searches by hypervolume, and the ranking of a search with that of full trainings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.objectives import loss
from nas.runs.front import as_believed, losses
from nas.runs.images import changed_images, fingerprint_of
from nas.runs.pareto import Box
from nas.runs.results import full_trainings, measured_columns, results, run_folders
from nas.runs.run_folder import read_experiment
from nas.runs.trial import Status, Weights
from nas.statistics import RankAgreement, difference_interval, kendall_tau, rank_agreement

MIN_RUNS: Final = 2  # of each side, to estimate the noise between seeds
CHECKED_SHARES: Final = (1 / 9, 1 / 3, 2 / 3)  # of the epochs
MIN_PREDICTED: Final = 8  # networks, below which a rank correlation is not shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Hypervolumes of the runs of two searches."""

    one: tuple[float, ...]
    """The hypervolume of each run of the first search, as a share of the box around the networks of all runs (`pareto.Box`)."""
    other: tuple[float, ...]
    """The same for the second search."""
    reference: dict[str, float]
    """The reference point, objective → value: a tenth of the range worse than the worst value of any run."""
    trained_on: str = ""
    """How the training images of the runs differ, in words; empty if they do not."""

    @property
    def verdict(self) -> str:
        """Which search is better, with the 95 % interval of the difference of the means; or why the runs do not show it."""
        return "; ".join(filter(None, (self._verdict, self.trained_on)))

    @property
    def _verdict(self) -> str:
        difference = float(np.mean(self.one) - np.mean(self.other))
        if min(len(self.one), len(self.other)) < MIN_RUNS:
            return (
                f"hypervolumes differ by {difference:+.4f}; with a single run on a side that may be noise: give folders of runs "
                "over several seeds"
            )
        low, high = difference_interval(self.one, self.other)
        between = f"{difference:+.4f}, 95 % from {low:+.4f} to {high:+.4f}"
        if low <= 0 <= high:
            return f"the difference of hypervolumes is within the noise: {between}"
        return f"the {'first' if difference > 0 else 'second'} is better by hypervolume: {between}"


def compare(one: Any, other: Any) -> Comparison:
    """Compare two searches, each a run folder or a folder of runs over several seeds.

    Raises: NasError for runs with different objectives or validation images, or for a run without a finished network that counts.
    """
    sides = [run_folders(side) for side in (one, other)]
    tables = [[results(run) for run in side] for side in sides]
    trained_on = _check_same_images([run for side in sides for run in side])
    directions = _common_directions([table for side in tables for table in side])
    points = [[losses(_candidates(table), directions) for table in side] for side in tables]
    box = Box.around([point for side in points for run in side for point in run])
    one_shares, other_shares = (tuple(map(box.share, side)) for side in points)
    reference = map(loss, box.reference, directions.values())
    return Comparison(
        one=one_shares, other=other_shares, reference=dict(zip(directions, reference, strict=True)), trained_on=trained_on
    )


def _check_same_images(runs: Sequence[Path]) -> str:
    """How the runs' training images differ, in words; empty if they do not.

    Raises: NasError if their validation images differ, so that their accuracies do not compare.
    """
    first, *others = [(run.name, read_experiment(run)) for run in runs]
    for name, described in others:
        now = fingerprint_of(described)
        if changed := changed_images(first[1], now, ["val"]):
            raise NasError(f"{name} ranks on other images than {first[0]}: {changed}; give runs on the same images")
    changes = ((name, changed_images(first[1], fingerprint_of(described))) for name, described in others)
    return next((f"{name} trains on other images than {first[0]}: {changed}" for name, changed in changes if changed), "")


def _common_directions(tables: list[pd.DataFrame]) -> dict[str, str]:
    """The objectives and directions that all runs share.

    Raises: NasError if they differ.
    """
    texts = [", ".join(f"{name} ({how})" for name, how in table.attrs["directions"].items()) for table in tables]
    for table, text in zip(tables, texts, strict=True):
        if table.attrs["directions"] != tables[0].attrs["directions"]:
            what = f"{_name(table)} has objectives {text}, and {_name(tables[0])} has {texts[0]}"
            raise NasError(f"{what}; give runs of the same objectives")
    return dict(tables[0].attrs["directions"])


def _name(table: pd.DataFrame) -> str:
    return str(table["run"].iloc[0]) if len(table) else "a run without trials"


def _candidates(df: pd.DataFrame) -> pd.DataFrame:
    """The rows that count as results of the search: done, within the limits, and no baselines.

    Raises: NasError if there is none.
    """
    is_measured = df[list(df.attrs["directions"])].notna().all(axis=1)
    candidates = df[(df["status"] == Status.DONE) & df["within_limits"] & ~df["is_baseline"] & is_measured]
    if candidates.empty:
        raise NasError(f"{_name(df)} has no finished network yet, so there is nothing to compare")
    return candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingCheck:
    """How well the ranking of a search agrees with that of full trainings."""

    networks: int
    seeds: int
    """Smallest number of seeds of a network."""
    epochs: int
    """Epochs of each full training."""
    agreement: RankAgreement
    """Between the top-1 of the search, where there is one the believed one, and the mean test top-1 of the full trainings."""
    two_seeds: RankAgreement | None = None
    """Between the measured top-1 and that with another seed; None without such trainings of all these networks."""

    def __str__(self) -> str:
        """The agreement in one sentence, beside that of two seeds."""
        two_seeds = "" if self.two_seeds is None else f"; between two seeds of the search's own trainings: {self.two_seeds}"
        trained = f"{self.networks} networks, {self.epochs} epochs, {self.seeds} seed{'s' * (self.seeds > 1)} or more of each"
        return f"Kendall's tau between the search's ranking and that of full trainings: {self.agreement} ({trained}){two_seeds}"


def check_ranking(run: Path) -> RankingCheck | None:
    """Compare the ranking of a run with that of its longest full trainings that at least two networks have.

    None if there are no such trainings, or no objective of the run has a learning curve.
    """
    df = results(run)
    curve = df.attrs["learning_curve"]
    if curve is None:
        return None
    searched, ranking = (table.dropna(subset=["trial"]).set_index("trial")[curve] for table in (df, as_believed(df)))
    full = full_trainings(run)
    full = full[full["trial"].isin(searched.index)]
    networks = full.groupby("epochs")["trial"].nunique()
    if not (networks > 1).any():
        return None
    epochs = networks[networks > 1].index.max()
    tests = full[full["epochs"] == epochs].groupby("trial")["test_top1_pct"].agg(list)
    again = df[(df["weights"] == Weights.TRAINED) & (df["source"] != "reuse")].set_index("trial")["alone_val_top1_pct"]
    again = again.reindex(tests.index)
    two_seeds = None if again.isna().any() else rank_agreement(searched[again.index].tolist(), [[one] for one in again])
    return RankingCheck(
        networks=len(tests),
        seeds=int(tests.map(len).min()),
        epochs=int(epochs),
        agreement=rank_agreement(ranking[tests.index].tolist(), tests.tolist()),
        two_seeds=two_seeds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderCheck:
    """How well the order of trainings after an epoch agrees with their order at the end."""

    epoch: int
    epochs: int
    """Epochs of a whole training."""
    networks: int
    """Whole trainings."""
    kendall: float
    """Kendall's tau between the best top-1 up to the epoch and the last top-1."""
    stopped: int
    """Trials that early stopping had ended by then."""

    def __str__(self) -> str:
        """The agreement in one sentence."""
        stopped = f"{self.stopped or 'no'} trial{'s' * (self.stopped != 1)} had been stopped"
        return (
            f"After {self.epoch} of {self.epochs} epochs the order of {self.networks} whole trainings agrees with that at the "
            f"end by Kendall's tau {self.kendall:.2f}, and {stopped}"
        )


def check_order(df: pd.DataFrame, curves: pd.DataFrame, epochs: int) -> list[OrderCheck]:
    """The agreement at CHECKED_SHARES of the epochs of a run; empty below MIN_PREDICTED whole trainings, or if all are equal.

    `df` and `curves` are the tables of its trials and of their epochs.
    """
    own = df[(df["weights"] == Weights.TRAINED) & ~df["is_baseline"] & (df["source"] != "reuse")]
    top1 = curves.pivot_table(index="epoch", columns="trial", values="val_top1_pct")
    whole = [
        trial for trial in own.loc[own["status"] == Status.DONE, "trial"] if trial in top1 and epochs in top1[trial].dropna()
    ]
    if len(whole) < MIN_PREDICTED:
        return []
    stops = own.loc[(own["status"] == Status.STOPPED) & own["reason"].isna(), "epochs"]  # a limit's have a reason
    checks = [
        OrderCheck(
            epoch=epoch,
            epochs=epochs,
            networks=len(whole),
            kendall=kendall_tau(top1.loc[:epoch, whole].max(), top1.loc[epochs, whole]),
            stopped=int((stops <= epoch).sum()),
        )
        for epoch in sorted({math.ceil(share * epochs) for share in CHECKED_SHARES})
        if epoch < epochs
    ]
    return [check for check in checks if math.isfinite(check.kendall)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """How well one column of the table predicts the ranking of networks by their top-1."""

    name: str
    networks: int
    """Trained networks that have both values."""
    agreement: RankAgreement | None
    """None for too few networks."""

    def __str__(self) -> str:
        """Kendall's tau with its interval, or why there is none."""
        return "too few networks" if self.agreement is None else str(self.agreement)


def predictors(df: pd.DataFrame) -> list[Predictor]:
    """How well each objective only to look at predicts the ranking by top-1, and for comparison every other measured column.

    Each network that was trained alone, to the end, counts once. Empty for a table without such objectives or without a top-1.
    """
    proxies, curve = df.attrs["proxies"], df.attrs["learning_curve"]
    if not proxies or curve is None:
        return []
    done = df[(df["status"] == Status.DONE) & (df["weights"] == Weights.TRAINED)].drop_duplicates("id")
    others = [name for name in measured_columns(df) if name not in (*proxies, curve)]
    return [_predictor(name, done[[name, curve]].dropna()) for name in (*proxies, *others)]


def _predictor(name: str, values: pd.DataFrame) -> Predictor:
    ranked, top1 = (values[column].tolist() for column in values)
    enough = len(values) >= MIN_PREDICTED
    agreement = rank_agreement(ranked, [[one] for one in top1]) if enough else None
    return Predictor(name=name, networks=len(values), agreement=agreement)
