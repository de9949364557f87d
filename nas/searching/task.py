"""The arguments of a worker process: the task that all trials of a session share, and where they run."""

from dataclasses import dataclass

from nas.datasets import Dataset
from nas.objectives import Objective
from nas.objectives.latency.table import LatencyTable
from nas.training.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How the trials of a session train a network, and which objectives they measure."""

    dataset: Dataset
    objectives: tuple[Objective, ...]
    """The objectives that need training, and those only to look at; without any, trials train nothing."""
    settings: TrainSettings
    seed: int
    """The seed of weights and batches."""
    latency: LatencyTable | None = None
    """The latencies of layers on the target device; None to measure each network's latency if an objective needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the trials of a session run."""

    storage: str
    """Folder or URI of the trials' checkpoints."""
    folder: str
    """The driver's working folder, for a dataset's relative paths."""
