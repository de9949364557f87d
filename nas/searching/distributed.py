"""Runs one training in several processes, each with its own GPU or its share of the CPU cores, through Ray Train."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from threading import Thread
from typing import Any, Final, NamedTuple

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group
from ray.util.queue import Queue

from nas.errors import NasError, describe_error
from nas.searching.interrupt import ending_at_once
from nas.searching.parcel import Parcel, in_worker, pack
from nas.searching.ray_faults import HEALTH_SECONDS, UNSEEN, Health, death_of
from nas.searching.ray_session import ray_session
from nas.searching.unpack import unpack
from nas.searching.worker import prepare_process
from nas.training.settings import Epoch, TrainReport

OnEpoch = Callable[[Epoch], None]
WAIT_SECONDS: Final = 60.0
TORCH_WARNINGS: Final = ("`broadcast_buffers` is deprecated", "Grad strides do not match bucket view strides")
"""About DistributedDataParallel, and harmless: torch 2.6 has no other option, and a 1x1 convolution's strides mean nothing."""
END_SECONDS: Final = 30.0  # for the processes to end after an interrupt, also those that only start


class ProcessError(NasError):
    """A process of a training that failed for another reason than a user's mistake, such as one that was killed."""


class RayEndedError(NasError):
    """Ray itself has ended, and answers no call."""


class FirstProcess(NamedTuple):
    """The first process of a training, which sends this when it begins."""

    actor: ActorHandle
    group: PlacementGroup
    """Holds the cores or GPUs of all processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of one training, all on one machine."""

    count: int
    use_gpu: bool
    """True if each has a GPU, False if each has a core."""
    threads: int
    """Threads of each process on the CPU."""
    node: str | None = None
    """Ray's id of the machine; None for any."""

    @property
    def kind(self) -> str:
        """Ray's name of what each process needs one of."""
        return "GPU" if self.use_gpu else "CPU"


def train_on_workers(work: Callable[..., TrainReport], *, workers: int, storage: Path, on_epoch: OnEpoch | None) -> TrainReport:
    """Run `work(on_epoch=...)` in one process group of `workers` processes, in a Ray session of its own; returns the report.

    Raises: NasError if the machine has fewer GPUs (without GPUs: CPU cores) than `workers`, they stay taken, or a process fails.
    """
    parcel = pack(work)
    with ray_session(None, while_starting=parcel.check), ending_at_once():
        gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        available, kind = (gpus, "GPUs") if gpus else (cores, "CPU cores")
        if workers > available:
            raise NasError(f"workers: {workers} is more than the {available} {kind} of this machine")
        processes = Processes(count=workers, use_gpu=gpus > 0, threads=max(1, cores // workers))
        return run_on_workers(parcel, processes, storage=storage, on_epoch=on_epoch)


def run_on_workers(parcel: Parcel, processes: Processes, *, storage: Path, on_epoch: OnEpoch | None) -> TrainReport:
    """Run a packed `work(on_epoch=...)` in one process group, in the running Ray session; returns the first process's report.

    All processes end with the same weights. N processes with a batch of B images train as one process that accumulates gradients
    over N parts of B / N images. Two things differ: BatchNorm's running statistics are averaged over the processes after every
    epoch, and each process draws its own augmentation. An error of `on_epoch` ends the processes.

    Raises: NasError if the GPUs or cores stay taken, or that a process raises; ProcessError if a process fails otherwise.
    """
    _wait_until_free(processes)
    queue = Queue()
    config = {"work": parcel.data, "threads": processes.threads, "queue": queue, "folder": str(Path.cwd())}
    trainer = _Trainer(
        in_worker(train_together),
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=processes.count,
            use_gpu=processes.use_gpu,
            resources_per_worker={processes.kind: 1},
            placement_strategy="STRICT_PACK",
            label_selector=None if processes.node is None else {"ray.io/node-id": processes.node},
        ),
        run_config=RunConfig(name="ray", storage_path=str(storage)),
    )
    fit = _Fit(trainer)
    fit.start()
    first: list[FirstProcess] = []
    try:
        report = _receive(queue, first, fit, on_epoch)
    except BaseException as error:
        for actor in (*(one.actor for one in first), queue.actor):  # without the first process and the queue, the others fail too
            ray.kill(actor)
        fit.join(END_SECONDS)
        if not isinstance(error, RayEndedError):
            _free(first)
        raise
    fit.join()
    if report is None or fit.failure is not None:
        _free(first)
        raise _as_error(fit.failure, processes.count)
    return report


def _free(first: Sequence[FirstProcess]) -> None:
    """Free the cores or GPUs of a training that has ended; Ray's controller does not, if it was killed."""
    for process in first:
        remove_placement_group(process.group)


def _wait_until_free(processes: Processes) -> None:
    """Wait while other work in this Ray has the cores or GPUs, for which Ray would wait for ever.

    Raises: NasError if they are not free in time.
    """
    end = time.monotonic() + WAIT_SECONDS
    while (free := ray.available_resources().get(processes.kind, 0)) < processes.count:
        if time.monotonic() >= end:
            raise NasError(
                f"workers: {processes.count} need as many {processes.kind}s, and {free:g} of this Ray's are free after "
                f"{WAIT_SECONDS:g} s; end its other work, or call ray.shutdown() first"
            )
        time.sleep(0.2)


class _Trainer(TorchTrainer):  # type: ignore[misc]  # Ray has no types for it
    """Ray's trainer without the process that looks after placement groups.

    That waits 12 s for Ray's dashboard, which we do not start; `_free` removes the group of a training that fails.
    """

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ != "PlacementGroupCleanerCallback"]


