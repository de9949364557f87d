"""Standard errors and 95 % confidence intervals for figures from few images, networks or seeds."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

CONFIDENCE: Final = 0.95  # confidence level of every interval
RESAMPLES: Final = 2_000  # resamples of every bootstrap
MIN_BOOTSTRAP_VALUES: Final = 20  # per sample; with fewer, a bootstrap interval of a mean is too narrow
MIN_RANKED_NETWORKS: Final = 5  # with fewer, a bootstrap yields only a few different rankings

Interval: TypeAlias = tuple[float, float]


def standard_error_pct(top1_pct: float, images: float) -> float:
    """The binomial standard error of a top-1 on `images` images, in percentage points, without the variance between seeds."""
    share = min(max(top1_pct / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / images)


def proportion_interval(successes: int, draws: int) -> Interval:
    """Wilson's interval, within 0 to 1, for the probability of success, from `successes` in `draws` independent draws."""
    from scipy.stats import binomtest

    interval = binomtest(successes, draws).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(one: Sequence[float], other: Sequence[float]) -> Interval:
    """The interval of mean(one) - mean(other): Welch's t if either has fewer than 20 values, otherwise a bootstrap."""
    from scipy.stats import ttest_ind

    if max(np.ptp(one), np.ptp(other)) == 0:
        return (float(np.mean(one) - np.mean(other)),) * 2
    if min(len(one), len(other)) >= MIN_BOOTSTRAP_VALUES:
        return bootstrap_interval(lambda a, b: float(np.mean(a) - np.mean(b)), one, other, paired=False)
    interval = ttest_ind(one, other, equal_var=False).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> Interval:
    """The interval of a mean of two or more values: Student's t below 20 of them, otherwise a bootstrap."""
    from scipy.stats import ttest_1samp

    if np.ptp(values) == 0:
        return (float(np.mean(values)),) * 2
    if len(values) >= MIN_BOOTSTRAP_VALUES:
        return bootstrap_interval(lambda sample: float(np.mean(sample)), values)
    interval = ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """How well two rankings of the same networks agree."""

    kendall: float
    """Kendall's tau, from -1 to 1; NaN where one ranking is all ties."""
    interval: Interval | None
    """95 % bootstrap interval over the networks and over the measurements of each; None for fewer than five networks."""

    def __str__(self) -> str:
        """Tau and its interval, such as `0.80, 95 % from 0.40 to 1.00`."""
        if self.interval is None:
            return f"{self.kendall:z.2f}, too few for an interval"
        return f"{self.kendall:z.2f}, 95 % from {self.interval[0]:z.2f} to {self.interval[1]:z.2f}"


def rank_agreement(one: Sequence[float], other: Sequence[Sequence[float]]) -> RankAgreement:
    """How well ranking networks by `one` agrees with ranking them by the mean of their measurements in `other`.

    Shapes: `one` (networks,); `other` (networks, measurements of each).
    """
    networks, measured = np.arange(len(one)), [np.mean(values) for values in other]
    kendall = kendall_tau(one, measured)
    if len(one) < MIN_RANKED_NETWORKS:
        return RankAgreement(kendall=kendall, interval=None)
    generator, repeated = np.random.default_rng(1), max(map(len, other)) > 1

    def resampled_tau(indices: Any) -> float:
        means = [generator.choice(values, len(values)).mean() for values in other] if repeated else measured
        # A network drawn twice ties with itself in both rankings.
        return kendall_tau(np.take(one, indices), np.take(means, indices))

    return RankAgreement(kendall=kendall, interval=bootstrap_interval(resampled_tau, networks))


def kendall_tau(one: Any, other: Any) -> float:
    """Kendall's tau-b of two rankings; NaN where one is all ties. For the thousands of a bootstrap, as SciPy's also tests it.

    Shapes: both (networks,).
    """
    signs, other_signs = (np.sign(np.subtract.outer(values, values)) for values in (np.asarray(one), np.asarray(other)))
    pairs = math.sqrt((signs**2).sum() * (other_signs**2).sum())
    return float((signs * other_signs).sum() / pairs) if pairs else math.nan


def bootstrap_interval(statistic: Callable[..., float], *samples: Any, paired: bool = True) -> Interval:
    """The percentile bootstrap interval of a statistic; `paired` samples are resampled with the same indices.

    Resamples whose statistic is NaN, such as the tau of equal values, are left out. If all are, the interval is (NaN, NaN).
    """
    from scipy.stats import bootstrap

    options: Any = {"method": "percentile", "n_resamples": RESAMPLES, "vectorized": False, "paired": paired, "rng": 0}
    with warnings.catch_warnings(action="ignore"):
        draws = bootstrap(samples, statistic, **options).bootstrap_distribution
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(draws, (tail, 1 - tail)) if np.isfinite(draws).any() else (np.nan, np.nan)
    return float(low), float(high)
