"""How far to trust scores by shared weights: compares them with the accuracies of networks that were also trained alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from nas.models.architecture import Architecture
from nas.models.cost import cost
from nas.runs.alone import read_alone
from nas.runs.results import results
from nas.runs.run_folder import read_experiment
from nas.runs.trial import Status, Weights
from nas.statistics import Interval, RankAgreement, mean_interval, rank_agreement

MIN_NETWORKS: Final = 2  # that a ranking needs
SCORES: Final = "score by shared weights"
CEILING: Final = "one seed alone, with the others"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCheck:
    """How well scores by shared weights agree with the top-1 of the same networks trained alone."""

    networks: int
    seeds: int
    """Smallest number of seeds of a network."""
    epochs: int
    """Epochs of each training alone."""
    difference_pct: float
    """Mean over the networks of the score minus the top-1 alone, percentage points."""
    interval: Interval
    """95 % interval of that mean over networks such as these."""
    rankings: tuple[tuple[str, RankAgreement], ...]
    """What ranks the networks, and how well that agrees with their mean top-1 alone: the score, its loss and the costs.

    The last, if two networks or more have two seeds or more, is the ceiling: the first seed's top-1 alone, with the others'.
    """

    @property
    def difference(self) -> str:
        """The difference between scores and accuracies alone in one sentence."""
        low, high = self.interval
        trained = f"trained alone for {self.epochs} epoch{'s' * (self.epochs > 1)}, {self.seeds} seed{'s' * (self.seeds > 1)}"
        return (
            f"score by shared weights minus top-1 alone: {self.difference_pct:+.1f} points on average, 95 % from {low:+.1f} to "
            f"{high:+.1f} ({self.networks} networks, {trained} or more of each)"
        )

    def __str__(self) -> str:
        """The difference and every Kendall's tau in one sentence."""
        ranked = "; ".join(f"{name} {agreement}" for name, agreement in self.rankings)
        return f"{self.difference}; Kendall's tau with the ranking by top-1 alone: {ranked}"


def scored_networks(df: pd.DataFrame, num_classes: int) -> pd.DataFrame:
    """The done rows by shared weights that count, each network once, with its exact `macs_m` and `params_m`; indexed by trial."""
    is_scored = (df["status"] == Status.DONE) & (df["weights"] == Weights.SHARED) & df["within_limits"]
    scored = df[is_scored].drop_duplicates("id").set_index("trial")
    costs = [cost(Architecture.from_json(text), num_classes) for text in scored["architecture"]]
    return scored.assign(macs_m=[one.macs / 1e6 for one in costs], params_m=[one.params / 1e6 for one in costs])


def check_shared(run: Path) -> SharedCheck | None:
    """Compare a run's scores by shared weights with its trainings alone; None if fewer than two networks have both.

    Raises: NasError if `run` is no run folder or is damaged.
    """
    df, described = results(run), read_experiment(run)
    scored = scored_networks(df, len(described["dataset"]["classes"]))
    alone = pd.DataFrame(read_alone(run), columns=["trial", "epochs", "val_top1_pct"])
    alone = alone[alone["trial"].isin(scored.index)]
    if alone["trial"].nunique() < MIN_NETWORKS:
        return None
    measured = alone.groupby("trial")["val_top1_pct"].agg(list)
    scored = scored.loc[measured.index]
    scores = scored[df.attrs["learning_curve"]]
    differences = (scores - measured.map(np.mean)).tolist()
    ranked = {
        SCORES: scores,
        "its loss": -scored["val_loss"],
        "multiply-adds": scored["macs_m"],
        "parameters": scored["params_m"],
    }
    rankings = [(name, rank_agreement(values.tolist(), measured.tolist())) for name, values in ranked.items()]
    repeated = measured[measured.map(len) > 1]
    if len(repeated) >= MIN_NETWORKS:
        rankings.append((CEILING, rank_agreement([first for first, *_ in repeated], [others for _, *others in repeated])))
    return SharedCheck(
        networks=len(measured),
        seeds=int(measured.map(len).min()),
        epochs=int(alone["epochs"].max()),
        difference_pct=float(np.mean(differences)),
        interval=mean_interval(differences),
        rankings=tuple(rankings),
    )
