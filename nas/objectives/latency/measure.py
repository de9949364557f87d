"""Running a network in the runtimes that people deploy in, whole or layer by layer, and measuring it honestly.

A measurement says its spread and its device, and is refused where the machine does not hold still.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import onnxruntime
import pandas as pd
import torch
from torch import nn

from nas.errors import MachineBusyError, NasError
from nas.models.architecture import Architecture
from nas.models.build import build
from nas.models.layers import Layer, layers
from nas.models.onnx import onnx_model
from nas.models.zoo import reference
from nas.objectives.latency.table import ONE_THREAD, Setup
from nas.training.device import DTYPES, device_name, is_out_of_memory

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # of onnxruntime
REFERENCE: Final = "mobilenetv3_small_100"  # timed before and after each measurement
MAX_DRIFT: Final = 0.05  # of the reference's median, from before to after
MIN_CPU_SHARE: Final = 0.95  # of the time of one thread, that this process really had the CPU
ATTEMPTS: Final = 5
WARM_UP_SECONDS: Final = 0.2
SECONDS: Final = 1.0  # of repeats, of the network
REFERENCE_SECONDS: Final = 0.3
RUNS: Final = (20, 1000)  # least and most repeats

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a network takes."""

    median_ms: float
    """Of one batch."""
    q25_ms: float
    q75_ms: float
    """Between them lies the middle half of the runs."""
    runs: int
    drift_pct: float
    """By how much the reference network was slower after the measurement than before."""
    device: str
    """Its model."""
    runtime_version: str


def measure(
    architecture: Architecture, num_classes: int = 1000, setup: Setup = ONE_THREAD, *, attempts: int = ATTEMPTS
) -> Latency:
    """The latency of a network in milliseconds: warmed up, repeated, synchronised.

    Raises: NasError for a device that is not there; MachineBusyError where, in all attempts, other processes took the CPU or the
    reference network, timed before and after, drifted by more than 5 %.
    """
    with (
        _within_memory(setup),
        runner(architecture, num_classes, setup) as run,
        runner(reference(REFERENCE), 1000, replace(setup, batch=1)) as known,
    ):
        times, before, after = between_references(
            lambda: timed(run, SECONDS), known, setup, seconds=REFERENCE_SECONDS, max_drift=MAX_DRIFT, pauses=[0] * attempts
        )
    q25, median, q75 = statistics.quantiles(times, n=4)
    return Latency(
        median_ms=median,
        q25_ms=q25,
        q75_ms=q75,
        runs=len(times),
        drift_pct=100 * (after / before - 1),
        device=device_model(setup),
        runtime_version=runtime_version(setup),
    )


def between_references(
    take: Callable[[], tuple[T, float]],
    known: Callable[[], object],
    setup: Setup,
    *,
    seconds: float,
    max_drift: float,
    pauses: Sequence[float],
) -> tuple[T, float, float]:
    """(what `take` gives, the median milliseconds of `known` before it, and after it), once the machine held still meanwhile.

    `take` also gives the share of the CPU that it had. `known` is run for so many `seconds`, each time. There is an attempt for
    each of the `pauses`, in seconds, and after it.

    Raises: MachineBusyError where, in all attempts, other processes took the CPU or `known` drifted.
    """
    busy = ""
    for pause in pauses:
        time.sleep(pause)
        before, share_before = timed(known, seconds)
        found, share = take()
        after, share_after = timed(known, seconds)
        fast, slow = sorted(map(statistics.median, (before, after)))
        cpu_share = min(share_before, share, share_after)
        if setup.device == "cpu" and setup.threads == 1 and cpu_share < MIN_CPU_SHARE:
            busy = f"other processes took {100 * (1 - cpu_share):.0f} % of the CPU's time"
        elif slow / fast - 1 > max_drift:
            busy = f"{REFERENCE} took from {fast:.3g} to {slow:.3g} ms before and after"
        else:
            return found, statistics.median(before), statistics.median(after)
    raise MachineBusyError(
        f"the machine does not hold still: {busy}, in {len(pauses)} attempts; allowed are "
        f"{100 - 100 * MIN_CPU_SHARE:.0f} % of its time and {100 * max_drift:.0f} % of drift; end what else runs, and try again"
    )


@contextmanager
def _within_memory(setup: Setup) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NasError(f"batch: {setup.batch} images do not fit in the memory; give fewer") from None


def timed(run: Callable[[], object], seconds: float) -> tuple[list[float], float]:
    """(milliseconds of each run, the share of the time that this thread had the CPU), warmed up."""
    deadline = time.perf_counter() + min(seconds, WARM_UP_SECONDS)
    while True:
        run()
        if time.perf_counter() > deadline:
            break
    times: list[float] = []
    started, cpu = time.perf_counter(), time.thread_time()
    while len(times) < RUNS[0] or (time.perf_counter() - started < seconds and len(times) < RUNS[1]):
        begun = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begun))
    return times, (time.thread_time() - cpu) / (time.perf_counter() - started)


