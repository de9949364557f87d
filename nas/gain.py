"""How much volume a network may add to a front, some losses being known and others believed. Read `samplers.py` next."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.sampler_settings import SETTINGS
from nas.surrogate import Scale

Floats = NDArray[np.float64]


class Loss(Protocol):
    """One loss of many candidates."""

    def shortfall(self, levels: Floats) -> Floats:
        """candidates, levels: by how much the loss is expected to lie below each level, 0 where it lies above."""


@dataclass(frozen=True, slots=True)
class KnownLoss:
    """A loss that is known."""

    values: Floats

    def shortfall(self, levels: Floats) -> Floats:
        return np.maximum(levels - self.values[:, None], 0.0)


@dataclass(frozen=True, slots=True)
class BelievedLoss:
    """A loss of which the logarithm on a scale is believed to be normal."""

    scale: Scale
    mean: Floats
    deviation: Floats

    def shortfall(self, levels: Floats) -> Floats:
        return self.scale.improvement(levels, self.mean[:, None], self.deviation[:, None])


def expected_gain(candidates: Sequence[Loss], front: Floats, lowest: Floats, reference: Floats, along: int) -> Floats:
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
