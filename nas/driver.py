"""Experiment → run folder: Ray Tune runs the trials that the searcher proposes, on all of the machine.

Read `runs.py` for what the folder holds, `table.py` for how it becomes a DataFrame.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import optuna
import ray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from nas.datasets import Dataset, load_part
from nas.errors import NasError, describe_error
from nas.evaluate import evaluate
from nas.experiment import Experiment
from nas.objectives import Objective
from nas.plugins import modules_beside
from nas.recipe import TrainSettings
from nas.runs import create_run
from nas.searcher import ArchitectureSearcher, check_limits, make_sampler
from nas.table import COLUMNS
from nas.train import check_settings

logger = logging.getLogger(__name__)

# What Ray reads from the environment: no log files that the run folder already has in another form; workers that stay in the
# folder the search was started in, so that a dataset's relative path means the same there; no GPU for a trial of no GPUs.
RAY_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def search(experiment: Experiment[Any, Any], *, name: str | None = None) -> Path:
    """Run an experiment to its end and give its run folder; `name` leads the folder's name, by default the space's.

    Raises: NasError, before anything is trained or written, for limits that no network meets, an unknown sampler or
    optimizer, or resources that the machine does not have. KeyboardInterrupt, when what had ended is in the run folder.
    """
    sampler = make_sampler(experiment.sampler, experiment.seed)
    check_settings(experiment.train)
    _check_names(experiment)
    feasible = check_limits(experiment)
    if experiment.limits:
        share = f"{100 * feasible.share:.1f} %" if feasible.share else "less than 0.1 %"
        logger.info("%s of the space meets %s", share, " and ".join(map(str, experiment.limits)))
    if any(objective.needs_training for objective in experiment.objectives):
        for part in ("train", "val"):  # decoded here, where a mistake is seen at once and every core is free
            load_part(experiment.dataset, part)
    with ray_session(experiment.workers):
        workers, gpus = _resources(experiment)
        run = create_run(experiment, name or experiment.space.name)
        logger.info("run folder %s", run)
        with _one_sentence(run):
            searcher = ArchitectureSearcher(experiment, *create_studies(experiment, sampler, run), run, feasible)
            with sent_by_value([experiment.dataset, *(objective.measure for objective in experiment.objectives)]):
                _tuner(experiment, searcher, run, workers, gpus).fit()
            if searcher.failure is not None:
                raise searcher.failure
            interrupted = searcher.interrupt()
    tally = searcher.tally
    logger.info(
        "%d done, %d failed; %d asks beyond a limit and %d repeats, none trained",
        tally.done,
        tally.failed,
        tally.infeasible,
        tally.duplicates,
    )
    if interrupted:  # Ray takes the signal for itself
        raise KeyboardInterrupt
    return run


def _check_names(experiment: Experiment[Any, Any]) -> None:
    """Refuse an objective whose column would be one of the table's own."""
    for objective in (*experiment.objectives, *(limit.objective for limit in experiment.limits)):
        if objective.name in COLUMNS:
            raise NasError(
                f"objective {objective.name}: the table has a column of this name; choose another than {', '.join(COLUMNS)}"
            )


def create_studies(experiment: Experiment[Any, Any], sampler: BaseSampler, run: Path) -> tuple[optuna.Study, optuna.Study]:
    """(the study in memory that is asked and told, the journal that optuna-dashboard can open).

    Two, since the journal waits for the disk at every parameter of every ask: 0.1 s a trial in a space of 66.
    """
    storages = (InMemoryStorage(), JournalStorage(JournalFileBackend(str(run / "optuna.log"))))
    directions = [StudyDirection[objective.direction.upper()] for objective in experiment.objectives]
    studies = [
        optuna.create_study(study_name=run.name, storage=storage, sampler=sampler, directions=directions) for storage in storages
    ]
    for study in studies:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names([objective.name for objective in experiment.objectives])
    return studies[0], studies[1]


def _tuner(experiment: Experiment[Any, Any], searcher: ArchitectureSearcher, run: Path, workers: int, gpus: float) -> tune.Tuner:
    trainable = tune.with_parameters(
        run_trial,
        dataset=experiment.dataset,
        objectives=tuple(objective for objective in experiment.objectives if objective.needs_training),
        settings=experiment.train,
        seed=experiment.seed,
        checkpoints=run / "checkpoints",
    )
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=experiment.trials,
            max_concurrent_trials=workers,
            reuse_actors=True,
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(run), verbose=0, callbacks=[_Failures(searcher)]),
    )


class _Failures(tune.Callback):
    """Tells the searcher why a trial ended without an outcome."""

    def __init__(self, searcher: ArchitectureSearcher) -> None:
        self.searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002 - Ray's
        error = trial.get_pickled_error()
        died = error is None or isinstance(error, RayActorError)
        cause = getattr(error, "cause", None) or error
        self.searcher.fail(trial.trial_id, "crash", "the worker process died" if died else describe_error(cause))


def _trial_folder(trial: Trial) -> str:
    return f"trial{trial.config['trial']}"


def run_trial(
    config: dict[str, Any],
    *,
    dataset: Dataset,
    objectives: tuple[Objective, ...],
    settings: TrainSettings,
    seed: int,
    checkpoints: Path,
) -> None:
    """What Ray runs in a worker: one trial, one report, whatever happened."""
    weights = checkpoints / f"{config['trial']}.safetensors"
    outcome = evaluate(
        config["architecture"], dataset=dataset, objectives=objectives, settings=settings, seed=seed, weights=weights
    )
    tune.report({"outcome": json.dumps(outcome.to_record())})  # as a text, since Ray flattens what is nested


@contextmanager
def _one_sentence(run: Path) -> Iterator[None]:
    """Turn what a full disk does to the log, to Optuna's journal or to Ray's state into one error."""
    try:
        yield
    except (OSError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise NasError(f"run folder {run} cannot be written: {reason}; what had ended before is kept") from None


@contextmanager
def ray_session(workers: int | None) -> Iterator[None]:
    """Ray on this machine alone, quiet; one that runs already is used and left running."""
    if ray.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in RAY_ENVIRONMENT}
    os.environ.update(RAY_ENVIRONMENT)
    levels = {name: logging.getLogger(name).level for name in ("ray", "optuna")}
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # a trial's failure is its row, with the reason
    logging.getLogger("optuna").setLevel(logging.WARNING)
    try:
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _node_ip_address="127.0.0.1",
        )
        yield
    finally:
        ray.shutdown()
        for logger_name, level in levels.items():
            logging.getLogger(logger_name).setLevel(level)
        for variable, value in before.items():
            os.environ.pop(variable) if value is None else os.environ.update({variable: value})


def _resources(experiment: Experiment[Any, Any]) -> tuple[int, float]:
    """(trials at a time, GPUs of each).

    Raises: NasError if a trial asks for more GPUs than there are.
    """
    available = ray.cluster_resources()
    gpus = available.get("GPU", 0.0)
    wanted = experiment.gpus_per_trial if experiment.gpus_per_trial is not None else min(1.0, gpus)
    if wanted > gpus:
        raise NasError(f"gpus-per-trial: {wanted:g} is more than the {gpus:g} GPUs of this machine")
    fitting = int(gpus / wanted) if wanted else int(available["CPU"])
    return experiment.workers or max(1, fitting), wanted


@contextmanager
def sent_by_value(values: Sequence[object]) -> Iterator[None]:
    """While it lasts, what comes from a user's own files is pickled whole, as workers cannot import those files."""
    modules = modules_beside(values)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
