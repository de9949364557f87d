"""Experiment → run folder: Ray Tune runs the trials that the searcher proposes, on all of the machine or on a cluster.

Read `runs.py` for what the folder holds, `table.py` for how it becomes a DataFrame.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any, Final

import ray
from optuna.samplers import BaseSampler
from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from nas.datasets import load_part
from nas.description import describe, describe_session, experiment_of
from nas.earlier import Known, Start, outcomes, starts
from nas.errors import NasError, describe_error, unknown
from nas.experiment import Changes, Experiment
from nas.feasibility import Feasibility, check_limits
from nas.keeper import Keeper
from nas.objectives import Limit
from nas.plugins import modules_beside
from nas.runs import HISTORY_FILE, WEIGHTS, create_run, locked, mend_logs, read_experiment, read_log, write_experiment
from nas.scheduler import EarlyStopping
from nas.searcher import ArchitectureSearcher
from nas.storage import TrialFolder, check_storage, is_local
from nas.study import Journal, create_study, make_sampler
from nas.table import COLUMNS, rows
from nas.train import check_settings
from nas.worker import RetiredError, run_trial

logger = logging.getLogger(__name__)

# What Ray reads from the environment: no log files that the run folder already has in another form; workers that stay in the
# folder the search was started in, so that a dataset's relative path means the same there; no GPU for a trial of no GPUs; Ctrl-C
# is ours.
RAY_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
CHANGEABLE: Final = tuple(field.name for field in fields(Changes))


# What shows a search while it lasts.
Watch = Callable[[ArchitectureSearcher], AbstractContextManager[None]]


def unwatched(searcher: ArchitectureSearcher) -> AbstractContextManager[None]:  # noqa: ARG001 - nothing is shown of it
    """Show nothing beyond what is logged."""
    return nullcontext()


def search(experiment: Experiment[Any, Any], *, name: str | None = None, watch: Watch = unwatched) -> Path:
    """Run an experiment to its end and give its run folder; `name` leads the folder's name, by default the space's.

    The first Ctrl-C lets the epochs under way end, the second does not; `resume` goes on from there, and after any other end.

    Raises: NasError, before anything is trained or written, for limits that no network meets, an unknown sampler or
    optimizer, or resources that the machine does not have. KeyboardInterrupt, when what had ended is in the run folder.
    """
    prepared = _prepare(experiment)
    with ray_session(experiment.workers, address=experiment.address, verbose=experiment.verbose):
        workers, gpus = _resources(experiment)
        run = create_run(experiment, name or experiment.space.name)
        with locked(run):
            _run(experiment, run, prepared, workers=workers, gpus=gpus, watch=watch)
    return run


def resume(
    run: str | PathLike[str], *, experiment: Experiment[Any, Any] | None = None, watch: Watch = unwatched, **changes: Any
) -> Path:
    """Go on with a run, wherever it had ended: finished trials stay, those under way go on from their checkpoints.

    `changes` are the fields of nas.experiment.Changes, such as trials=100; they are recorded in experiment.json. `experiment`
    stands in for the one that is rebuilt from there, where its parts were made in a script.

    Raises: NasError if the run is searched by another process, is finished already, or cannot be rebuilt.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    unknown_fields = [field for field in changes if field not in CHANGEABLE]
    if unknown_fields:
        raise unknown("change", unknown_fields[0], CHANGEABLE)
    before = experiment or experiment_of(described, folder.parent)
    if "limits" in changes:
        changes["limits"] = _merged(before.limits, changes["limits"])
    after = replace(before, **changes)
    if isinstance(after.sampler, str):
        make_sampler(after.sampler, after.seed)  # a sampler that was an object is known by its class alone
    with locked(folder):
        mend_logs(folder)
        past = rows(folder)
        ended = sum(row["status"] in ("done", "failed", "stopped") and "reused" not in row for row in past)
        waiting = sum(row["status"] in ("running", "interrupted") for row in past)
        if ended >= after.trials and not waiting:
            raise NasError(f"{folder} is finished: {ended} of {after.trials} trials have ended; give --trials more to extend it")
        prepared = _prepare(after)
        with ray_session(after.workers, address=after.address, verbose=after.verbose):
            workers, gpus = _resources(after)
            now = json.loads(json.dumps(describe(after, described["name"]), default=str))
            changed = {
                field: (described[field], now[field]) for field in CHANGEABLE if field in now and now[field] != described[field]
            }
            sessions = [*described["sessions"], describe_session(changed)]
            write_experiment(folder, described | {field: now[field] for field in changed} | {"sessions": sessions})
            logger.info("%d trials have ended, %d go on", ended, waiting)
            _run(after, folder, prepared, workers=workers, gpus=gpus, watch=watch, session=len(sessions) - 1, past=past)
    return folder


