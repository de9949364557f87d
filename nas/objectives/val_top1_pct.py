"""Top-1 accuracy on the search validation part after the last epoch, in percent."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    assert candidate.report is not None, "an objective that needs training is measured after it"
    return candidate.report.val_top1_pct


OBJECTIVE: Final = Objective(
    name="val_top1_pct",
    direction="maximize",
    needs_training=True,
    measure=measure,
    learning_curve=True,
    needs_architecture=False,
    bounds=(0.0, 100.0),
)
