"""Experiment → run folder: Ray Tune runs the trials that the searcher proposes, on all of the machine or on a cluster.

Read `runs.py` for what the folder holds, `table.py` for how it becomes a DataFrame.
"""

import json
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from optuna.samplers import BaseSampler
from ray import tune
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.tune.experiment import Trial

from nas.baselines import Baseline, baselines, check_new
from nas.changes import CHANGEABLE, changed
from nas.cluster import ray_session, resources, sent_by_value
from nas.columns import TYPES
from nas.datasets import load_part
from nas.description import as_json, describe, describe_session
from nas.earlier import Known, Start, outcomes, starts
from nas.errors import NasError, describe_error
from nas.experiment import Experiment
from nas.feasibility import Feasibility, check_limits
from nas.files import read_lines
from nas.keeper import Keeper
from nas.places import located, with_latency, with_own_table
from nas.runs import HISTORY_FILE, RAY, WEIGHTS, create_run, locked, mend_logs, read_experiment, write_experiment
from nas.scheduler import EarlyStopping
from nas.searcher import UNDER_WAY, ArchitectureSearcher
from nas.storage import TrialFolder, check_storage
from nas.study import Journal, create_study, make_sampler
from nas.table import num_ended, rows
from nas.train import check_settings
from nas.worker import RetiredError, run_trial

logger = logging.getLogger(__name__)

# What shows a search while it lasts.
Watch = Callable[[ArchitectureSearcher], AbstractContextManager[None]]


def unwatched(searcher: ArchitectureSearcher) -> AbstractContextManager[None]:  # noqa: ARG001 - nothing is shown of it
    """Show nothing beyond what is logged."""
    return nullcontext()


def search(experiment: Experiment, *, name: str | None = None, watch: Watch = unwatched) -> Path:
    """Run an experiment to its end and give its run folder; `name` leads the folder's name, by default the space's.

    The first Ctrl-C lets the epochs under way end, the second and SIGTERM do not; `resume` goes on from there, and after any
    other end.

    Raises: NasError, before anything is trained or written, for limits that no network meets, an unknown sampler or
    optimizer, or resources that the machine does not have. KeyboardInterrupt, when what had ended is in the run folder.
    """
    experiment = with_latency(located(experiment))
    prepared = _prepare(experiment)
    with ray_session(experiment.workers, address=experiment.address, verbose=experiment.verbose):
        workers, gpus = resources(experiment)
        run = create_run(experiment, name or experiment.space.name)
        with locked(run):
            experiment = with_own_table(experiment, run)
            _run(experiment, run, prepared, workers=workers, gpus=gpus, watch=watch)
    return run


def resume(run: str | PathLike[str], *, experiment: Experiment | None = None, watch: Watch = unwatched, **changes: Any) -> Path:
    """Go on with a run, wherever it had ended: finished trials stay, those under way go on from their checkpoints.

    `changes` are the fields of nas.experiment.Changes, such as trials=100; they are recorded in experiment.json. `experiment`
    stands in for the one that is rebuilt from there, where its parts were made in a script.

    Raises: NasError if the run is searched by another process, is finished already, or cannot be rebuilt.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    after = changed(described, folder, experiment, changes)
    with locked(folder):
        mend_logs(folder)
        past = rows(folder)
        ended = num_ended(past)
        waiting = sum(row["status"] in ("running", "interrupted") for row in past)
        if ended >= after.trials and not waiting:
            raise NasError(f"{folder} is finished: {ended} of {after.trials} trials have ended; give --trials more to extend it")
        prepared = _prepare(after)
        with ray_session(after.workers, address=after.address, verbose=after.verbose):
            workers, gpus = resources(after)
            now = as_json(describe(after, described["name"]))
            new = {
                field: (described[field], now[field]) for field in CHANGEABLE if field in now and now[field] != described[field]
            }
            record = {"sessions": [*described["sessions"], describe_session(new)], "exhausted": False}
            write_experiment(folder, described | {field: now[field] for field in new} | record)
            logger.info("%d trials have ended, %d go on", ended, waiting)
            session = len(described["sessions"])
            after = with_own_table(after, folder)
            _run(after, folder, prepared, workers=workers, gpus=gpus, watch=watch, session=session, past=past)
    return folder


def train_baselines(
    run: str | PathLike[str],
    names: Sequence[str] = (),
    *,
    resolution: int | None = None,
    again: bool = False,
    watch: Watch = unwatched,
) -> Path:
    """Train networks to hold a run against, under its very recipe, as rows of the run with the source `reference`.

    They are the references of the space, whether the limits admit them or not, and those of `names`: published networks, exports,
    files of architectures, timm:NAME; the latter at `resolution`, by default their own, but no larger than the space's largest.
    One that has a row is not trained again; one that was interrupted goes on. They do not steer the search.

    Raises: NasError as `resume` does, for an unknown name, and if every one of them has a row, unless called `again`.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    experiment = changed(described, folder, None, {"sampler": "random"})
    with locked(folder):
        mend_logs(folder)
        past = rows(folder)
        given = baselines(experiment, names, resolution=resolution)
        waiting = any("baseline" in row and row["status"] in UNDER_WAY for row in past)
        new = check_new(given, (row["id"] for row in past if "trial" in row), waiting=waiting or again)
        if not new and not waiting:
            return folder
        prepared = _prepare(experiment)
        with ray_session(experiment.workers, address=experiment.address, verbose=experiment.verbose):
            workers, gpus = resources(experiment)
            write_experiment(folder, described | {"sessions": [*described["sessions"], describe_session({})]})
            _run(
                with_own_table(experiment, folder),
                folder,
                prepared,
                workers=workers,
                gpus=gpus,
                watch=watch,
                session=len(described["sessions"]),
                past=past,
                compared=new,
            )
    return folder


