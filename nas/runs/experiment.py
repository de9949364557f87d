"""A whole run as one value."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Self

import tyro
from optuna.samplers import BaseSampler

from nas.datasets import Dataset
from nas.errors import NasError
from nas.models.zoo import references
from nas.objectives import Limit, Objective
from nas.objectives.latency.table import LatencyTable, read_table
from nas.plugins import check_type
from nas.spaces import SearchSpace
from nas.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to search, on which images, for what, within which limits, and with what means."""

    space: SearchSpace
    """The networks to choose from."""
    dataset: Dataset
    """The images to train and rank on."""
    objectives: tuple[Objective, ...]
    """What to find the Pareto front of: names of objectives, or paths of files that export one."""
    limits: Annotated[tuple[Limit, ...], tyro.conf.arg(name="limit"), tyro.conf.UseAppendAction] = ()
    """What every network must meet before it is trained, such as "macs_m<60"; give it once for each limit."""
    latency: str | None = None
    """For latency_ms, the table of a device's layers; by default the newest built here for this space, else trials measure."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """How each network is trained."""
    sampler: str | BaseSampler = "frontier"
    """What proposes networks: frontier, random, tpe, nsga2, nsga3, gp or qmc; from Python any Optuna sampler too."""
    trials: int = 50
    """Networks to train."""
    start: tuple[str, ...] = ()
    """Networks to try first, after the space's references: files, exports, run folders (their fronts), published names."""
    reuse: tuple[str, ...] = ()
    """Run folders whose outcomes are taken over first, as far as they are of this space and meet the limits; none is trained."""
    baselines: tuple[str, ...] = ()
    """Networks to train beside the search, whatever they cost: published names, exports, architecture files, timm:NAME."""
    early_stopping: bool | None = None
    """Whether a network that falls behind its peers is stopped early; by default where top-1 alone needs training."""
    trial_timeout: float = math.inf
    """Seconds after which a trial has failed."""
    keep_all: bool = False
    """Whether the weights of every network are kept, not only those of the front."""
    workers: int | None = None
    """Trials at a time; by default as many as the GPUs hold, or one per CPU core where there is no GPU."""
    gpus_per_trial: float | None = None
    """GPUs of one trial, a fraction to share them; by default 1 where there is a GPU, else 0."""
    address: str | None = None
    """Of a Ray cluster that runs already: auto or HOST:PORT; by default this machine alone."""
    storage: str | None = None
    """Where trials under way keep their checkpoints, a folder or URI that every node reaches; by default in the run folder."""
    seed: int = 0
    """Of the sampler, and of every trial's weights and batches."""
    verbose: bool = False
    """Whether Ray's own messages are shown."""
    runs: str = "runs"
    """The folder that run folders are made in."""

    def __post_init__(self) -> None:
        check_type("space", self.space, SearchSpace)
        check_type("dataset", self.dataset, Dataset)
        for objective in self.objectives:
            check_type("objectives", objective, Objective)
        for limit in self.limits:
            check_type("limits", limit, Limit)
        if not self.objectives:
            raise NasError("objectives: none given; a search needs at least one, such as val_top1_pct")
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise NasError(f"objectives: {', '.join(names)} names one twice")
        if self.trials < 1:
            raise NasError(f"trials: {self.trials} is not 1 or more")
        if self.workers is not None and self.workers < 1:
            raise NasError(f"workers: {self.workers} is not 1 or more")
        if not 0 <= self.seed < 2**32:
            raise NasError(f"seed: {self.seed} is not from 0 to {2**32 - 1}")
        if not self.trial_timeout > 0:
            raise NasError(f"trial-timeout: {self.trial_timeout} is not more than 0 seconds")
        if self.early_stopping and not self.has_learning_curve:
            raise NasError(
                "early-stopping: networks are judged by their top-1 after each epoch and by costs known before training, so one "
                f"objective alone may need training, and it must be that top-1; given: {', '.join(names)}"
            )
        if not self.runs:
            raise NasError("runs: an empty name; give a folder, such as runs")
        gpus = self.gpus_per_trial
        if gpus is not None and not (0 <= gpus <= 1 or (gpus < math.inf and gpus == int(gpus))):
            raise NasError(f"gpus-per-trial: {gpus} is not a share from 0 to 1 or a whole number")

    @property
    def latency_table(self) -> LatencyTable | None:
        """The table that latencies are predicted from.

        Raises: NasError if the file is not one.
        """
        return None if self.latency is None else read_table(self.latency)

    @property
    def stops_early(self) -> bool:
        """Whether networks that fall behind are stopped; by default where the one objective that needs training has a curve."""
        return self.has_learning_curve if self.early_stopping is None else self.early_stopping

    @property
    def has_learning_curve(self) -> bool:
        """Whether epochs tell how a network will compare: one objective needs training, and it is known after each epoch."""
        return [objective.learning_curve for objective in self.objectives if objective.needs_training] == [True]

    @property
    def needs_latency(self) -> bool:
        """Whether an objective or a limit reads a latency."""
        return any(objective.needs_latency for objective in (*self.objectives, *(limit.objective for limit in self.limits)))

    def resolved(self) -> Self:
        """The same with absolute paths, so that the run can be resumed from any folder."""
        storage = self.storage
        if storage is not None and "://" not in storage and "::" not in storage:
            storage = str(Path(storage).resolve())
        return replace(
            self,
            storage=storage,
            latency=None if self.latency is None else str(Path(self.latency).resolve()),
            start=tuple(map(_absolute, self.start)),
            reuse=tuple(map(_absolute, self.reuse)),
            baselines=tuple(map(_absolute, self.baselines)),
        )


def _absolute(name: str) -> str:
    """The absolute path of what exists; anything else is a network's name."""
    return str(Path(name).resolve()) if Path(name).exists() and name not in references() else name
