"""An objective whose first and third measurement never end: a stopped process, and a call of C's that holds Python's lock."""

import ctypes
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

import widths

from nas import Objective
from nas.objectives import Candidate


def measure(candidate: Candidate) -> float:
    """Stop this process the first time, sleep for an hour the third time."""
    with Path("measured").open("a+") as file:
        file.write("x")
        before = file.tell() - 1
    if before == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    if before == 2:
        ctypes.PyDLL(None).sleep(3600)  # as PyDLL keeps the lock, no thread of Python's can run
    return 0.0


HANG: Final = Objective(name="hang_s", direction="minimize", needs_training=True, measure=measure)
EXPERIMENT: Final = replace(widths.EXPERIMENT, objectives=(HANG,))
