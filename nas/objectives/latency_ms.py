"""Milliseconds of one batch on a device: by the table of its layers, or measured on this machine where there is none."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    if candidate.latency is not None:
        return candidate.latency.predict(candidate.architecture, candidate.num_classes)
    from nas.latency.timing import measure as measure_here  # torch and onnxruntime

    return measure_here(candidate.architecture, candidate.num_classes).median_ms


OBJECTIVE: Final = Objective(name="latency_ms", direction="minimize", needs_training=False, measure=measure)
