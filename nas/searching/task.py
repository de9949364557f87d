"""The arguments of a worker process: the task that all trials of a session share, and where they run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from nas.datasets import Dataset
from nas.objectives import Objective
from nas.objectives.latency.table import LatencyTable
from nas.training.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWeights:
    """The shared weights of a session; equal if their digests are."""

    digest: str
    tensors: Mapping[str, NDArray[Any]] = field(compare=False, repr=False)
    """Name → whole tensor."""
    dataset: Dataset = field(compare=False)
    """The images that networks are scored on."""


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
    teachers: Mapping[str, str] = field(default_factory=dict)
    """Teacher as the settings name it → the name of its network, with which the run began."""
    fine_tuning: TrainSettings | None = None
    """The settings of a fine-tuning; None if the session has no shared weights."""
    shared: SharedWeights | None = None
    """Set in the worker process, which gets the tensors by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the trials of a session run."""

    storage: str
    """Folder or URI of the trials' checkpoints."""
    folder: str
    """The driver's working folder, for a dataset's relative paths."""
