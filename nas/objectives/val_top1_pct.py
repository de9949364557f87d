"""Top-1 accuracy on the search validation part after the last epoch, in percent."""

from typing import Final

from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    """Percent of the validation images, from the report of the training."""
    assert candidate.report is not None, "val_top1_pct is measured after training"
    return candidate.report.val_top1_pct


OBJECTIVE: Final = Objective(
    name="val_top1_pct",
    title="top-1 on validation images, %",
    direction="maximize",
    needs_training=True,
    measure=measure,
    learning_curve=True,
    needs_architecture=False,
    bounds=(0.0, 100.0),
)
