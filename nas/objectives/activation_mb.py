"""Peak memory of live feature maps in inference of one image in float32, in megabytes (10^6 bytes)."""

from typing import Final

from nas.models.cost import cost
from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    return cost(candidate.architecture, candidate.num_classes).activation_bytes / 1e6


OBJECTIVE: Final = Objective(name="activation_mb", direction="minimize", needs_training=False, measure=measure)
