"""Parameters in millions, of the network with the dataset's number of classes."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    return candidate.network.costs(candidate.num_classes)["params"] / 1e6


OBJECTIVE: Final = Objective(
    name="params_m", direction="minimize", needs_training=False, measure=measure, needs_architecture=False
)
