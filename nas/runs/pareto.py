"""Fronts and hypervolumes of points, each a tuple of losses: dominance and the reference point live here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Losses: TypeAlias = tuple[float, ...]  # of a network on every objective, each the lower the better
BEYOND: Final = 0.1  # from the worst loss to the reference point, as a share of the range of losses


def dominates(one: Losses, other: Losses) -> bool:
    """Whether the first losses are nowhere higher, and somewhere lower."""
    return one != other and all(map(float.__le__, one, other))


def non_dominated(losses: Sequence[Losses]) -> list[bool]:
    """Which points no other point matches on every loss and beats on one; equal points stand or fall together."""
    kept = [False] * len(losses)
    found: list[Losses] = []
    for i in sorted(range(len(losses)), key=losses.__getitem__):  # a point can only be dominated by one sorted before it
        if not any(dominates(other, losses[i]) for other in found):
            kept[i] = True
            found.append(losses[i])
    return kept


def hypervolume(losses: Iterable[Losses], reference: Losses) -> float:
    """The volume that points dominate, out to a reference point; what lies beyond it counts nothing. Exact.

    Each point adds what no other one dominates (the WFG algorithm, doi:10.1109/TEVC.2010.2077298).
    """
    inside = list({point for point in losses if all(map(float.__lt__, point, reference))})
    front = [point for point, kept in zip(inside, non_dominated(inside), strict=True) if kept]
    return sum(added_volume(point, front[:i], reference) for i, point in enumerate(front))


def added_volume(point: Losses, front: Sequence[Losses], reference: Losses) -> float:
    """What a point within the reference adds to the hypervolume of others."""
    whole = math.prod(end - start for start, end in zip(point, reference, strict=True))
    return whole - hypervolume((tuple(map(max, point, other)) for other in front), reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The volume that hypervolumes are shares of."""

    best: Losses
    reference: Losses

    @staticmethod
    def around(losses: Sequence[Losses]) -> "Box":
        """From the best value of each loss to a tenth of the range beyond the worst, so that the ends of a front count too.

        Where all values of a loss are the same its range is taken as 1.
        """
        best, worst = (tuple(map(extreme, zip(*losses, strict=True))) for extreme in (min, max))
        reference = tuple(high + BEYOND * ((high - low) or 1.0) for low, high in zip(best, worst, strict=True))
        return Box(best=best, reference=reference)

    @property
    def volume(self) -> float:
        """In the product of the units of all losses."""
        return math.prod(end - start for start, end in zip(self.best, self.reference, strict=True))

    def share(self, losses: Iterable[Losses]) -> float:
        """The share of the box that these points dominate, 0 to 1."""
        return hypervolume(losses, self.reference) / self.volume

    def shares(self, losses: Iterable[Losses]) -> list[float]:
        """The share that the points so far dominate, after each of the points."""
        front: list[Losses] = []
        found, share = [], 0.0
        for point in losses:
            if not any(other == point or dominates(other, point) for other in front):
                share += added_volume(point, front, self.reference) / self.volume
                front = [other for other in front if not dominates(point, other)] + [point]
            found.append(share)
        return found
