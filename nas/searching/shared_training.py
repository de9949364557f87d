"""Trains the shared weights of a run before its search, in processes of the search's Ray session.

Imports torch, which the driver of another search does not need. Read `nas/supernet/training.py` next.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

import ray

from nas.errors import NasError, describe_error, is_disk_fault
from nas.runs.images import fingerprint_of
from nas.runs.run_folder import RAY, SHARED, read_experiment
from nas.runs.shared_weights import SharedRecord, write_shared_record
from nas.searching.distributed import OnEpoch, ProcessError, Processes, run_on_workers
from nas.searching.interrupt import interruptible
from nas.searching.parcel import Parcel, pack
from nas.searching.phases import WatchTraining
from nas.searching.plan import Session
from nas.searching.problem import Problem
from nas.spaces import Params
from nas.supernet.training import SharedTraining, shared_settings, train_shared
from nas.training.checkpoint import saved_processes
from nas.training.device import is_out_of_memory
from nas.training.loop import DivergedError
from nas.training.settings import LAST_FILE, Epoch, TrainReport

logger = logging.getLogger(__name__)

LOG_LINES: Final = 20  # of a training in the log
MIN_STEPS: Final = 8  # of an epoch


def train_shared_weights(session: Session, *, workers: int, gpus: float, watch: WatchTraining) -> None:
    """Train the shared weights of a run, from their checkpoint if there is one; `workers` trials at a time would use `gpus` each.

    A training that loses a process continues from its checkpoint, unless it has lost one at the same epoch before.

    Raises: NasError for a loss that is not finite, a full disk, too little memory, or lost processes. KeyboardInterrupt if it
    was interrupted.
    """
    experiment, run = session.experiment, session.run
    processes, interrupted = processes_for(session, workers=workers, gpus=gpus), Event()
    training = training_of(session, processes.count)
    epochs, device = training.settings.epochs, "GPU" if processes.use_gpu else "CPU"
    logger.info("training shared weights for %d epochs, on the %s, processes: %d", epochs, device, processes.count)
    parcel = pack(partial(train_in_process, training, experiment.train.batch_size))
    try:
        with interruptible(interrupted), watch() as show:
            progress = Progress(epochs=epochs, show=show, interrupted=interrupted)
            report = _train_to_the_end(parcel, processes, progress, storage=run / RAY)
    except KeyboardInterrupt:
        logger.info("`nas resume %s` continues the training of the shared weights", run)
        raise
    except DivergedError as error:
        size = max(1, experiment.train.batch_size // 4)  # their learning rate grows with the root of the batch
        raise NasError(f"shared weights: {error}; begin a new run with --train.batch-size {size}, which halves it") from None
    except NasError as error:
        room = "make room on the disk, then " if is_disk_fault(str(error)) else ""
        raise NasError(f"shared weights: {error}; {room}`nas resume {run}` continues their training") from None
    write_shared_record(run, _record(report, processes, seed=experiment.seed))
    (run / SHARED / LAST_FILE).unlink(missing_ok=True)  # not before: without the record, a resume needs it


def training_of(session: Session, processes: int) -> SharedTraining:
    """The training of the shared weights of a run in so many processes."""
    experiment, plan = session.experiment, session.plan
    images = fingerprint_of(read_experiment(session.run))
    return SharedTraining(
        space=experiment.space,
        feasible=partial(is_feasible, plan.problem),
        examples=[plan.feasibility.example],
        dataset=experiment.dataset,
        settings=shared_settings(experiment.train, experiment.shared_epochs, processes=processes),
        seed=experiment.seed,
        folder=session.run / SHARED,
        images=images.key if images else "",
    )


def is_feasible(problem: Problem, params: Params) -> bool:
    """Whether the network with these parameters meets the limits."""
    return problem.examine(params).feasible


def train_in_process(training: SharedTraining, batch_size: int, *, on_epoch: OnEpoch | None) -> TrainReport:
    """Train in one process of the group, with `batch_size` images a step.

    Raises: NasError if a batch does not fit into memory; else what `train_shared` raises.
    """
    try:
        return train_shared(training, on_epoch=on_epoch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NasError(
            f"a batch of {batch_size} images does not fit in the memory ({describe_error(error)}); free some, or begin a new run "
            f"with --train.batch-size {max(1, batch_size // 2)}"
        ) from None


def processes_for(session: Session, *, workers: int, gpus: float) -> Processes:
    """A process of one thread for each GPU or core that the search may use on one machine: that with the most GPUs, or this one.

    There are fewer if an epoch would have fewer than MIN_STEPS steps, and as many as before if the training goes on.

    Raises: NasError if that is more than there may be; CheckpointError for a damaged checkpoint.
    """
    kind, wanted = ("GPU", math.ceil(workers * gpus)) if gpus else ("CPU", workers)
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(kind, 0) >= 1]
    node = max(nodes, key=lambda one: (one["Resources"].get("GPU", 0) if gpus else 0, one["NodeID"] == here))
    most = min(int(node["Resources"][kind]), wanted)
    images = fingerprint_of(read_experiment(session.run))
    num_images = sum(images.counts["train"].values()) if images else 0
    before = saved_processes(session.run / SHARED)
    if before is not None and before > most:
        raise NasError(
            f"the training of the shared weights began in {before} processes, and {most} may run here; give it as many workers, "
            "or begin a new run"
        )
    count = before or max(1, min(most, num_images // (MIN_STEPS * session.experiment.train.batch_size)))
    return Processes(count=count, use_gpu=gpus > 0, threads=1, node=node["NodeID"])


@dataclass(slots=True, kw_only=True)
class Progress:
    """What the log and the display show of a training, which ends after an epoch if it is interrupted."""

    epochs: int
    show: Callable[[int, int], None]
    interrupted: Event
    latest: int = 0
    """The last epoch that has ended, over all attempts."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Show an epoch. Raises: KeyboardInterrupt after Ctrl-C."""
        self.latest = max(self.latest, epoch.epoch)
        self.show(epoch.epoch, self.epochs)
        if epoch.epoch == 1 or epoch.epoch * LOG_LINES // self.epochs > (epoch.epoch - 1) * LOG_LINES // self.epochs:
            left = timedelta(seconds=round((self.epochs - epoch.epoch) * epoch.seconds))
            line = "shared weights: epoch %d/%d, loss %.3f, %.1f s an epoch, %s left"
            logger.info(line, epoch.epoch, self.epochs, epoch.train_loss, epoch.seconds, left)
        if self.interrupted.is_set() and epoch.epoch < self.epochs:
            raise KeyboardInterrupt


def _train_to_the_end(parcel: Parcel, processes: Processes, progress: Progress, *, storage: Path) -> TrainReport:
    """Train in the processes, again from the checkpoint after the loss of one.

    Raises: ProcessError if two are lost in the same epoch; what `run_on_workers` raises.
    """
    furthest = -1
    while True:
        try:
            return run_on_workers(parcel, processes, storage=storage, on_epoch=progress.on_epoch)
        except ProcessError as error:
            if progress.latest <= furthest:
                raise
            furthest = progress.latest
            logger.warning("%s; the training continues from its checkpoint", error)


def _record(report: TrainReport, processes: Processes, *, seed: int) -> SharedRecord:
    return SharedRecord(
        train_loss=tuple(epoch.train_loss for epoch in report.history),
        seconds=report.seconds,
        processes=processes.count,
        device=report.device,
        precision=report.precision,
        seed=seed,
    )
