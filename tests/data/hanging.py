"""An objective whose first and third measurement never end: they sit in one call of C's that holds Python's lock."""

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Final

import widths

from nas import Objective
from nas.objectives import Candidate


def measure(candidate: Candidate) -> float:
    """Sleep for an hour, every other time."""
    with Path("measured").open("a+") as file:
        file.write("x")
        before = file.tell() - 1
    if before % 2 == 0:
        ctypes.PyDLL(None).sleep(3600)  # as PyDLL keeps the lock, no thread of Python's can run
    return 0.0


HANG: Final = Objective(name="hang_s", direction="minimize", needs_training=True, measure=measure)
EXPERIMENT: Final = replace(widths.EXPERIMENT, objectives=(HANG,))
