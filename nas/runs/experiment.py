"""An experiment: all that defines a search, as one value. Read `run_folder.py` next."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import tyro
from optuna.samplers import BaseSampler

from nas.datasets import Dataset
from nas.errors import NasError
from nas.models.network import absolute_name
from nas.objectives import Limit, Objective
from nas.objectives.latency.table import LatencyTable, read_table
from nas.paths import absolute, with_absolute_paths
from nas.plugins import absolute_plugin, check_plugins, check_type
from nas.spaces import SearchSpace
from nas.training.settings import TrainSettings, check_teacher_settings
from nas.training.tuned import TEACHER, TunedSpace, resolved_tune

AUTO: Final = "auto"  # trials of a search that ends by itself


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The space, dataset, objectives, limits, settings and resources of one search."""

    space: SearchSpace
    """The networks to choose from."""
    dataset: Dataset
    """The images to train and rank on."""
    objectives: tuple[Objective, ...]
    """What to find the Pareto front of, and what is only to look at: names of objectives, or paths of files that export one."""
    limits: Annotated[tuple[Limit, ...], tyro.conf.arg(name="limit")] = ()
    """Limits that every network must meet before it is trained, such as "macs_m<60"."""
    latency: str | None = None
    """Latency table that predicts latency_ms; by default the newest built here for this space; without one, trials measure it."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """How each network is trained."""
    tune: tuple[str, ...] = ()
    """Training settings to search together with the network: "train.lr=0.001..0.02 log" or "train.weight_decay=0.01,0.05"."""
    sampler: str | BaseSampler = "frontier"
    """What proposes networks: frontier, random, tpe, nsga2, nsga3, gp or qmc; from Python any Optuna sampler too."""
    trials: int | Literal["auto"] = 50
    """Networks to train, or auto: until --min-gain; those of a search by shared weights do not count."""
    min_gain: str = "0.2%"
    """With --trials auto: the search ends when a further trial will hardly add this share to the hypervolume of the front."""
    seeds_per_network: int | Literal["auto"] = 1
    """How often a network may be trained, each time with another seed, where that is worth more than a new one; auto: any number.
    """
    shared_weights: str = "none"
    """Weights of which every network is a slice, to score networks without a training: train, none, or a run that has them."""
    shared_epochs: int | None = None
    """Epochs of the training of the shared weights; by default 12 times those of --train.epochs."""
    shared_trials: int = 300
    """Networks to score by shared weights."""
    fine_tune: int = 5
    """Epochs for which each network of the front by shared weights is trained further; 0 for none."""
    alone: int = 0
    """Networks of that front, the best by top-1, to train also from new weights, with the whole settings."""
    start: tuple[str, ...] = ()
    """Networks to try first, after the space's references: files, exports, run folders (their fronts), published names."""
    reuse: tuple[str, ...] = ()
    """Run folders whose results are reused first, without training, for networks of this space that meet the limits."""
    baselines: tuple[str, ...] = ()
    """Networks to train beside the search, whatever they cost: published names, exports, architecture files, timm:NAME."""
    early_stopping: bool | None = None
    """Whether a training that will hardly reach the front is stopped; by default if top-1 alone needs training."""
    trial_timeout: float = math.inf
    """Seconds after which a trial is stopped and counts as failed."""
    keep_all: bool = False
    """Whether the weights of every network are kept, not only those of the front."""
    workers: int | None = None
    """Trials at a time; by default as many as the GPUs hold, or one per CPU core where there is no GPU."""
    gpus_per_trial: float | None = None
    """GPUs of one trial, a fraction to share them; by default 1 where there is a GPU, else 0."""
    address: str | None = None
    """Address of a running Ray cluster: auto or HOST:PORT; by default the search runs on this machine alone."""
    storage: str | None = None
    """Folder or URI, reachable from every node, for the checkpoints of running trials; by default in the run folder."""
    seed: int = 0
    """Seed of the sampler, and of the initial weights and the batches of every trial."""
    log: tuple[str, ...] = ()
    """Tools to log each trial to as it runs: tensorboard, mlflow, wandb, trackio, or paths of files that export a TRACKER."""
    verbose: bool = False
    """Whether Ray's own messages are shown."""
    runs: str = "runs"
    """The folder in which run folders are created."""

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
            raise NasError(f"objectives: {', '.join(names)} names one objective twice")
        if len(self.steering) < len(names) and not any(objective.needs_training for objective in self.steering):
            raise NasError(
                f"objectives: {', '.join(one.name for one in self.objectives if not one.steers)} can only be looked at beside an "
                f"objective to search by that needs training, such as val_top1_pct; given: {', '.join(names)}"
            )
        check_plugins("tracker", self.log, field="log")
        self._check_trials()
        self._check_seeds()
        self._check_tune()
        self._check_shared_weights()
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

    def _check_trials(self) -> None:
        if self.trials != AUTO and (isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 1):
            what = "1 or more, or auto" if isinstance(self.trials, int) else "a whole number of 1 or more, or auto"
            raise NasError(f"trials: {self.trials!r} is not {what}")
        self.min_gain_share  # noqa: B018 - raises for what is no percentage

    def _check_seeds(self) -> None:
        number = self.seeds_per_network
        if number != AUTO and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise NasError(f"seeds-per-network: {number!r} is not 1 or more, or auto")
        if number == 1:
            return
        if isinstance(self.sampler, str) and self.sampler != "frontier":
            raise NasError(
                f"seeds-per-network: sampler {self.sampler} never trains a network again; give --sampler frontier, or "
                "--seeds-per-network 1"
            )
        if self.uses_shared_weights:
            raise NasError(
                "seeds-per-network and shared-weights: networks that are scored by shared weights are not trained; give one of "
                "the two"
            )
        if not self.has_learning_curve:
            trained = ", ".join(objective.name for objective in self.steering if objective.needs_training)
            raise NasError(
                "seeds-per-network: a further training is weighed by the top-1, which alone may need training; given: "
                f"{trained or 'none that needs training'}"
            )

    def _check_tune(self) -> None:
        check_type("tune", self.tune, tuple)
        for text in self.tune:
            check_type("tune", text, str)
        parameters = self.search_space.parameters if self.tune else ()  # raises for a setting that cannot be searched
        if TEACHER not in parameters:
            check_teacher_settings(self.train)
        if not self.tune:
            return
        if not any(objective.needs_training for objective in self.steering):
            raise NasError("tune: no objective needs training, so no setting has an effect; leave it out, or add val_top1_pct")
        if self.uses_shared_weights:
            raise NasError(
                "tune and shared-weights: networks that are scored by shared weights are not trained; give one of the two"
            )
        if self.reuse:
            raise NasError("tune and reuse: results of other runs have other settings; give one of the two")

    def _check_shared_weights(self) -> None:
        for name, least in (("shared_epochs", 1), ("shared_trials", 1), ("fine_tune", 0), ("alone", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise NasError(f"{name.replace('_', '-')}: {value} is not {least} or more")
        if not self.shared_weights:
            raise NasError("shared-weights: an empty name; give none, train or a run folder")
        if not self.uses_shared_weights:
            return
        if not self.has_learning_curve:
            trained = ", ".join(objective.name for objective in self.objectives if objective.needs_training)
            raise NasError(
                "shared-weights: networks are scored by their top-1 alone, so no other objective may need training (latency_ms "
                f"needs none with a table that `nas latency build` makes); given: {trained or 'none that needs training'}"
            )
        if self.trials == AUTO:
            raise NasError(
                "trials: auto ends a search by trainings, and a search by shared weights scores as many networks as "
                "--shared-trials says; give --trials a number, or leave it out"
            )
        if self.reuse:
            raise NasError("shared-weights and reuse: results of trainings do not rank with scores; give one of the two")

    @property
    def min_gain_share(self) -> float:
        """The least share of the hypervolume that a trial of a search with --trials auto is to add.

        Raises: NasError for what is no percentage.
        """
        return share_of("min-gain", self.min_gain)

    @property
    def uses_shared_weights(self) -> bool:
        """Whether networks are scored by shared weights."""
        return self.shared_weights != "none"

    @property
    def shared_weights_run(self) -> Path | None:
        """The run whose shared weights are used; None if there are none, or this search trains them."""
        return None if self.shared_weights in ("none", "train") else Path(self.shared_weights)

    @property
    def search_space(self) -> SearchSpace:
        """The space with the training settings that are searched as further parameters; `space` if there are none."""
        return TunedSpace(space=self.space, tune=self.tune, train=self.train) if self.tune else self.space

    @property
    def steering(self) -> tuple[Objective, ...]:
        """The objectives to search by; the others are only to look at."""
        return tuple(objective for objective in self.objectives if objective.steers)

    @property
    def latency_table(self) -> LatencyTable | None:
        """The latency table that predicts latencies, if there is one.

        Raises: NasError if the file is no latency table.
        """
        return None if self.latency is None else read_table(self.latency)

    @property
    def stops_early(self) -> bool:
        """Whether networks that fall behind are stopped; by default if the experiment `has_learning_curve`."""
        return self.has_learning_curve if self.early_stopping is None else self.early_stopping

    @property
    def has_learning_curve(self) -> bool:
        """Whether exactly one objective to search by needs training, and each epoch gives a value of it."""
        return [objective.learning_curve for objective in self.steering if objective.needs_training] == [True]

    @property
    def needs_latency(self) -> bool:
        """Whether an objective or a limit reads a latency."""
        return any(objective.needs_latency for objective in (*self.objectives, *(limit.objective for limit in self.limits)))

    def resolved(self) -> Self:
        """The experiment with absolute paths, so that it means the same in every folder and process."""
        storage = self.storage
        if storage is not None and "://" not in storage and "::" not in storage:
            storage = str(absolute(storage))
        return replace(
            self,
            dataset=with_absolute_paths(self.dataset),
            train=self.train.resolved(),
            tune=tuple(map(resolved_tune, self.tune)),
            objectives=tuple(replace(one, measure=with_absolute_paths(one.measure)) for one in self.objectives),
            storage=storage,
            shared_weights=_absolute_run(self.shared_weights),
            latency=None if self.latency is None else str(absolute(self.latency)),
            start=tuple(map(absolute_name, self.start)),
            reuse=tuple(str(absolute(run)) for run in self.reuse),
            baselines=tuple(map(absolute_name, self.baselines)),
            log=tuple(map(absolute_plugin, self.log)),
            runs=str(absolute(self.runs)),
        )


def share_of(name: str, text: str) -> float:
    """The share that a percentage such as "0.2%" is; `name` is that of the option.

    Raises: NasError for what is no percentage above 0 % and up to 100 %.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*", str(text))
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise NasError(f"{name}: {text!r} is not a percentage above 0 % and up to 100 %, such as 0.2%")
    return share


def _absolute_run(name: str) -> str:
    """The absolute path of the run whose shared weights are used; none and train are no paths."""
    return name if name in ("none", "train") else str(absolute(name))