class _Fit(Thread):
    """Ray's training in a thread that is not the main one, where Ray would handle Ctrl-C itself."""

    def __init__(self, trainer: _Trainer) -> None:
        super().__init__(daemon=True)
        self.trainer = trainer
        self.failure: Exception | None = None

    def run(self) -> None:
        """Train, and keep the failure. It makes no other call of Ray's, which would start a new Ray if this one has ended."""
        try:
            self.trainer.fit()
        except (TrainingFailedError, RayError) as error:
            self.failure = error


def _receive(queue: Queue, first: list[FirstProcess], fit: Thread, on_epoch: OnEpoch | None) -> TrainReport | None:
    """Receive what the first process sends: itself, its epochs, then its report, which is returned; None without a report.

    (Ray's own callbacks run in another process.)

    Raises: RayEndedError if Ray itself has ended; ProcessError if the process of the queue has.
    """
    health = Health()
    while True:
        is_running = fit.is_alive()
        try:
            message = queue.get(timeout=HEALTH_SECONDS)
        except (Empty, RayError) as error:
            is_empty = isinstance(error, Empty)  # Ray's own Empty is a RayError, too
            if is_empty and not is_running:
                return None
            if ended := health.ended():
                raise RayEndedError(f"Ray's process {ended} has ended: it was killed, or the machine lacks memory") from None
            if not is_empty:
                raise ProcessError(f"the process that passes the epochs on has ended: {UNSEEN}") from None
            continue
        match message:
            case Epoch() if on_epoch is not None:
                on_epoch(message)
            case TrainReport():
                return message
            case FirstProcess():
                first.append(message)


def _as_error(failure: Exception | None, count: int) -> NasError:
    """The error of a failed training: what the user did wrong, else that of the first process that failed."""
    causes = [*getattr(failure, "worker_failures", {}).values(), failure]
    mistakes = [cause for cause in causes if isinstance(cause, NasError)]
    if mistakes:
        return mistakes[0]
    deaths = [cause for cause in causes if hasattr(cause, "health_check_failure")]  # of processes that no longer answer
    what = death_of(str(deaths[0].health_check_failure), {}) if deaths else describe_error(causes[0] or RuntimeError())
    return ProcessError(f"one of {count} processes failed: {what}")


def train_together(config: dict[str, Any]) -> None:
    """The training in one process; the first process sends itself, its epochs and its report."""
    prepare_process(config["folder"])
    torch.set_num_threads(config["threads"])
    for message in TORCH_WARNINGS:
        warnings.filterwarnings("ignore", message)
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the process sees all GPUs, and uses its own
    work, queue = unpack(config["work"]), config["queue"]
    if ray.train.get_context().get_world_rank() == 0:
        queue.put(FirstProcess(ray.get_runtime_context().current_actor, get_current_placement_group()))
        queue.put(work(on_epoch=queue.put))
    else:
        work(on_epoch=None)
