"""A Gaussian process that predicts losses of any scale from the features of networks. `acquisition.py` uses its predictions."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize

from nas.sampler.settings import SETTINGS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_JITTER_STEPS: Final = 7  # attempts at a Cholesky factorization; each failed one adds ten times as much jitter
JITTER: Final = 1e-5  # exceeds the rounding error, in single precision, of a covariance's smallest eigenvalue
AMPLITUDE_PRIORS: Final = (  # mean and standard deviation of log(amplitude); an amplitude is a share of the targets' variance
    (np.log(0.5 / SETTINGS.prior_relevance), 1.0),  # linear kernel
    (np.log(0.5), 1.0),  # Matérn kernel
    (np.log(0.1), 1.2),  # noise
)


@dataclass(frozen=True, slots=True)
class LossScale:
    """Transforms losses to the surrogate's targets, u = log(1 + (loss - best) / spread), and back.

    The logarithm spreads out the differences between good losses and compresses those between bad ones.
    """

    best: float
    spread: float

    @classmethod
    def of(cls, losses: Floats) -> "LossScale":
        """The scale whose spread is the gap from the best loss to the median of the first ones, or another gap if that is 0."""
        best = float(losses.min())
        quarter, half, largest = np.quantile(losses[: SETTINGS.scale_observations], (0.25, 0.5, 1.0)) - best
        gaps = (min(half, SETTINGS.max_quartile_gaps * quarter), half, largest, float(losses.max()) - best, 1e-6 * abs(best))
        return cls(best=best, spread=next((float(gap) for gap in gaps if gap > 0), 1e-6))

    def transform(self, losses: Floats) -> Floats:
        """Losses → u."""
        return np.log(np.clip((losses - self.best) / self.spread + 1.0, 0.1, math.exp(SETTINGS.max_log_loss)))

    def inverse(self, u: Floats) -> Floats:
        """Values of u → losses."""
        return self.best + self.spread * (np.exp(np.minimum(u, SETTINGS.max_log_loss)) - 1.0)


def fit_subset(num_observations: int) -> Ints:
    """Indices of the observations that hyperparameters are fitted to; they change when the number has grown enough."""
    least, growth = SETTINGS.refit_always, SETTINGS.refit_growth
    if num_observations > least:
        num_observations = int(least * growth ** math.floor(math.log(num_observations / least, growth)))
    return np.unique(np.linspace(0, num_observations - 1, min(SETTINGS.fit_observations, num_observations)).astype(int))


def fit_hyperparameters(features: Floats, groups: Ints, losses: Floats, *, num_costs: int = 0) -> Floats:
    """The most probable log hyperparameters: a relevance for each group of features, then the three amplitudes.

    The last `num_costs` groups are costs, which mostly tell more than one parameter does.
    Shapes: features: (N, D); groups: (D,), each feature's group; losses: (N,); result: (groups + 3,).
    """
    targets = LossScale.of(losses).transform(losses)
    targets = (targets - targets.mean()) / (targets.std() or 1.0)
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    relevances = np.full(num_groups, SETTINGS.prior_relevance / max(1, num_groups))
    relevances[num_groups - num_costs :] = SETTINGS.cost_relevance
    prior = np.array([*zip(np.log(relevances), np.ones(num_groups), strict=True), *AMPLITUDE_PRIORS])
    means, deviations = prior.T
    bounds = list(zip(means - 4 * deviations, means + 4 * deviations, strict=True))
    arguments, options = (features, groups, targets, prior), {"maxiter": SETTINGS.fit_steps}
    fit: Any = minimize(
        negative_log_posterior, means, args=arguments, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return np.asarray(fit.x)


def _kernels(theta: Floats, groups: Ints, left: Floats, right: Floats) -> tuple[Floats, Floats, Floats]:
    """(linear kernel, scaled distances r, Matérn-5/2 kernel) between two sets of points, without amplitudes.

    Single precision is several times as fast, and its error is far below the noise.
    """
    relevance = np.exp(0.5 * theta[groups]).astype(np.float32)
    x, y = left.astype(np.float32) * relevance, right.astype(np.float32) * relevance
    linear = x @ y.T
    squared = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)[None] - 2 * linear
    np.maximum(squared, 0.0, out=squared)
    r = np.sqrt(5 * squared)
    return linear, r, (1 + r + r**2 / 3) * np.exp(-r)


def _covariance(theta: Floats, linear: Floats, matern: Floats) -> Floats:
    """The covariance without noise; the constant 1 is the variance of the unknown mean."""
    linear_amplitude, matern_amplitude = np.exp(theta[-3:-1]).astype(np.float32)
    return np.asarray(1 + linear_amplitude * linear + matern_amplitude * matern, np.float64)


def _factorize(covariance: Floats, noise: Floats | float) -> Floats:
    """The lower Cholesky factor of covariance + noise, with as much jitter as the factorization needs."""
    diagonal = np.diag_indices_from(covariance)
    covariance[diagonal] += noise
    for jitter in JITTER * 10.0 ** np.arange(MAX_JITTER_STEPS):
        try:
            return np.asarray(cholesky(covariance, lower=True, check_finite=False))
        except LinAlgError:
            covariance[diagonal] += jitter * covariance[diagonal].max()
    raise AssertionError("a covariance has no Cholesky factor, however large the jitter")


def negative_log_posterior(theta: Floats, features: Floats, groups: Ints, targets: Floats, prior: Floats) -> tuple[float, Floats]:
    """Negative log posterior density of the log hyperparameters, and its gradient.

    Shapes: prior: (groups + 3, 2), the mean and the standard deviation of each log hyperparameter.
    """
    linear, r, matern = _kernels(theta, groups, features, features)
    linear_amplitude, matern_amplitude, noise = np.exp(theta[-3:])
    factor = _factorize(_covariance(theta, linear, matern), noise + JITTER)
    inverse = cho_solve((factor, True), np.eye(len(targets)), check_finite=False)
    weights = inverse @ targets
    value = 0.5 * targets @ weights + np.log(np.diag(factor)).sum()
    slope = inverse - np.outer(weights, weights)  # twice the derivative with respect to the covariance
    by_distance = matern_amplitude * slope * (-5 / 6 * (1 + r) * np.exp(-r))  # the same with respect to squared distances
    by_feature = (features * ((linear_amplitude * slope - 2 * by_distance) @ features)).sum(0)
    by_feature = by_feature + 2 * by_distance.sum(1) @ features**2
    gradient = np.empty_like(theta)
    gradient[:-3] = np.bincount(groups, by_feature * np.exp(theta[groups]), minlength=len(theta) - 3)
    gradient[-3:] = linear_amplitude * (slope * linear).sum(), matern_amplitude * (slope * matern).sum(), noise * np.trace(slope)
    means, deviations = prior.T
    z = (theta - means) / deviations
    return float(value + 0.5 * z @ z), 0.5 * gradient + z / deviations


class Surrogate:
    """A Gaussian process over u.

    Its covariance is the sum of a linear kernel, as the effects of most choices add up, and a Matérn-5/2 kernel for their
    interactions. Each group of features has one relevance, which both kernels use.
    """

    def __init__(self, theta: Floats, features: Floats, groups: Ints, targets: Floats, noise: Floats) -> None:
        """Condition the process on targets.

        `theta` comes from `fit_hyperparameters`; `noise` is the additional variance of each target, in units of u².
        """
        self._theta, self._groups, self._features = theta, groups, features
        self._mean, self._deviation = float(targets.mean()), float(targets.std()) or 1.0
        self._targets, self._extra_noise = (targets - self._mean) / self._deviation, noise / self._deviation**2
        self._weights: Floats
        self._whitening: NDArray[np.float32] | None = None  # the inverse factor's transpose, computed by the first prediction
        self._condition()

    def add_pending(self, features: Floats) -> None:
        """Add pending points with their predicted means as targets, the "Kriging believer" of Ginsbourger et al. (2010)."""
        means = self._covariance_with(features) @ self._weights
        self._features = np.vstack([self._features, features])
        self._targets = np.append(self._targets, means)
        self._extra_noise = np.append(self._extra_noise, np.zeros(len(features)))
        self._condition()

    @property
    def noise_variance(self) -> float:
        """The variance of what a training measures around the network's u."""
        return float(np.exp(self._theta[-1])) * self._deviation**2

    def fitted_means(self) -> Floats:
        """The posterior means of u at all observed and pending points."""
        return np.asarray(self._mean + self._deviation * (self._targets - self._noise * self._weights))

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of u, without noise."""
        covariance = self._covariance_with(features)
        if self._whitening is None:
            self._whitening = dtrtri(self._factor, lower=1)[0].T.astype(np.float32)
        linear_amplitude, matern_amplitude, _ = np.exp(self._theta[-3:])
        prior = 1.0 + linear_amplitude * (features**2 @ np.exp(self._theta[self._groups])) + matern_amplitude
        white = covariance.astype(np.float32) @ self._whitening
        variance = prior - np.einsum("ij,ij->i", white, white)
        deviation = np.sqrt(np.maximum(variance, JITTER))
        return self._mean + self._deviation * (covariance @ self._weights), self._deviation * deviation

    def _covariance_with(self, features: Floats) -> Floats:
        linear, _, matern = _kernels(self._theta, self._groups, features, self._features)
        return _covariance(self._theta, linear, matern)

    def _condition(self) -> None:
        self._noise = np.exp(self._theta[-1]) + self._extra_noise + JITTER
        self._factor = _factorize(self._covariance_with(self._features), self._noise)
        self._weights = cho_solve((self._factor, True), self._targets, check_finite=False)
        self._whitening = None
