"""Experiment → run folder: Ray Tune runs the trials that the searcher proposes, on this machine or on a cluster."""

import gc
import hashlib
import json
import logging
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from ray import tune
from safetensors.numpy import load

from nas.errors import NasError, is_disk_fault
from nas.paths import absolute
from nas.plugins import check_type
from nas.runs.experiment import Experiment
from nas.runs.run_folder import RAY, create_run, locked, mend_logs, read_experiment, shared_weights_file, write_experiment
from nas.runs.shared_weights import read_shared_record
from nas.runs.trial import Status, Weights
from nas.runs.trial_log import check_history, read_history, read_trials
from nas.searching.early_stopping import EarlyStopping
from nas.searching.interrupt import interruptible
from nas.searching.notebook import notebook, shown_in_notebook
from nas.searching.parcel import Parcel, in_worker, pack
from nas.searching.phases import WatchTraining, fine_tuning
from nas.searching.plan import (
    FinishedError,
    Plan,
    Session,
    check_images,
    check_unchanged,
    check_unfinished,
    make_plan,
    next_experiment,
    record_session,
    was_over,
    with_latency,
    with_own_table,
)
from nas.searching.ray_callback import ReportCallback
from nas.searching.ray_faults import CUT_OFF
from nas.searching.ray_session import ray_session, resources
from nas.searching.searcher import ArchitectureSearcher
from nas.searching.shared_source import copy_shared_weights
from nas.searching.state import make_state
from nas.searching.task import Site, Task
from nas.searching.teachers import find_teachers
from nas.searching.tracked import tracked
from nas.searching.worker import run_trial
from nas.trackers import Tracking, open_trackers

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A context manager that displays a running search; by default only the log does, and in a notebook also a bar.
Watch = Callable[[ArchitectureSearcher], AbstractContextManager[object]]


@contextmanager
def unseen() -> Iterator[Callable[[int, int], None]]:
    """Displays no training."""
    yield lambda done, total: None  # noqa: ARG005


@notebook()
def search(
    experiment: Experiment,
    *,
    name: str | None = None,
    watch: Watch = shown_in_notebook,
    watch_training: WatchTraining = unseen,
) -> Path:
    """Run an experiment and return its run folder; the folder's name begins with `name`, by default the space's name.

    The first Ctrl-C stops when the running epochs have ended; the second, or SIGTERM, stops at once. `resume` continues the run.

    Raises: NasError, before anything is trained or written, for limits that no network meets, an unknown sampler or optimizer, a
    teacher that cannot be used, or resources that the machine does not have. KeyboardInterrupt if it was interrupted; the run
    folder has the finished trials.
    """
    check_type("experiment", experiment, Experiment)
    if name is not None and (not name.strip() or "/" in name):
        raise NasError(f"name: {name!r} is not the beginning of a folder's name; give one without /")
    experiment = with_latency(experiment.resolved())
    plan = make_plan(experiment)
    teachers = find_teachers(experiment)
    parcel = pack(task_of(experiment, plan, teachers))
    trackers = open_trackers(experiment.log)
    with _ray(experiment, parcel, partial(check_images, experiment)) as fingerprint:
        run = create_run(experiment, name or experiment.space.name, fingerprint, teachers)
        with locked(run):
            tracking = Tracking(trackers, run)
            session = Session(experiment=with_own_table(experiment, run), run=run, plan=plan, tracking=tracking)
            run_session(session, parcel, watch, watch_training)
    return run


