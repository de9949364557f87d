"""How well the ranking of a search's short trainings agrees with that of full ones (`nas verify`). Read `comparison.py` next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import kendalltau

from nas.table import full_trainings, results

TOP1: Final = "val_top1_pct"
RESAMPLES: Final = 2_000  # of the bootstrap
ENOUGH: Final = 5  # networks, of which a bootstrap has something to draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How well a search's ranking agrees with that of full trainings."""

    networks: int
    seeds: int
    """Of each network, at the least."""
    epochs: int
    """Of each full training."""
    kendall: float
    """Between the search's validation top-1 and the mean test top-1 of the full trainings; NaN where one of them is all ties."""
    interval: tuple[float, float] | None
    """Holds 95 % of it: bootstrap over the networks, and over the seeds of each; None for less than five networks."""

    def __str__(self) -> str:
        """In one sentence."""
        between = "too few for an interval"
        if self.interval is not None:
            between = f"95 % from {self.interval[0]:.2f} to {self.interval[1]:.2f}"
        return (
            f"Kendall's tau between the search's ranking and that of full trainings: {self.kendall:.2f}, {between} "
            f"({self.networks} networks, {self.epochs} epochs, {self.seeds} seeds or more of each)"
        )


def trust(run: Path) -> Trust | None:
    """How the rankings of a run agree, by its full trainings of the most epochs that at least two networks have; None without."""
    df = results(run)
    searched = dict(zip(df["trial"], df[TOP1], strict=True))
    of_epochs: dict[int, dict[int, list[float]]] = {}
    for training in full_trainings(run):
        if training.trial in searched:
            of_epochs.setdefault(training.epochs, {}).setdefault(training.trial, []).append(training.test_top1_pct)
    epochs = max((number for number, tests in of_epochs.items() if len(tests) > 1), default=None)
    return None if epochs is None else agreement(searched, of_epochs[epochs], epochs=epochs)


def agreement(searched: Mapping[int, float], tests: Mapping[int, Sequence[float]], *, epochs: int) -> Trust:
    """Of the search's top-1 of each network, and the test top-1 of each of its full trainings."""
    trials = list(tests)
    quick = np.array([searched[trial] for trial in trials])

    def tau(places: "np.ndarray[Any, Any]", means: "np.ndarray[Any, Any]") -> float:
        return float(kendalltau(quick[places], means).statistic)

    whole = Trust(
        networks=len(trials),
        seeds=min(map(len, tests.values())),
        epochs=epochs,
        kendall=tau(np.arange(len(trials)), np.array([np.mean(tests[trial]) for trial in trials])),
        interval=None,
    )
    if len(trials) < ENOUGH:
        return whole
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        places = generator.integers(0, len(trials), len(trials))
        means = np.array([np.mean(generator.choice(tests[trial], len(tests[trial]))) for trial in trials])
        draws.append(tau(places, means[places]))  # a network drawn twice ties with itself in both rankings
    low, high = np.nanquantile(draws, (0.025, 0.975)) if np.isfinite(draws).any() else (np.nan, np.nan)
    return replace(whole, interval=(float(low), float(high)))
