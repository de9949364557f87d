"""A search by shared weights over twelve widths, of which one kills its process."""

import os
import signal
from dataclasses import replace
from typing import Final

import widths

from nas import Experiment, objective
from nas.objectives import Candidate


def measure(candidate: Candidate) -> float:
    """Top-1; a width of 64 channels kills the process instead."""
    if candidate.architecture.stages[0][0].width == 64:
        os.kill(os.getpid(), signal.SIGKILL)
    assert candidate.report is not None
    return candidate.report.val_top1_pct


EXPERIMENT: Final[Experiment] = replace(
    widths.EXPERIMENT,
    space=widths.Widths(largest=96),
    objectives=(replace(objective("val_top1_pct"), measure=measure), objective("macs_m")),
    shared_weights="train",
    shared_trials=12,
    fine_tune=1,
    alone=1,
    workers=1,
)