@notebook()
def resume(
    run: str | PathLike[str],
    *,
    experiment: Experiment | None = None,
    watch: Watch = shown_in_notebook,
    watch_training: WatchTraining = unseen,
    **changes: Any,
) -> Path:
    """Continue a run, however it ended: ended trials stay, and the others continue from their checkpoints.

    `changes` are fields of Experiment, such as trials=100 or baselines=("mobilenetv2_100",); they are recorded in
    experiment.json. A new lower or upper bound replaces the old one on the same objective. A new `dataset` is the same images
    at another place; a finished run only records the place. Pass `experiment` if experiment.json does not suffice to rebuild it,
    since some of its parts were made in a script.

    Raises: NasError if another process searches the run, if the run is finished or cannot be rebuilt, or for a change after
    which results would not be comparable.
    """
    folder = absolute(run).resolve()
    described = read_experiment(folder)
    after = next_experiment(described, folder, experiment, changes)
    with locked(folder):
        mend_logs(folder)
        past, history = read_trials(folder), read_history(folder)
        check_history(folder, past, history)
        plan = make_plan(after, folder)
        check, over = partial(check_unchanged, after, folder, described), was_over(described, after)
        try:
            check_unfinished(folder, after, plan, past, over=over)
        except FinishedError:
            if changes.keys() != {"dataset"}:
                raise
            check()
            record_session(folder, described, after, finished=True, over=over)
            logger.info("%s is finished; its images are read from their new place", folder)
            return folder
        parcel = pack(task_of(after, plan, described["teachers"]))
        trackers = open_trackers(after.log)
        with _ray(after, parcel, check):
            record_session(folder, described, after, over=over)
            session = Session(
                experiment=with_own_table(after, folder),
                run=folder,
                plan=plan,
                number=len(described["sessions"]),
                past=past,
                history=history,
                over=over,
                tracking=Tracking(trackers, folder),
            )
            run_session(session, parcel, watch, watch_training)
    return folder


@contextmanager
def _ray(experiment: Experiment, parcel: Parcel, read_images: Callable[[], T]) -> Iterator[T]:
    """A Ray session; gives what `read_images` returns. While it starts, images are read, and the parcel is checked.

    Raises: NasError if a trial needs more GPUs than a machine has, images cannot be read, or workers cannot use the user's code.
    """
    read: list[T] = []

    def check() -> None:
        parcel.check()
        read.append(read_images())

    with ray_session(experiment.workers, address=experiment.address, verbose=experiment.verbose, while_starting=check):
        resources(experiment)
        yield read[0]


def task_of(experiment: Experiment, plan: Plan, teachers: Mapping[str, str]) -> Task:
    """What every trial of a session does; `teachers` are those that the run began with."""
    problem = plan.problem
    return Task(
        dataset=experiment.dataset,
        objectives=(*problem.trained, *(one for one in experiment.objectives if not one.steers)),
        settings=experiment.train,
        seed=experiment.seed,
        latency=problem.latency_table,
        teachers=teachers,
        fine_tuning=fine_tuning(experiment),
    )


def run_session(session: Session, parcel: Parcel, watch: Watch, watch_training: WatchTraining = unseen) -> None:
    """Run one session in the running Ray, from the first proposal to the summary in the log. `parcel` has its task.

    Raises: NasError for an error that ends it early. KeyboardInterrupt if it was interrupted.
    """
    logger.info("run folder %s", session.run)
    with tracked(session):
        _run_session(session, parcel, watch, watch_training)


def _run_session(session: Session, parcel: Parcel, watch: Watch, watch_training: WatchTraining) -> None:
    run, experiment = session.run, session.experiment
    workers, gpus = resources(experiment)
    with _reporting_full_disk(run):
        if experiment.uses_shared_weights:
            _get_shared_weights(session, workers, gpus, watch_training)
        searcher = ArchitectureSearcher(make_state(session), workers=workers)
        callback = ReportCallback(searcher)
        with watch(searcher):
            early = _search(session, parcel, callback, gpus)
        if searcher.failure is not None:
            raise _with_hint(searcher.failure, run)
    tally = searcher.state.log.tally
    if experiment.uses_shared_weights:
        trained = [one for one in searcher.state.trials.values() if one.from_trial is not None and one.status is Status.DONE]
        done = Counter(weights for _, weights in {(one.id, one.weights) for one in trained})  # a resume may fine-tune one again
        logger.info("%d networks scored, %d failed", tally.done, tally.failed)
        logger.info("%d fine-tuned, %d trained alone", done[Weights.FINE_TUNED], done[Weights.TRAINED])
    else:
        logger.info("%d done, %d failed, %d stopped early", tally.done, tally.failed, tally.stopped)
    logger.info("%d infeasible and %d duplicate proposals skipped", tally.infeasible, tally.duplicate)
    if early:  # by Ctrl-C, or by SIGUSR1, with which a cluster's queue asks Tune to end
        raise KeyboardInterrupt
    write_experiment(run, read_experiment(run) | {"finished": True})


