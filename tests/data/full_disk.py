"""An objective that writes to a full disk, /dev/full, until a file `room` lies in the working folder."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import widths

from nas import Objective
from nas.objectives import Candidate


def measure(candidate: Candidate) -> float:
    """Write a file of a network's own."""
    if Path("room").exists():
        return 0.0
    shutil.copyfile(widths.__file__, "/dev/full")
    raise AssertionError


WRITES: Final = Objective(name="writes_s", direction="minimize", needs_training=True, measure=measure)
EXPERIMENT: Final = replace(widths.EXPERIMENT, objectives=(WRITES,))
