"""The parts of a dataset, and a split that holds out the same images on every machine."""

import hashlib
import os
from collections.abc import Collection, Sequence
from typing import Final

PARTS: Final = ("train", "val", "test")
HELD_OUT: Final = 0.1  # share of every class that a missing part gets


def hold_out(by_class: Sequence[Sequence[str]], num_parts: int, share: float = HELD_OUT) -> list[list[list[str]]]:
    """`num_parts` parts with a `share` of every class each, then the rest; each part is a list of names per class."""
    parts: list[list[list[str]]] = [[] for _ in range(num_parts + 1)]
    for names in by_class:
        ordered, size = in_hash_order(names), max(1, round(share * len(names)))
        for i in range(num_parts):
            parts[i].append(ordered[i * size : (i + 1) * size])
        parts[num_parts].append(ordered[num_parts * size :])
    return parts


def part_beside(part: str, present: Collection[str]) -> str:
    """The part that one of the `present` parts is: a single one beside train is the test part, val too."""
    return "test" if part != "train" and len(present) == 2 else part


def in_hash_order(names: Sequence[str]) -> list[str]:
    """The names in a pseudo-random order, the same on every machine."""
    return sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
