"""Section e: how many small networks an hour one GPU trains, one process per network, with and without NVIDIA's MPS.

Without MPS, processes take turns on a GPU; with it, their kernels run side by side.
"""

import multiprocessing
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkProcess
from multiprocessing.queues import Queue
from queue import Empty
from typing import Final

import torch

from experiments.benchmarks.gpu.bench import Bench, Figures, MadeUp, draw
from nas.errors import NasError
from nas.models.zoo import reference
from nas.training.loop import TrainSetup, train
from nas.training.settings import TrainSettings

LEVELS: Final = (1, 4, 8, 16)  # networks at once
SECONDS: Final = 5.0  # of training at each level
PATIENCE: Final = 45  # seconds in which a process must answer
IMAGES_PER_NETWORK: Final = 10 * 8_522  # ten epochs of Imagenette's training part
MPS: Final = "nvidia-cuda-mps-control"


class _Enough(Exception):  # noqa: N818 - no error: it ends a training after the measured seconds
    pass


def processes(bench: Bench) -> Figures:
    """Networks per hour at each level, first without MPS, then with it if this machine can start it.

    A network is one like MobileNetV3-Small, another in each process, trained for ten epochs of Imagenette's size.
    """
    levels = bench.size(LEVELS, (1, 2))
    yield (
        "setting",
        f"networks like mobilenetv3_small_100, {bench.size(96, 32)} px, batch {bench.size(128, 8)}, one CPU thread each",
    )
    yield from _levels(bench, levels, "at once")
    if bench.device.type != "cuda" or shutil.which(MPS) is None:
        yield "mps", f"not measured: {MPS} cannot be started here"
        return
    with _mps():
        yield from _levels(bench, levels, "at once with MPS")
        servers = subprocess.run([MPS], input="get_server_list\n", capture_output=True, text=True, check=True, timeout=10)
        yield "mps", f"started; {len(servers.stdout.split())} server(s)"


def _levels(bench: Bench, levels: tuple[int, ...], name: str) -> Figures:
    """Networks per hour with so many processes at work; a level's missing processes start before it."""
    context = multiprocessing.get_context("fork")  # imports nothing anew; safe, as this process has not initialised CUDA
    answers: Queue[float] = context.Queue()
    workers: list[tuple[ForkProcess, Queue[float]]] = []
    for level in levels:
        started, missing = time.perf_counter(), range(len(workers), level)
        for number in missing:
            order: Queue[float] = context.Queue()
            workers.append((context.Process(target=_train_by_order, args=(number, bench, order, answers), daemon=True), order))
            workers[-1][0].start()
        _answers(answers, len(missing), workers)
        ready = round(time.perf_counter() - started, 1)
        for _, order in workers:
            order.put(bench.size(SECONDS, 0.2))
        rates = _answers(answers, level, workers)
        per_hour = round(3600 * sum(rates) / IMAGES_PER_NETWORK, 1)
        figures = {"networks_per_hour": per_hour, "images_per_second": [round(rate, 1) for rate in rates]}
        yield f"{level} {name}", figures | {"seconds_to_start": ready}
    for _, order in workers:
        order.put(0.0)


def _answers(answers: "Queue[float]", num: int, workers: Sequence[tuple[ForkProcess, "Queue[float]"]]) -> list[float]:
    """The next answers.

    Raises: NasError if a worker ended, or they take longer than PATIENCE seconds.
    """
    collected: list[float] = []
    for _ in range(PATIENCE):
        with suppress(Empty):
            while len(collected) < num:
                collected.append(answers.get(timeout=1.0))
            return collected
        if ended := [worker.exitcode for worker, _ in workers if not worker.is_alive()]:
            raise NasError(f"{len(ended)} of {len(workers)} processes ended, with codes {ended}; see above for why")
    raise NasError(f"{len(collected)} of {num} processes answered in {PATIENCE} seconds")


def _train_by_order(number: int, bench: Bench, orders: "Queue[float]", answers: "Queue[float]") -> None:
    """In each process: train for as many seconds as an order has, answer with the images a second; end at an order of 0."""
    torch.set_num_threads(1)
    network, batch = draw(reference("mobilenetv3_small_100"), bench.size(96, 32), random.Random(number)), bench.size(128, 8)
    setup = TrainSetup(
        dataset=MadeUp(16 * batch, bench.size(112, 32)),
        settings=TrainSettings(epochs=1_000, batch_size=batch),
        resolution=network.resolution,
        seed=number,
    )
    seconds = bench.size(1.0, 0.01)  # a warm-up, whose answer says that this process is ready
    while seconds:
        answers.put(_images_per_second(bench, setup, bench.model(network), seconds))
        seconds = orders.get()


def _images_per_second(bench: Bench, setup: TrainSetup, model: torch.nn.Module, seconds: float) -> float:
    """Speed of the training loop from its first step on, measured over so many seconds."""
    marks: list[tuple[float, int]] = []

    def on_step(done: int, _: int) -> None:
        if marks and time.perf_counter() < marks[0][0] + seconds:
            return
        bench.synchronize()
        marks.append((time.perf_counter(), done))
        if len(marks) == 2:
            raise _Enough

    try:
        train(model, setup, on_step=on_step)
    except _Enough:
        pass
    else:
        raise NasError(f"a training of {setup.settings.epochs} epochs ended in less than {seconds:g} seconds")
    (began, before), (ended, after) = marks
    return (after - before) / (ended - began)


@contextmanager
def _mps() -> Iterator[None]:
    """Inside, new processes share the GPU through an MPS daemon of our own, which ends with this process at the latest."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDA_MPS_PIPE_DIRECTORY"] = os.environ["CUDA_MPS_LOG_DIRECTORY"] = folder
        daemon = subprocess.Popen([MPS, "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(2)  # until it listens
            yield
        finally:
            subprocess.run([MPS], input="quit -t 5\n", capture_output=True, text=True, check=False, timeout=20)
            daemon.kill()
            daemon.wait()
            del os.environ["CUDA_MPS_PIPE_DIRECTORY"], os.environ["CUDA_MPS_LOG_DIRECTORY"]