def _merged(before: Sequence[Limit], given: Sequence[Limit]) -> tuple[Limit, ...]:
    """The limits, with those that are given in the place of those on the same objectives."""
    names = {limit.objective.name for limit in given}
    return (*(limit for limit in before if limit.objective.name not in names), *given)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What is known before Ray is started."""

    feasible: Feasibility
    starts: list[Start]
    known: Mapping[str, Known]


def _prepare(experiment: Experiment[Any, Any]) -> _Prepared:
    """Find every mistake that can be found without Ray."""
    make_sampler(experiment.sampler, experiment.seed)
    check_settings(experiment.train)
    for objective in (*experiment.objectives, *(limit.objective for limit in experiment.limits)):
        if objective.name in COLUMNS:
            raise NasError(
                f"objective {objective.name}: the table has a column of this name; choose another than {', '.join(COLUMNS)}"
            )
    feasible = check_limits(experiment)
    if experiment.limits:
        logger.info("%s of space %s fits %s", feasible, experiment.space.name, " and ".join(map(str, experiment.limits)))
    prepared = _Prepared(feasible=feasible, starts=starts(experiment), known=outcomes(experiment))
    if experiment.storage is not None:
        check_storage(experiment.storage)
    if experiment.address is None and any(objective.needs_training for objective in experiment.objectives):
        for part in ("train", "val"):  # decoded here, where a mistake is seen at once and every core is free
            load_part(experiment.dataset, part)
    return prepared


def _run(
    experiment: Experiment[Any, Any],
    run: Path,
    prepared: _Prepared,
    *,
    workers: int,
    gpus: float,
    watch: Watch,
    session: int = 0,
    past: Sequence[Mapping[str, Any]] = (),
) -> None:
    """One session of a run, from Ray's start to what it says at the end."""
    logger.info("run folder %s", run)
    trained = [objective for objective in experiment.objectives if objective.needs_training]
    storage = f"{experiment.storage.rstrip('/')}/{run.name}" if experiment.storage else str(run / WEIGHTS)
    with _one_sentence(run):
        sampler: BaseSampler = make_sampler(experiment.sampler, experiment.seed, session=session)
        searcher = ArchitectureSearcher(
            experiment,
            create_study(experiment.objectives, sampler, run.name),
            Journal(run, experiment.objectives),
            run,
            feasible=prepared.feasible,
            keeper=Keeper(run=run, folder=partial(TrialFolder.of, storage), keep_all=experiment.keep_all, trained=bool(trained)),
            workers=workers,
            starts=prepared.starts,
            known=prepared.known,
            past=past,
            history=read_log(run / HISTORY_FILE) if past else (),
        )
        trainable = tune.with_parameters(
            run_trial,
            dataset=experiment.dataset,
            objectives=tuple(trained),
            settings=experiment.train,
            seed=experiment.seed,
            storage=storage,
            timeout=experiment.trial_timeout,
        )
        own = [experiment.dataset, *(objective.measure for objective in experiment.objectives)]
        try:
            with sent_by_value(own), _interruptible(searcher), watch(searcher):
                _tuner(trainable, searcher, run / "ray" / f"session{session}", workers=workers, gpus=gpus).fit()
        finally:
            early = searcher.failure is None and searcher.interrupt()
            if early:
                logger.info("nas resume %s goes on with the rest", run)
        if searcher.failure is not None:
            raise searcher.failure
    tally = searcher.tally
    logger.info(
        "%d done, %d failed, %d stopped early; %d asks beyond a limit and %d repeats, none trained",
        tally.done,
        tally.failed,
        tally.stopped,
        tally.infeasible,
        tally.repeated,
    )
    if searcher.stopping and early:
        raise KeyboardInterrupt


def _tuner(trainable: Any, searcher: ArchitectureSearcher, storage: Path, *, workers: int, gpus: float) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=EarlyStopping(searcher.goes_on),
            num_samples=sys.maxsize,  # the searcher says when it is over
            max_concurrent_trials=workers,
            reuse_actors=True,
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(name=storage.name, storage_path=str(storage.parent), verbose=0, callbacks=[_Reports(searcher)]),
    )