def check_device(setup: Setup) -> None:
    """Refuse a device that this machine, or the runtime installed here, does not have.

    Raises: NasError.
    """
    if setup.device == "cuda" and not torch.cuda.is_available():
        raise NasError("device: cuda is not on this machine; give cpu")
    if setup.runtime == "onnxruntime" and PROVIDERS[setup.device] not in onnxruntime.get_available_providers():
        raise NasError("device: the onnxruntime installed here does not run on cuda; install onnxruntime-gpu, or give cpu")


def device_model(setup: Setup) -> str:
    """The model of the device."""
    check_device(setup)
    if setup.device == "cuda":
        return device_name(torch.device("cuda"))
    return str(torch.cpu.get_capabilities().get("cpu_name", "unknown"))


def runtime_version(setup: Setup) -> str:
    """Of the runtime that is installed here."""
    return str(onnxruntime.__version__ if setup.runtime == "onnxruntime" else torch.__version__)


@contextmanager
def runner(architecture: Architecture, num_classes: int, setup: Setup) -> Iterator[Callable[[], object]]:
    """A call that runs the network once, and returns when the device is done.

    Raises: NasError for a device that is not there.
    """
    check_device(setup)
    if setup.runtime == "onnxruntime":
        yield _onnxruntime(architecture, num_classes, setup)[0]
        return
    with _torch(architecture, num_classes, setup) as (_, run):
        yield run


def profile(architecture: Architecture, num_classes: int, setup: Setup, *, runs: int) -> list[float]:
    """The median milliseconds of each layer of a network, in its place, over so many runs.

    Raises: NasError for a device that is not there.
    """
    check_device(setup)
    sequence = layers(architecture, num_classes)
    if setup.runtime == "torch":
        with _torch(architecture, num_classes, setup) as (model, run):
            return _hooked(model, run, sequence, setup, runs=runs)
    with tempfile.TemporaryDirectory() as folder:
        run, session = _onnxruntime(architecture, num_classes, setup, profile=str(Path(folder, "profile")))
        for _ in range(runs):
            run()
        events = pd.DataFrame(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    events["run"] = (events["name"] == "model_run").cumsum()  # it comes after its nodes
    nodes = events[(events["cat"] == "Node") & events["name"].str.endswith("_kernel_time")]
    named = nodes["name"].str.extract(r"^(\d+)/", expand=False).astype(float).groupby(nodes["run"])
    layer = named.bfill().fillna(named.ffill())  # of a node without one, such as a change of layout: that of the next
    times = nodes["dur"].groupby([nodes["run"], layer]).sum().unstack(fill_value=0).median() / 1e3
    return times.reindex(range(len(sequence)), fill_value=0.0).tolist()


def _onnxruntime(
    architecture: Architecture, num_classes: int, setup: Setup, *, profile: str | None = None
) -> tuple[Callable[[], object], onnxruntime.InferenceSession]:
    """A call that runs the network once, and its session, which writes a profile if there is a beginning of its file's name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    graph = onnx_model(architecture, num_classes, batch=setup.batch).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDERS[setup.device]])
    shape = (setup.batch, 3, architecture.resolution, architecture.resolution)
    image = {"image": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    return partial(session.run, None, image), session


@contextmanager
def _torch(architecture: Architecture, num_classes: int, setup: Setup) -> Iterator[tuple[nn.Module, Callable[[], object]]]:
    """The network, and a call that runs it once."""
    dtype, before = DTYPES[setup.dtype], torch.get_num_threads()
    torch.set_num_threads(setup.threads)
    try:
        model = build(architecture, num_classes).eval().to(setup.device, dtype).to(memory_format=torch.channels_last)
        shape = (setup.batch, 3, architecture.resolution, architecture.resolution)
        image = torch.randn(shape, device=setup.device, dtype=dtype).to(memory_format=torch.channels_last)

        def run() -> None:
            with torch.inference_mode():
                model(image)
            if setup.device == "cuda":
                torch.cuda.synchronize()

        yield model, run
    finally:
        torch.set_num_threads(before)


def _hooked(model: nn.Module, run: Callable[[], object], sequence: list[Layer], setup: Setup, *, runs: int) -> list[float]:
    """The median milliseconds from the beginning of each layer to that of the next: a sum counts to the layer before it."""
    begun: list[tuple[int, Any]] = []

    def mark(number: int) -> None:
        if setup.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            begun.append((number, event))
        else:
            begun.append((number, time.perf_counter()))

    for i, layer in enumerate(sequence):  # the model is this profile's own, and so are its hooks
        if layer.module:
            model.get_submodule(layer.module).register_forward_pre_hook(lambda _module, _inputs, number=i: mark(number))
    model.register_forward_hook(lambda _module, _inputs, _outputs: mark(len(sequence)))
    times = np.zeros((runs, len(sequence)))
    for of_run in times:
        begun.clear()
        run()
        for (number, start), (_, end) in pairwise(begun):
            of_run[number] += start.elapsed_time(end) if setup.device == "cuda" else 1e3 * (end - start)
    return [float(ms) for ms in np.median(times, axis=0)]