def begin_run(experiment: Experiment, name: str) -> Path:
    """A run folder in which nothing is searched yet, for baselines; `resume` searches."""
    return create_run(with_latency(located(experiment)), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What is known before Ray is started."""

    feasible: Feasibility
    starts: list[Start]
    known: Mapping[str, Known]


def _prepare(experiment: Experiment) -> _Prepared:
    """Find every mistake that can be found without Ray."""
    make_sampler(experiment)
    check_settings(experiment.train)
    for objective in (*experiment.objectives, *(limit.objective for limit in experiment.limits)):
        if objective.name in TYPES:
            raise NasError(
                f"objective {objective.name}: the table has a column of this name; choose another than {', '.join(TYPES)}"
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
    experiment: Experiment,
    run: Path,
    prepared: _Prepared,
    *,
    workers: int,
    gpus: float,
    watch: Watch,
    session: int = 0,
    past: Sequence[Mapping[str, Any]] = (),
    compared: Sequence[Baseline] | None = None,
) -> None:
    """One session of a run, from Ray's start to what it says at the end; with baselines they alone are trained."""
    logger.info("run folder %s", run)
    trained = [objective for objective in experiment.objectives if objective.needs_training]
    storage = f"{experiment.storage.rstrip('/')}/{run.name}" if experiment.storage else str(run / WEIGHTS)
    with _one_sentence(run):
        sampler: BaseSampler = make_sampler(experiment, session=session)
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
            history=read_lines(run / HISTORY_FILE) if past else (),
            baselines=compared or (),
            searches=compared is None,
        )
        trainable = tune.with_parameters(
            run_trial,
            dataset=experiment.dataset,
            objectives=tuple(trained),
            settings=experiment.train,
            seed=experiment.seed,
            storage=storage,
            latency=experiment.latency_table,
            timeout=experiment.trial_timeout,
        )
        own = [experiment.dataset, *(objective.measure for objective in experiment.objectives)]
        try:
            with sent_by_value(own), _interruptible(searcher), watch(searcher):
                _tuner(trainable, searcher, run / RAY / f"session{session}", workers=workers, gpus=gpus).fit()
        finally:
            shutil.rmtree(run / RAY, ignore_errors=True)  # of this session and of any that was killed: nothing reads it again
            early = searcher.failure is None and searcher.interrupt()
            if early:
                logger.info("%s goes on with the rest", f"nas resume {run}" if compared is None else "the same command")
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
    if searcher.exhausted:
        write_experiment(run, read_experiment(run) | {"exhausted": True})
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
        if isinstance(error, RayTaskError) or (error is not None and not isinstance(error, RayError)):
            self.searcher.fail(trial.trial_id, describe_error(cause))
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        reason = "oom" if isinstance(error, OutOfMemoryError) else "crash"  # Ray ends the process that takes the most
        self.searcher.lost(trial.trial_id, (trial.last_result or {}).get("node"), alive, reason=reason)


def _trial_folder(trial: Trial) -> str:
    return f"trial{trial.config['trial']}-{trial.trial_id}"


@contextmanager
def _interruptible(searcher: ArchitectureSearcher) -> Iterator[None]:
    """Ctrl-C: once, epochs under way are ended; twice, it is over at once, as it is when the process is told to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's
        over = searcher.stopping or signum == signal.SIGTERM  # which Ray's own processes may have been sent too
        searcher.stopping = True
        if over:
            raise KeyboardInterrupt
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
