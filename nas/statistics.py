"""What is noise: standard errors, and intervals that hold 95 % of what is measured on few images, networks or seeds."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

CONFIDENCE: Final = 0.95  # of every interval here
RESAMPLES: Final = 2_000  # of every bootstrap
MANY: Final = 20  # values a side from which on a bootstrap of a mean holds as much as it says
ENOUGH: Final = 5  # networks, of which a bootstrap of their ranking has something to draw

Interval: TypeAlias = tuple[float, float]


def standard_error_pct(top1_pct: float, images: float) -> float:
    """The standard error of a top-1 over so many images, percent points: binomial, so without what another seed would change."""
    share = min(max(top1_pct / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / images)


def share_interval(held: int, draws: int) -> Interval:
    """The interval of a share that `held` of so many independent draws tell (Wilson's), 0 to 1."""
    from scipy.stats import binomtest

    found = binomtest(held, draws).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def difference_interval(one: Sequence[float], other: Sequence[float]) -> Interval:
    """The interval of the difference of two means: a bootstrap; of few values Welch's t, as a bootstrap is too sure of them."""
    from scipy.stats import ttest_ind

    if max(np.ptp(one), np.ptp(other)) == 0:
        return (float(np.mean(one) - np.mean(other)),) * 2
    if min(len(one), len(other)) >= MANY:
        return bootstrap_interval(lambda a, b: float(np.mean(a) - np.mean(b)), one, other, paired=False)
    found = ttest_ind(one, other, equal_var=False).confidence_interval(CONFIDENCE)
    return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two rankings of the same networks agree."""

    kendall: float
    """Kendall's tau, from -1 to 1; NaN where one ranking is all ties."""
    interval: Interval | None
    """By a bootstrap over the networks, and over the repeats of each; None for less than five networks."""

    def __str__(self) -> str:
        """The number and its interval."""
        if self.interval is None:
            return f"{self.kendall:.2f}, too few for an interval"
        return f"{self.kendall:.2f}, 95 % from {self.interval[0]:.2f} to {self.interval[1]:.2f}"


def agreement(one: Sequence[float], other: Sequence[Sequence[float]]) -> Agreement:
    """How a ranking of networks agrees with that by the mean of several measurements of each."""
    from scipy.stats import kendalltau

    def tau(places: Any, means: Any) -> float:
        return float(kendalltau(np.take(one, places), means).statistic)

    everyone = np.arange(len(one))
    kendall = tau(everyone, [np.mean(repeats) for repeats in other])
    if len(one) < ENOUGH:
        return Agreement(kendall=kendall, interval=None)
    generator = np.random.default_rng(1)

    def drawn_tau(places: Any) -> float:
        means = [generator.choice(repeats, len(repeats)).mean() for repeats in other]
        return tau(places, np.take(means, places))  # a network drawn twice ties with itself in both rankings

    return Agreement(kendall=kendall, interval=bootstrap_interval(drawn_tau, everyone))


def bootstrap_interval(statistic: Callable[..., float], *samples: Any, paired: bool = True) -> Interval:
    """The interval of a statistic of samples by a bootstrap over their places, which belong together where they are `paired`.

    Draws of which the statistic is NaN, such as a ranking of ties alone, are left out; NaN if there is no other.
    """
    from scipy.stats import bootstrap

    options: Any = {"method": "percentile", "n_resamples": RESAMPLES, "vectorized": False, "paired": paired, "rng": 0}
    with warnings.catch_warnings(action="ignore"):
        found = bootstrap(samples, statistic, **options).bootstrap_distribution
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(found, (tail, 1 - tail)) if np.isfinite(found).any() else (np.nan, np.nan)
    return float(low), float(high)