class _Reports(tune.Callback):
    """Tells the searcher what trials report, and why one ended without an outcome."""

    def __init__(self, searcher: ArchitectureSearcher) -> None:
        self.searcher = searcher

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002 - the signature is Ray's
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        self.searcher.record(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002 - Ray's
        error = trial.get_pickled_error()
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, RetiredError):
            return
        if error is not None and not isinstance(error, RayActorError):
            self.searcher.fail(trial.trial_id, describe_error(cause))
        else:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            self.searcher.lost(trial.trial_id, (trial.last_result or {}).get("node"), alive)


def _trial_folder(trial: Trial) -> str:
    return f"trial{trial.config['trial']}-{trial.trial_id}"


@contextmanager
def _interruptible(searcher: ArchitectureSearcher) -> Iterator[None]:
    """Ctrl-C, or a request to end the process: once, epochs under way are ended; twice, it is over at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's
        if searcher.stopping:
            raise KeyboardInterrupt
        searcher.stopping = True
        logger.warning("stopping when the epochs under way have ended; Ctrl-C again stops at once")

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _one_sentence(run: Path) -> Iterator[None]:
    """Turn what a full disk does to the log, to Optuna's journal or to Ray's state into one error."""
    try:
        yield
    except (OSError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise NasError(f"run folder {run} cannot be written: {reason}; what had ended before is kept") from None


@contextmanager
def ray_session(workers: int | None, *, address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """Ray on this machine alone, or on the cluster at an address, quiet; one that runs in this process already is left running.

    Raises: NasError if there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in RAY_ENVIRONMENT}
    os.environ.update(RAY_ENVIRONMENT)
    where: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if address is not None:
        where = {"address": address, "runtime_env": {"env_vars": RAY_ENVIRONMENT}}
    try:
        with nullcontext() if verbose else _quiet():
            try:
                _check_answers(address)
                ray.init(log_to_driver=verbose, logging_level=logging.INFO if verbose else logging.CRITICAL, **where)
            except (OSError, ValueError, RuntimeError) as error:
                if address is None:
                    raise
                raise NasError(
                    f"address {address!r}: no Ray cluster answers there ({describe_error(error)}); `ray start --head` starts one"
                ) from None
            yield
    finally:
        ray.shutdown()
        for variable, value in before.items():
            os.environ.pop(variable) if value is None else os.environ.update({variable: value})


def _check_answers(address: str | None) -> None:
    """Raises: OSError where nothing listens, for which Ray would wait for minutes; ValueError for what is no HOST:PORT."""
    if address not in (None, "auto", "local"):
        host, _, port = address.rpartition("://")[2].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10):
            pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray and Optuna say nothing but what is an error of theirs: a trial's failure is its row, with the reason."""
    levels = {name: logging.getLogger(name).level for name in ("ray", "optuna")}
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger_name, level in levels.items():
            logging.getLogger(logger_name).setLevel(level)


def _resources(experiment: Experiment[Any, Any]) -> tuple[int, float]:
    """(trials at a time, GPUs of each).

    Raises: NasError if a trial asks for more GPUs than a machine has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(node.get("GPU", 0.0) for node in nodes)
    wanted = experiment.gpus_per_trial if experiment.gpus_per_trial is not None else min(1.0, most)
    if wanted > most:
        raise NasError(
            f"gpus-per-trial: {wanted:g} is more than the {most:g} GPUs of {'a' if len(nodes) > 1 else 'this'} machine"
        )
    if len(nodes) > 1 and is_local(experiment.storage or experiment.runs):
        logger.info(
            "%d machines: trials keep their checkpoints in %s, which all of them must reach; else give --storage",
            len(nodes),
            Path(experiment.storage or experiment.runs).resolve(),
        )
    return experiment.workers or max(1, sum(_fitting(node, wanted) for node in nodes)), wanted


def _fitting(node: Mapping[str, float], gpus: float) -> int:
    """Trials that a machine runs at a time; a GPU is shared by whole trials only."""
    cpus = int(node.get("CPU", 0))
    if not gpus:
        return cpus
    shared = int(node.get("GPU", 0)) * int(1 / gpus + 1e-9) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(cpus, shared)


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
