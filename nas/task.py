"""What all trials of a session have in common, as it is sent to a worker process once. Read `worker.py` next."""

from dataclasses import dataclass

from nas.datasets import Dataset
from nas.latency.table import LatencyTable
from nas.objectives import Objective
from nas.recipe import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How a network is trained and what is measured of it."""

    dataset: Dataset
    objectives: tuple[Objective, ...]
    """Those that need training; without any, nothing is trained."""
    settings: TrainSettings
    seed: int
    """Of weights and batches."""
    latency: LatencyTable | None = None
    """What layers take on the device that is searched for; None to measure where an objective needs it."""
