"""One network trained by several processes, each with its own GPU, through Ray Train. Read `trainer.py` next."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from nas.datasets import Dataset, load_part
from nas.driver import ray_session, sent_by_value
from nas.errors import NasError, describe_error
from nas.recipe import Epoch, TrainReport

OnEpoch = Callable[[Epoch], None]


def train_on_workers(
    work: Callable[..., TrainReport], dataset: Dataset, *, workers: int, storage: Path, on_epoch: OnEpoch | None
) -> TrainReport:
    """What `work(on_epoch=...)` gives in the first of `workers` processes of one process group, which end with the same weights.

    N processes with a batch of B images do what one does that lets B / N images through at a time and adds up the gradients, but
    for BatchNorm's running statistics, which are averaged over the processes after every epoch.

    Raises: NasError if there are fewer GPUs, or CPU cores, than processes, or one of them fails.
    """
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    available, kind = (gpus, "GPUs") if gpus else (cores, "CPU cores")
    if workers > available:
        raise NasError(f"workers: {workers} is more than the {available} {kind} of this machine")
    load_part(dataset, "train")  # decoded here, where its progress is seen, before every process wants it
    resources = {"GPU": 1} if gpus else {"CPU": 1}
    with ray_session(None), sent_by_value([dataset]):
        queue, reports = Queue(), list[TrainReport]()
        listener = Thread(target=_listen, args=(queue, reports, on_epoch), daemon=True)
        listener.start()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"work": work, "threads": max(1, cores // workers), "queue": queue},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
            run_config=RunConfig(name="ray", storage_path=str(storage)),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            cause = next(iter(getattr(error, "worker_failures", {}).values()), error)
            raise NasError(f"one of {workers} processes failed: {describe_error(cause)}") from None
        finally:
            queue.put(None)
            listener.join()
    return reports[0]


def _listen(queue: Queue, reports: list[TrainReport], on_epoch: OnEpoch | None) -> None:
    """Take what the first process tells, as Ray's own callbacks run in yet another process than this one."""
    for record in iter(queue.get, None):
        if "epoch" in record:
            if on_epoch is not None:
                on_epoch(Epoch(**record))
        else:
            reports.append(TrainReport(**{**record, "history": tuple(Epoch(**epoch) for epoch in record["history"])}))


def _work(config: dict[str, Any]) -> None:
    """What every process does."""
    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of all those that this process sees, the one that is its own
    tell = config["queue"].put if ray.train.get_context().get_world_rank() == 0 else id
    tell(asdict(config["work"](on_epoch=lambda epoch: tell(asdict(epoch)))))
