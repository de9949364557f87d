"""Dominance, Pareto fronts and hypervolumes of points, each a tuple of losses."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Losses: TypeAlias = tuple[float, ...]  # one per objective; the lower the better
REFERENCE_MARGIN: Final = 0.1  # distance from the worst loss to the reference point, as a share of the range of losses


def dominates(one: Losses, other: Losses) -> bool:
    """Whether `one` is nowhere higher than `other`, and somewhere lower."""
    return one != other and all(map(float.__le__, one, other))


def non_dominated(losses: Sequence[Losses]) -> list[bool]:
    """For each point, whether no other point is as low on every loss and lower on one; equal points get the same answer."""
    is_front = [False] * len(losses)
    front: list[Losses] = []
    for i in sorted(range(len(losses)), key=losses.__getitem__):  # a point can only be dominated by one sorted before it
        if not any(dominates(other, losses[i]) for other in front):
            is_front[i] = True
            front.append(losses[i])
    return is_front


def front_of(losses: Sequence[Losses]) -> list[Losses]:
    """The points that no other dominates, in their order; equal points all stay."""
    return [point for point, kept in zip(losses, non_dominated(losses), strict=True) if kept]


def hypervolume(losses: Iterable[Losses], reference: Losses) -> float:
    """The exact volume between the points and a reference point; points that do not dominate the reference point add nothing.

    Source: the WFG algorithm, doi:10.1109/TEVC.2010.2077298: the sum of the volumes that each point adds to those before it.
    """
    inside = list({point for point in losses if all(map(float.__lt__, point, reference))})
    front = front_of(inside)
    return sum(added_volume(point, front[:i], reference) for i, point in enumerate(front))


def added_volume(point: Losses, front: Sequence[Losses], reference: Losses) -> float:
    """The hypervolume that a point adds to that of a front; the point dominates the reference point."""
    volume = math.prod(end - start for start, end in zip(point, reference, strict=True))
    return volume - hypervolume((tuple(map(max, point, other)) for other in front), reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box from the best losses to a reference point; hypervolumes are given as shares of its volume."""

    best: Losses
    reference: Losses

    @staticmethod
    def around(losses: Sequence[Losses]) -> "Box":
        """The box from the lowest of each loss to the highest plus a tenth of the range, so that the ends of a front count too.

        A loss with a single value has the range 1.
        """
        best, worst = (tuple(map(extreme, zip(*losses, strict=True))) for extreme in (min, max))
        reference = tuple(high + REFERENCE_MARGIN * ((high - low) or 1.0) for low, high in zip(best, worst, strict=True))
        return Box(best=best, reference=reference)

    @property
    def volume(self) -> float:
        """The volume of the box; its unit is the product of the units of the losses."""
        return math.prod(end - start for start, end in zip(self.best, self.reference, strict=True))

    def share(self, losses: Iterable[Losses]) -> float:
        """The share of the box that these points dominate, from 0 to 1."""
        return hypervolume(losses, self.reference) / self.volume

    def shares(self, losses: Iterable[Losses]) -> list[float]:
        """For each point, the share of the box that it and the points before it dominate."""
        front: list[Losses] = []
        shares, share = [], 0.0
        for point in losses:
            if not any(other == point or dominates(other, point) for other in front):
                share += added_volume(point, front, self.reference) / self.volume
                front = [other for other in front if not dominates(point, other)] + [point]
            shares.append(share)
        return shares
