"""Peak memory of the feature maps alive at once during inference on one float32 image, in megabytes (10^6 bytes)."""

from typing import Final

from nas.models.cost import cost
from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    """Megabytes of feature maps, by arithmetic on the layers."""
    return cost(candidate.architecture, candidate.num_classes).activation_bytes / 1e6


OBJECTIVE: Final = Objective(
    name="activation_mb", title="peak activation memory, MB", direction="minimize", needs_training=False, measure=measure
)
