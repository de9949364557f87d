"""What is believed of losses of any scale, by a Gaussian process, and the gain that a candidate promises."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize
from scipy.special import ndtr

from nas.sampler.settings import SETTINGS

Floats = NDArray[np.float64]

NOISE_RAISES: Final = 7  # times that noise is raised tenfold
JITTER: Final = 1e-5  # more than single precision leaves of a covariance's smallest eigenvalue
PRIORS: Final = (  # of amplitudes as shares of the variance: logarithm's mean, and standard deviation
    (np.log(0.5 / SETTINGS.prior_relevance), 1.0),  # of what adds up over parameters
    (np.log(0.5), 1.0),  # of what does not
    (np.log(0.03), 1.2),  # noise
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Losses to what is modelled and back: u = log(1 + (loss - best) / spread), so that the bad are told apart less."""

    best: float
    spread: float

    @classmethod
    def of(cls, losses: Floats) -> "Scale":
        """The scale on which the better half of the losses take about one unit."""
        best = float(losses.min())
        quarter, half, all_of_them = np.quantile(losses[: SETTINGS.scale_observations], (0.25, 0.5, 1.0)) - best
        gaps = (min(half, SETTINGS.max_quartile_gaps * quarter), half, all_of_them, float(losses.max()) - best, 1e-6 * abs(best))
        return cls(best=best, spread=next((float(gap) for gap in gaps if gap > 0), 1e-6))

    def model(self, losses: Floats) -> Floats:
        """Losses → u."""
        return np.log(np.clip((losses - self.best) / self.spread + 1.0, 0.1, math.exp(SETTINGS.max_log_loss)))

    def losses(self, modelled: Floats) -> Floats:
        """Means of u → losses."""
        return self.best + self.spread * (np.exp(np.minimum(modelled, SETTINGS.max_log_loss)) - 1.0)

    def improvement(self, levels: Floats, mean: Floats, deviation: Floats) -> Floats:
        """Expected amount by which a loss, u normal, lies below levels: the price of a put option (Black and Scholes, 1973)."""
        strikes = np.maximum((levels - self.best) / self.spread + 1.0, 1e-12)
        d = (np.log(strikes) - mean) / deviation
        expected = np.exp(np.minimum(mean + deviation**2 / 2, 50.0))
        return np.asarray(self.spread * np.maximum(strikes * ndtr(d) - expected * ndtr(d - deviation), 0.0))


def fitted_on(number: int) -> NDArray[np.int64]:
    """Which of so many observations the relevances are fitted to: the same ones, as long as their number grows little."""
    least, growth = SETTINGS.refit_always, SETTINGS.refit_growth
    if number > least:
        number = int(least * growth ** math.floor(math.log(number / least, growth)))
    return np.unique(np.linspace(0, number - 1, min(SETTINGS.fit_observations, number)).astype(int))


def fit(features: Floats, groups: NDArray[np.int64], losses: Floats) -> Floats:
    """Logarithms of the relevance of each group, and of the three amplitudes, of the greatest posterior probability."""
    targets = Scale.of(losses).model(losses)
    targets = (targets - targets.mean()) / (targets.std() or 1.0)
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    prior = np.array([(np.log(SETTINGS.prior_relevance / max(1, num_groups)), 1.0)] * num_groups + list(PRIORS))
    means, deviations = prior.T
    bounds = list(zip(means - 4 * deviations, means + 4 * deviations, strict=True))
    arguments, options = (features, groups, targets, prior), {"maxiter": SETTINGS.fit_steps}
    found: Any = minimize(_misfit, means, args=arguments, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x)


