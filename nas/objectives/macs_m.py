"""Multiply-adds for one image, in millions, with as many outputs as the dataset has classes."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    """Millions of multiply-adds, by arithmetic on the layers."""
    return candidate.network.costs(candidate.num_classes)["macs"] / 1e6


OBJECTIVE: Final = Objective(
    name="macs_m",
    title="multiply-adds, millions",
    direction="minimize",
    needs_training=False,
    measure=measure,
    needs_architecture=False,
)
