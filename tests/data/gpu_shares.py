"""A search in a Ray that pretends to have a GPU, in halves: each trial writes down where it runs, and when, into `places`."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import ray
import widths

import nas
from nas.objectives import Candidate


def measure(candidate: Candidate) -> float:
    """Wait until two processes are here, however slow they are to start."""
    started, here = time.time(), Path("here")
    here.mkdir(exist_ok=True)
    (here / str(os.getpid())).touch()
    while len(list(here.iterdir())) < 2 and time.time() < started + 120:
        time.sleep(0.05)
    with Path("places").open("a") as file:
        place = os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), started, time.time(), os.environ["OMP_NUM_THREADS"]
        file.write(" ".join(map(str, place)) + "\n")
    return 0.0


PLACE: Final = nas.Objective(name="place_n", direction="minimize", needs_training=True, measure=measure)
EXPERIMENT: Final = replace(widths.EXPERIMENT, objectives=(PLACE,), trials=3, workers=None, gpus_per_trial=0.5)

if __name__ == "__main__":
    quiet = {"include_dashboard": False, "log_to_driver": False, "_system_config": {"prestart_worker_first_driver": False}}
    ray.init(address="local", num_cpus=3, num_gpus=1, **quiet)
    nas.search(EXPERIMENT)
    sys.exit(not ray.is_initialized())