def _covariances(logs: Floats, groups: NDArray[np.int64], one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Inner products; squared distances; and Matérn's kernel of them.

    In single precision, which is several times as fast and exact enough beside the noise.
    """
    relevance = np.exp(0.5 * logs[groups]).astype(np.float32)
    left, right = one.astype(np.float32) * relevance, other.astype(np.float32) * relevance
    gram = left @ right.T
    squared = np.einsum("ij,ij->i", left, left)[:, None] + np.einsum("ij,ij->i", right, right)[None] - 2 * gram
    np.maximum(squared, 0.0, out=squared)
    root = np.sqrt(5 * squared)
    return gram, root, (1 + root + root**2 / 3) * np.exp(-root)


def _sum(logs: Floats, gram: Floats, matern: Floats) -> Floats:
    """The covariance without noise, of which a constant stands for the unknown mean."""
    linear, other = np.exp(logs[-3:-1]).astype(np.float32)
    return np.asarray(1 + linear * gram + other * matern, np.float64)


def _factor(covariance: Floats, noise: Floats | float) -> Floats:
    """The lower factor of a covariance with so much noise; with more, where rounding left it without one."""
    diagonal = np.diag_indices_from(covariance)
    covariance[diagonal] += noise
    for more in JITTER * 10.0 ** np.arange(NOISE_RAISES):
        try:
            return np.asarray(cholesky(covariance, lower=True, check_finite=False))
        except LinAlgError:
            covariance[diagonal] += more * covariance[diagonal].max()
    raise AssertionError("a covariance has no factor, however much noise is added")


def _misfit(logs: Floats, features: Floats, groups: NDArray[np.int64], targets: Floats, prior: Floats) -> tuple[float, Floats]:
    """Negative log posterior density of the logarithms of all scales, and its gradient."""
    gram, root, matern = _covariances(logs, groups, features, features)
    linear, other, noise = np.exp(logs[-3:])
    factor = _factor(_sum(logs, gram, matern), noise + JITTER)
    inverse = cho_solve((factor, True), np.eye(len(targets)), check_finite=False)
    weights = inverse @ targets
    misfit = 0.5 * targets @ weights + np.log(np.diag(factor)).sum()
    pull = inverse - np.outer(weights, weights)  # half of this is the derivative by the covariance
    bent = other * pull * (-5 / 6 * (1 + root) * np.exp(-root))  # by Matérn's derivative by the squared distance
    by_feature = (features * ((linear * pull - 2 * bent) @ features)).sum(0) + 2 * bent.sum(1) @ features**2
    gradient = np.empty_like(logs)
    gradient[:-3] = np.bincount(groups, by_feature * np.exp(logs[groups]), minlength=len(logs) - 3)
    gradient[-3:] = linear * (pull * gram).sum(), other * (pull * matern).sum(), noise * np.trace(pull)
    means, deviations = prior.T
    off = (logs - means) / deviations
    return float(misfit + 0.5 * off @ off), 0.5 * gradient + off / deviations


class Surrogate:
    """A posterior over u of every point.

    The covariance is a sum of a linear kernel, as most choices add up, and Matérn's with nu = 5/2 for what they do together; both
    share a relevance of each group of features.
    """

    def __init__(self, logs: Floats, features: Floats, groups: NDArray[np.int64], targets: Floats, noise: Floats) -> None:
        """`logs` are from `fit`; `noise` is the variance of each target beyond that of all, in units of u²."""
        self._logs, self._groups, self._features = logs, groups, features
        self._mean, self._deviation = float(targets.mean()), float(targets.std()) or 1.0
        self._weights: Floats
        self._whitening: NDArray[np.float32] | None = None  # inverse factor's transpose, once asked for
        self._targets, self._noise = (targets - self._mean) / self._deviation, noise / self._deviation**2
        self._condition()

    def believe(self, features: Floats) -> None:
        """Take the means of further points for observations: they will be, and near them there is less to learn."""
        means = self._covariance(features) @ self._weights
        self._features = np.vstack([self._features, features])
        self._targets = np.append(self._targets, means)
        self._noise = np.append(self._noise, np.zeros(len(features)))
        self._condition()

    def means(self) -> Floats:
        """The means of u of all observations, and of what was believed: what they are without their noise."""
        return np.asarray(self._mean + self._deviation * (self._targets - self._own_noise * self._weights))

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of u, without noise."""
        covariance = self._covariance(features)
        if self._whitening is None:
            self._whitening = dtrtri(self._factor, lower=1)[0].T.astype(np.float32)
        linear, other, _ = np.exp(self._logs[-3:])
        own = 1.0 + linear * (features**2 @ np.exp(self._logs[self._groups])) + other
        white = covariance.astype(np.float32) @ self._whitening
        variance = own - np.einsum("ij,ij->i", white, white)
        deviation = np.sqrt(np.maximum(variance, JITTER))
        return self._mean + self._deviation * (covariance @ self._weights), self._deviation * deviation

    def _covariance(self, features: Floats) -> Floats:
        gram, _, matern = _covariances(self._logs, self._groups, features, self._features)
        return _sum(self._logs, gram, matern)

    def _condition(self) -> None:
        self._own_noise = np.exp(self._logs[-1]) + self._noise + JITTER
        self._factor = _factor(self._covariance(self._features), self._own_noise)
        self._weights = cho_solve((self._factor, True), self._targets, check_finite=False)
        self._whitening = None


@dataclass(frozen=True, slots=True)
class KnownLoss:
    """A loss of many candidates that is known."""

    values: Floats

    def shortfall(self, levels: Floats) -> Floats:
        """candidates, levels: by how much the loss is expected to lie below each level, 0 where it lies above."""
        return np.maximum(levels - self.values[:, None], 0.0)


@dataclass(frozen=True, slots=True)
class BelievedLoss:
    """A loss of many candidates of which the logarithm on a scale is believed to be normal."""

    scale: Scale
    mean: Floats
    deviation: Floats

    def shortfall(self, levels: Floats) -> Floats:
        """As of a known one."""
        return self.scale.improvement(levels, self.mean[:, None], self.deviation[:, None])


def expected_gain(
    candidates: Sequence[KnownLoss | BelievedLoss], front: Floats, lowest: Floats, reference: Floats, along: int
) -> Floats:
    """The expected growth of the volume that the front dominates, for each candidate alone.

    The space of the other losses is cut into a grid at the front's points. Over one of its cells the front ends at one level of
    the loss `along`, so a candidate's gain there is the part of the cell that it dominates times how far below the level it is
    expected to lie; losses count as independent. Exact for two losses, and for three and four until the grid has more than 640
    cells: then it is cut at fewer of the points.

    Args:
        candidates: of each loss, what is known of the candidates.
        front: points, losses.
        lowest: of each loss, no more than any candidate can have.
        reference: of each loss, where the volume ends.
        along: the loss that is not cut.
    """
    others = [loss for loss in range(len(candidates)) if loss != along]
    most = int(SETTINGS.max_cells ** (1 / len(others))) if others else 1
    edges, parts = [], []
    for loss in others:
        inside = front[:, loss][(front[:, loss] > lowest[loss]) & (front[:, loss] < reference[loss])]
        cuts = np.unique(np.append(inside, lowest[loss]))
        if len(cuts) > most:
            cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, most).astype(int))]
        below = candidates[loss].shortfall(np.append(cuts, reference[loss]))
        edges.append(cuts)
        parts.append(np.diff(below, axis=1))
    corners = np.array(list(itertools.product(*edges)))  # one empty corner, if there are no others
    reached = np.all(front[None, :, others] <= corners[:, None, :], axis=2)
    end = reference[along]
    levels = np.where(reached, np.minimum(front[:, along], end)[None], end).min(axis=1, initial=end)
    distinct, level = np.unique(levels, return_inverse=True)
    gains = candidates[along].shortfall(distinct)[:, level]
    grid = [len(cuts) for cuts in edges]
    for i, part in enumerate(parts):
        shape = [-1 if other == i else 1 for other in range(len(parts))]
        gains = gains * np.broadcast_to(part.reshape(len(part), *shape), (len(part), *grid)).reshape(len(part), -1)
    return np.asarray(gains.sum(axis=1))
