"""Points, each loss the lower the better: which of them no other beats, and the volume that they take."""

from collections.abc import Iterable, Sequence


def non_dominated(losses: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other point matches on every loss and beats on one; equal points stand or fall together."""
    kept = [False] * len(losses)
    found: list[tuple[float, ...]] = []
    for i in sorted(range(len(losses)), key=losses.__getitem__):  # a point can only be dominated by one sorted before it
        if not any(dominates(other, losses[i]) for other in found):
            kept[i] = True
            found.append(losses[i])
    return kept


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether the first losses are nowhere higher, and somewhere lower."""
    return one != other and all(map(float.__le__, one, other))


def hypervolume(losses: Iterable[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """The volume that points dominate, out to a reference point; what lies beyond it counts nothing.

    Exact, by slices along the last loss: fine for fronts of some hundred points and two or three losses.
    """
    inside = sorted({point for point in losses if all(map(float.__lt__, point, reference))}, key=lambda point: point[-1])
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - inside[0][0]
    ends = [*(point[-1] for point in inside[1:]), reference[-1]]
    volume = 0.0
    for i, (point, end) in enumerate(zip(inside, ends, strict=True)):
        volume += (end - point[-1]) * hypervolume((other[:-1] for other in inside[: i + 1]), reference[:-1])
    return volume
