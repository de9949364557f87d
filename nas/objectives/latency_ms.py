"""Latency of one batch in milliseconds: predicted from a latency table, or measured on this machine if there is none.

In a search without a table, each trial measures its network, so the search treats the objective as one that needs training.
"""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    """Milliseconds by the table, by the trial's own measurement, or measured now."""
    if candidate.latency is not None:
        return candidate.latency.predict(candidate.architecture, candidate.num_classes)
    if candidate.latency_ms is not None:
        return candidate.latency_ms
    from nas.objectives.latency.measure import measure as measure_here  # torch and onnxruntime

    return measure_here(candidate.architecture, candidate.num_classes).median_ms


OBJECTIVE: Final = Objective(
    name="latency_ms",
    title="latency, ms",
    direction="minimize",
    needs_training=False,
    measure=measure,
    needs_latency=True,
    has_table_error=True,
)
