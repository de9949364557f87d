"""Milliseconds of one batch on a device: by the table of its layers, or measured on this machine where there is none.

In a search without a table the trials measure, and it counts as an objective that needs training.
"""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    if candidate.latency is not None:
        return candidate.latency.predict(candidate.architecture, candidate.num_classes)
    if candidate.latency_ms is not None:
        return candidate.latency_ms
    from nas.objectives.latency.measure import measure as measure_here  # torch and onnxruntime

    return measure_here(candidate.architecture, candidate.num_classes).median_ms


OBJECTIVE: Final = Objective(
    name="latency_ms", direction="minimize", needs_training=False, measure=measure, needs_latency=True, has_table_error=True
)
