"""One network trained by several processes, each with its own GPU, through Ray Train."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from nas.datasets import Dataset
from nas.errors import NasError
from nas.searching.ray_session import ray_session, sent_by_value
from nas.searching.worker import settle
from nas.training.settings import Epoch, TrainReport

OnEpoch = Callable[[Epoch], None]


def train_on_workers(
    work: Callable[..., TrainReport], dataset: Dataset, *, workers: int, storage: Path, on_epoch: OnEpoch | None
) -> TrainReport:
    """What `work(on_epoch=...)` gives in the first of `workers` processes of one process group, which end with the same weights.

    N processes with a batch of B images do what one does that lets B / N images through at a time and adds up the gradients, but
    for BatchNorm's running statistics, which are averaged over the processes after every epoch, and for the colours and
    operations of augmentation, which each process draws for itself.

    Raises: NasError if there are fewer GPUs, or CPU cores, than processes, or one of them fails.
    """
    with ray_session(None), sent_by_value([dataset]):
        gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        available, kind = (gpus, "GPUs") if gpus else (cores, "CPU cores")
        if workers > available:
            raise NasError(f"workers: {workers} is more than the {available} {kind} of this machine")
        resources = {"GPU": 1} if gpus else {"CPU": 1}
        queue = Queue()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"work": work, "threads": max(1, cores // workers), "queue": queue, "folder": str(Path.cwd())},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
            run_config=RunConfig(name="ray", storage_path=str(storage)),
        )
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(_listen, queue, on_epoch)
            try:
                trainer.fit()
            except TrainingFailedError as error:
                cause = next(iter(getattr(error, "worker_failures", {}).values()), error)
                whose = "" if isinstance(cause, NasError) else f"one of {workers} processes failed: {type(cause).__name__}: "
                raise NasError(f"{whose}{cause}".partition("\n")[0]) from None
            finally:
                queue.put(None)
            return listening.result()


def _listen(queue: Queue, on_epoch: OnEpoch | None) -> TrainReport:
    """The report of the first process, after its epochs; Ray's own callbacks run in yet another process than this one."""
    told = None
    for told in iter(queue.get, None):
        if isinstance(told, Epoch) and on_epoch is not None:
            on_epoch(told)
    assert isinstance(told, TrainReport)  # comes last
    return told


def _work(config: dict[str, Any]) -> None:
    """What every process does; the first tells its epochs and its report."""
    settle(config["folder"])
    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of all those that this process sees, the one that is its own
    work, queue = config["work"], config["queue"]
    if ray.train.get_context().get_world_rank() == 0:
        queue.put(work(on_epoch=queue.put))
    else:
        work(on_epoch=None)
