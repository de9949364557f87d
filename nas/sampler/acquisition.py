"""Expected hypervolume improvement: how much a candidate is expected to increase the volume that the front dominates."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.sampler.settings import SETTINGS
from nas.sampler.surrogate import Floats, LossScale


@dataclass(frozen=True, slots=True)
class ExactLosses:
    """One objective's losses of all candidates, computed exactly."""

    values: Floats

    @property
    def means(self) -> Floats:
        """The losses themselves."""
        return self.values

    @property
    def floor(self) -> float:
        """The lowest loss of all candidates."""
        return float(self.values.min())

    def expected_improvement(self, levels: Floats) -> Floats:
        """(candidates, levels): how far the loss lies below each level, 0 where it lies above."""
        return np.maximum(levels - self.values[:, None], 0.0)


@dataclass(frozen=True, slots=True)
class PredictedLosses:
    """One objective's losses of all candidates; for each, a surrogate predicts a normal distribution of u."""

    scale: LossScale
    u_mean: Floats
    u_deviation: Floats

    @property
    def means(self) -> Floats:
        """The losses at the means of u."""
        return self.scale.inverse(self.u_mean)

    @property
    def floor(self) -> float:
        """The loss at the lowest u that `LossScale.transform` returns."""
        return self.scale.best - 0.9 * self.scale.spread

    def expected_improvement(self, levels: Floats) -> Floats:
        """(candidates, levels): how far the loss is expected to lie below each level.

        Source: the price of a put option, Black and Scholes (1973), doi:10.1086/260062.
        """
        mean, deviation, spread = self.u_mean[:, None], self.u_deviation[:, None], self.scale.spread
        strikes = np.maximum((levels - self.scale.best) / spread + 1.0, 1e-12)
        d = (np.log(strikes) - mean) / deviation
        expected = np.exp(np.minimum(mean + deviation**2 / 2, 50.0))
        return np.asarray(spread * np.maximum(strikes * ndtr(d) - expected * ndtr(d - deviation), 0.0))


Losses = ExactLosses | PredictedLosses


def num_dominating(losses: Floats) -> NDArray[np.int64]:
    """For each point, the number of other points that are at least as good on every loss."""
    counts = np.empty(len(losses), np.int64)
    ranks = [np.unique(column, return_inverse=True)[1].astype(np.uint16) for column in losses.T]
    for part in np.array_split(np.arange(len(losses)), 1 + len(losses) // 500):
        counts[part] = np.logical_and.reduce([rank <= rank[part, None] for rank in ranks]).sum(axis=1) - 1
    return counts


def reference_point_for(losses: Sequence[Losses], front: Floats, worst: Floats) -> Floats:
    """The corner of the hypervolume: one level beyond the worst of each loss, so that points at an end of the front count.

    With H + 1 distinct values of a loss, a level is 1 / H of its range. Source: Ishibuchi et al., doi:10.1162/evco_a_00226.
    """
    means = [loss.means for loss in losses]
    worst = np.maximum(worst, np.max(means, axis=1))
    span = worst - np.minimum(front.min(axis=0), np.min(means, axis=1))
    num_values = np.array([len(np.unique(values)) for values in means])
    return np.asarray(worst + np.where(span > 0, span, 1.0) / np.maximum(num_values - 1, 1))


def expected_hypervolume_improvement(losses: Sequence[Losses], front: Floats, reference_point: Floats, along: int) -> Floats:
    """Each candidate's expected growth of the volume that the front dominates.

    The front's points define a grid in the space of all losses except `along`. In each cell, the front dominates everything above
    one level of the loss `along`. A candidate's improvement there is the part of the cell that it dominates, times how far below
    the level its loss is expected to lie; the losses count as independent. The result is exact while the grid of all
    points has no more cuts per loss than `SETTINGS.max_cells` allows; beyond that, the grid uses only some of the points.

    Shapes: front: (points, objectives); reference_point: (objectives,); result: (candidates,).
    """
    lowest = np.minimum(front.min(axis=0, initial=np.inf), reference_point)
    lowest = np.minimum(lowest, [loss.floor for loss in losses])
    others = [objective for objective in range(len(losses)) if objective != along]
    max_cuts = int(SETTINGS.max_cells ** (1 / len(others))) if others else 1
    edges, parts = [], []
    for i in others:
        inside = front[:, i][(front[:, i] > lowest[i]) & (front[:, i] < reference_point[i])]
        cuts = np.unique(np.append(inside, lowest[i]))
        if len(cuts) > max_cuts:
            cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, max_cuts).astype(int))]
        edges.append(cuts)
        parts.append(np.diff(losses[i].expected_improvement(np.append(cuts, reference_point[i])), axis=1))
    corners = np.array(list(itertools.product(*edges)))  # a single empty corner if there is only one loss
    reached = np.all(front[None, :, others] <= corners[:, None, :], axis=2)
    end = reference_point[along]
    levels = np.where(reached, np.minimum(front[:, along], end)[None], end).min(axis=1, initial=end)
    distinct, level = np.unique(levels, return_inverse=True)
    improvement = losses[along].expected_improvement(distinct)[:, level]
    grid = [len(cuts) for cuts in edges]
    for i, part in enumerate(parts):
        shape = [-1 if other == i else 1 for other in range(len(parts))]
        improvement = improvement * np.broadcast_to(part.reshape(len(part), *shape), (len(part), *grid)).reshape(len(part), -1)
    return np.asarray(improvement.sum(axis=1))
