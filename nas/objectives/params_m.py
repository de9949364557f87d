"""Parameters in millions, with as many outputs as the dataset has classes."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    """Millions of parameters, by arithmetic on the layers."""
    return candidate.network.costs(candidate.num_classes)["params"] / 1e6


OBJECTIVE: Final = Objective(
    name="params_m",
    title="parameters, millions",
    direction="minimize",
    needs_training=False,
    measure=measure,
    needs_architecture=False,
)
