"""Multiply-adds in millions for one image, of the network with the dataset's number of classes."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    return candidate.network.costs(candidate.num_classes)["macs"] / 1e6


OBJECTIVE: Final = Objective(name="macs_m", direction="minimize", needs_training=False, measure=measure, needs_architecture=False)
