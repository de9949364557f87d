"""Trains one network in several processes, each with its own GPU, through Ray Train."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from nas.errors import NasError
from nas.searching.parcel import in_worker, pack
from nas.searching.ray_session import ray_session
from nas.searching.unpack import unpack
from nas.searching.worker import prepare_process
from nas.training.settings import Epoch, TrainReport

OnEpoch = Callable[[Epoch], None]
WAIT_SECONDS: Final = 60.0


def train_on_workers(work: Callable[..., TrainReport], *, workers: int, storage: Path, on_epoch: OnEpoch | None) -> TrainReport:
    """Run `work(on_epoch=...)` in one process group of `workers` processes; returns the first process's report.

    All processes end with the same weights. N processes with a batch of B images train as one process that accumulates gradients
    over N parts of B / N images. Two things differ: BatchNorm's running statistics are averaged over the processes after every
    epoch, and each process draws its own augmentation.

    Raises: NasError if the machine has fewer GPUs (without GPUs: CPU cores) than `workers`, they stay taken, or a process fails.
    """
    parcel = pack(work)
    with ray_session(None, while_starting=parcel.check):
        gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        available, kind = (gpus, "GPUs") if gpus else (cores, "CPU cores")
        if workers > available:
            raise NasError(f"workers: {workers} is more than the {available} {kind} of this machine")
        _wait_until_free("GPU" if gpus else "CPU", workers)
        resources = {"GPU": 1} if gpus else {"CPU": 1}
        queue = Queue()
        threads, folder = max(1, cores // workers), str(Path.cwd())
        trainer = TorchTrainer(
            in_worker(train_together),
            train_loop_config={"work": parcel.data, "threads": threads, "queue": queue, "folder": folder},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
            run_config=RunConfig(name="ray", storage_path=str(storage)),
        )
        with ThreadPoolExecutor(1) as pool:
            report = pool.submit(_receive, queue, on_epoch)
            _fit(trainer, queue, workers)
            return report.result()


def _wait_until_free(kind: str, workers: int) -> None:
    """Wait while other work in this Ray has the cores or GPUs, for which Ray would wait for ever.

    Raises: NasError if they are not free in time.
    """
    end = time.monotonic() + WAIT_SECONDS
    while (free := ray.available_resources().get(kind, 0)) < workers:
        if time.monotonic() >= end:
            raise NasError(
                f"workers: {workers} need as many {kind}s, and {free:g} of this Ray's are free after {WAIT_SECONDS:g} s"
                "; end its other work, or call ray.shutdown() first"
            )
        time.sleep(0.2)


def _fit(trainer: TorchTrainer, queue: Queue, workers: int) -> None:
    """Train, and close the queue. Raises: NasError if a process fails."""
    try:
        trainer.fit()
    except TrainingFailedError as error:
        cause = next(iter(getattr(error, "worker_failures", {}).values()), error)
        prefix = "" if isinstance(cause, NasError) else f"one of {workers} processes failed: {type(cause).__name__}: "
        raise NasError(f"{prefix}{cause}".partition("\n")[0]) from None
    finally:
        queue.put(None)


def _receive(queue: Queue, on_epoch: OnEpoch | None) -> TrainReport:
    """Receive the first process's epochs, then its report, which is returned. (Ray's own callbacks run in another process.)"""
    message = None
    for message in iter(queue.get, None):
        if isinstance(message, Epoch) and on_epoch is not None:
            on_epoch(message)
    assert isinstance(message, TrainReport)  # the last message
    return message


def train_together(config: dict[str, Any]) -> None:
    """The training in one process; the first process sends its epochs and its report."""
    prepare_process(config["folder"])
    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the process sees all GPUs, and uses its own
    work, queue = unpack(config["work"]), config["queue"]
    if ray.train.get_context().get_world_rank() == 0:
        queue.put(work(on_epoch=queue.put))
    else:
        work(on_epoch=None)
