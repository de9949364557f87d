"""What a worker process is sent: the task that all trials of a session share, and where they run."""

import math
from dataclasses import dataclass

from nas.datasets import Dataset
from nas.objectives import Objective
from nas.objectives.latency.table import LatencyTable
from nas.training.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all trials of a session have in common: how a network is trained, and what is measured of it."""

    dataset: Dataset
    objectives: tuple[Objective, ...]
    """Those that need training; without any, nothing is trained."""
    settings: TrainSettings
    seed: int
    """Of weights and batches."""
    latency: LatencyTable | None = None
    """What layers take on the device that is searched for; None to measure where an objective needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the trials of a session run, and how long."""

    storage: str
    """Folder or URI of the trials' checkpoints."""
    folder: str
    """The driver's working folder, which relative paths of a dataset start from."""
    timeout: float = math.inf
    """Seconds of one trial."""