def _search(session: Session, parcel: Parcel, callback: ReportCallback, gpus: float) -> bool:
    """Let Tune run trials until the search ends or is interrupted; whether `resume` has work left."""
    searcher, run = callback.searcher, session.run
    try:
        with interruptible(searcher.state.interrupted):
            _tuner(session, parcel, callback, gpus).fit()
    except (KeyboardInterrupt, *CUT_OFF) as error:  # at its end Tune reads the errors that a full disk has cut off
        _free_cores(error)
        if searcher.failure is None:
            raise
    finally:
        callback.kill_workers()
        shutil.rmtree(run / RAY, ignore_errors=True)  # Ray's own files of this and earlier sessions; nothing reads them
        early = _closed(searcher)
        if early and searcher.failure is None:
            logger.info("`nas resume %s` runs the remaining trials", run)
    return early


def _free_cores(error: BaseException) -> None:
    """Let Tune's controller go, which an error has ended: it keeps the cores of its trials as long as something refers to it."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__
    gc.collect()


def _get_shared_weights(session: Session, workers: int, gpus: float, watch: WatchTraining) -> None:
    """Train the shared weights of a run or copy those of another, if the run has none yet.

    Raises: NasError for an error that ends the training early. KeyboardInterrupt if it was interrupted.
    """
    run, source = session.run, session.experiment.shared_weights_run
    if read_shared_record(run) is not None:
        return
    if source is not None:
        copy_shared_weights(source, run)
    else:
        from nas.searching.shared_training import train_shared_weights  # imports torch

        train_shared_weights(session, workers=workers, gpus=gpus, watch=watch)
    file = shared_weights_file(run)
    size = file.stat().st_size / 1e6
    logger.info("shared weights: %.1f MB in %s, for --shared-weights %s; `nas clean` removes them", size, file.parent, run)


def _closed(searcher: ArchitectureSearcher) -> bool:
    """Log the unfinished trials; whether `resume` has work left. After a failure the log may be what cannot be written."""
    try:
        return searcher.close()
    except NasError as error:
        searcher.stop(error)
        return True


def _with_hint(error: Exception, run: Path) -> Exception:
    """The error that ends a search, with what to do."""
    room = "make room on the disk, then " if is_disk_fault(str(error)) else ""
    return NasError(f"{error}; {room}`nas resume {run}` continues the search")


def _tuner(session: Session, parcel: Parcel, callback: ReportCallback, gpus: float) -> tune.Tuner:
    experiment, searcher, state = session.experiment, callback.searcher, callback.searcher.state
    site = asdict(Site(storage=session.storage, folder=str(Path.cwd())))
    shared = _tensors(shared_weights_file(session.run)) if experiment.uses_shared_weights else None
    trainable = tune.with_parameters(in_worker(run_trial), task=parcel.data, site=site, shared=shared)
    storage = session.run / RAY / f"session{session.number}"
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=EarlyStopping(state.stopping, enabled=experiment.stops_early, interrupted=state.interrupted),
            num_samples=sys.maxsize,  # the searcher ends the search
            max_concurrent_trials=searcher.workers,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial{trial.config['trial']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            verbose=0,
            callbacks=[callback],
            progress_reporter=tune.CLIReporter(),  # silent here; Tune's own for notebooks would clear the cell
        ),
    )


def _tensors(file: Path) -> dict[str, Any]:
    """The shared weights in a file as NumPy arrays, which Ray's object store hands to every worker without a copy."""
    data = file.read_bytes()
    return {"digest": hashlib.sha256(data).hexdigest(), "tensors": load(data)}


@contextmanager
def _reporting_full_disk(run: Path) -> Iterator[None]:
    """Turns an error of the disk, such as a full one, into a NasError, whether the log or Ray's own files meet it first."""
    try:
        yield
    except (OSError, json.JSONDecodeError, *CUT_OFF) as error:
        reason = getattr(error, "strerror", None) or "is the disk full?"
        unwritten = NasError(f"run folder {run} cannot be written: {reason}; finished trials are kept")
        raise _with_hint(unwritten, run) from None
