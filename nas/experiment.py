"""A whole run as one value.

Read `driver.py` next for how an Experiment becomes a run folder.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Generic, TypeVar

import tyro
from optuna.samplers import BaseSampler

from nas.datasets import Dataset
from nas.errors import NasError
from nas.objectives import Limit, Objective
from nas.plugins import check_kind
from nas.recipe import TrainSettings
from nas.spaces import SearchSpace

SpaceT = TypeVar("SpaceT", bound=SearchSpace)
DatasetT = TypeVar("DatasetT", bound=Dataset)


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[SpaceT, DatasetT]):
    """What to search, on which images, for what, within which limits, and with what means."""

    space: SpaceT
    """The networks to choose from."""
    dataset: DatasetT
    """The images to train and rank on."""
    objectives: tuple[Objective, ...]
    """What to find the Pareto front of: names of objectives, or paths of files that export one."""
    limits: Annotated[tuple[Limit, ...], tyro.conf.arg(name="limit"), tyro.conf.UseAppendAction] = ()
    """What every network must meet before it is trained, such as "macs_m<60"; give it once for each limit."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """How each network is trained."""
    sampler: str | BaseSampler = "tpe"
    """What proposes networks: random, tpe, nsga2, nsga3, gp or qmc; from Python any Optuna sampler too."""
    trials: int = 50
    """Networks to train."""
    workers: int | None = None
    """Trials at a time; by default as many as the GPUs hold, or one per CPU core where there is no GPU."""
    gpus_per_trial: float | None = None
    """GPUs of one trial, a fraction to share them; by default 1 where there is a GPU, else 0."""
    seed: int = 0
    """Of the sampler, and of every trial's weights and batches."""
    runs: str = "runs"
    """The folder that run folders are made in."""

    def __post_init__(self) -> None:
        check_kind("space", self.space, SearchSpace)
        check_kind("dataset", self.dataset, Dataset)
        for objective in self.objectives:
            check_kind("objectives", objective, Objective)
        for limit in self.limits:
            check_kind("limits", limit, Limit)
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
        if not self.runs:
            raise NasError("runs: an empty name; give a folder, such as runs")
        gpus = self.gpus_per_trial
        if gpus is not None and not (0 <= gpus <= 1 or (gpus < math.inf and gpus == int(gpus))):
            raise NasError(f"gpus-per-trial: {gpus} is not a share from 0 to 1 or a whole number")
