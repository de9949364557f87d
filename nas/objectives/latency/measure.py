"""Measures the latency of a whole network or of each of its layers on this machine, in ONNX Runtime or torch.

A measurement reports its spread and its device, and fails on a busy machine. Read `build_table.py` next.
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
from nas.machine import processor_name
from nas.models.architecture import Architecture
from nas.models.build import build
from nas.models.layers import Layer, layers
from nas.models.onnx import onnx_model
from nas.models.zoo import reference
from nas.objectives.latency.table import ONE_THREAD, Setup
from nas.training.device import DTYPES, device_name, is_out_of_memory

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # of onnxruntime
REFERENCE: Final = "mobilenetv3_small_100"  # timed before and after each measurement
MAX_DRIFT: Final = 0.05  # largest relative change of the reference's median during a measurement
MIN_CPU_SHARE: Final = 0.95  # smallest share of the time in which this thread had the CPU
ATTEMPTS: Final = 5
WARM_UP_SECONDS: Final = 0.2
SECONDS: Final = 1.0  # of timed runs of the network
REFERENCE_SECONDS: Final = 0.3  # of timed runs of the reference, before and after
RUNS: Final = (20, 1000)  # smallest and largest number of timed runs

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The measured latency of a network."""

    median_ms: float
    """Median over the runs, per batch."""
    q25_ms: float
    """Lower quartile of the runs."""
    q75_ms: float
    """Upper quartile of the runs."""
    runs: int
    drift_pct: float
    """How much slower the reference network was after the measurement than before, in percent; negative if it was faster."""
    device: str
    """The device's model."""
    runtime_version: str


def measure(
    architecture: Architecture, num_classes: int = 1000, setup: Setup = ONE_THREAD, *, attempts: int = ATTEMPTS
) -> Latency:
    """The latency of a network: the median of many runs after a warm-up, each synchronised with the device.

    Raises: NasError for a device that this machine lacks; MachineBusyError if in every attempt other processes took the CPU
    (checked with one CPU thread), or the latency of a reference network changed by more than 5 % from before to after.
    """
    with _within_memory(setup), runner(architecture, num_classes, setup) as run:
        return measure_runs(run, setup, attempts=attempts)


def measure_module(model: nn.Module, resolution: int, setup: Setup, *, attempts: int = ATTEMPTS) -> Latency:
    """The latency of any torch module that reads images of `resolution` pixels, as `measure` has it; torch's alone.

    Raises: NasError as `measure`, and for another runtime than torch.
    """
    if setup.runtime != "torch":
        raise NasError(f"runtime: {setup.runtime} cannot run a module; give torch")
    check_device(setup)
    with _within_memory(setup), _module_runner(model, resolution, setup) as run:
        return measure_runs(run, setup, attempts=attempts)


def measure_runs(run: Callable[[], object], setup: Setup, *, attempts: int) -> Latency:
    """The latency of what `run` runs once, between two measurements of the reference network."""
    with runner(reference(REFERENCE), 1000, replace(setup, batch=1)) as run_reference:
        times, before, after = between_references(
            lambda: timed(run, SECONDS),
            run_reference,
            setup,
            seconds=REFERENCE_SECONDS,
            max_drift=MAX_DRIFT,
            pauses=[0] * attempts,
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
    measure_once: Callable[[], tuple[T, float]],
    run_reference: Callable[[], object],
    setup: Setup,
    *,
    seconds: float,
    max_drift: float,
    pauses: Sequence[float],
) -> tuple[T, float, float]:
    """(measurement, reference's median milliseconds before it, the same after it), from the first undisturbed attempt.

    `measure_once` returns a measurement and its share of the CPU. The reference runs for `seconds` before and after. There is one
    attempt after each of the `pauses`, which are in seconds.

    Raises: MachineBusyError if in every attempt other processes took the CPU or the reference's latency drifted.
    """
    disturbance = None
    for pause in pauses:
        time.sleep(pause)
        times_before, share_before = timed(run_reference, seconds)
        measurement, share = measure_once()
        times_after, share_after = timed(run_reference, seconds)
        before, after = statistics.median(times_before), statistics.median(times_after)
        disturbance = _disturbance(setup, min(share_before, share, share_after), before, after, max_drift)
        if disturbance is None:
            return measurement, before, after
    raise MachineBusyError(
        f"the machine is too busy to measure: {disturbance} in the last of {len(pauses)} attempts; allowed are "
        f"{100 - 100 * MIN_CPU_SHARE:.0f} % of its time and {100 * max_drift:.0f} % of drift; end other programs, and try again"
    )


def _disturbance(setup: Setup, cpu_share: float, before: float, after: float, max_drift: float) -> str | None:
    """What disturbed a measurement, or None: other processes on the CPU (one thread only), or the reference's drift."""
    if setup.device == "cpu" and setup.threads == 1 and cpu_share < MIN_CPU_SHARE:
        return f"other processes took {100 * (1 - cpu_share):.0f} % of the CPU's time"
    if max(before, after) / min(before, after) - 1 > max_drift:
        return f"{REFERENCE} took {before:.3g} ms before and {after:.3g} ms after"
    return None


@contextmanager
def _within_memory(setup: Setup) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NasError(f"batch: {setup.batch} images do not fit in memory; give fewer") from None


def timed(run: Callable[[], object], seconds: float) -> tuple[list[float], float]:
    """(milliseconds of each run, share of the time in which this thread had the CPU), both after a warm-up."""
    deadline = time.perf_counter() + min(seconds, WARM_UP_SECONDS)
    while True:
        run()
        if time.perf_counter() > deadline:
            break
    times: list[float] = []
    started, cpu_started = time.perf_counter(), time.thread_time()
    while len(times) < RUNS[0] or (time.perf_counter() - started < seconds and len(times) < RUNS[1]):
        run_started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - run_started))
    return times, (time.thread_time() - cpu_started) / (time.perf_counter() - started)


def check_device(setup: Setup) -> None:
    """Check that this machine and its runtime have the device.

    Raises: NasError if they do not.
    """
    if setup.device == "cuda" and not torch.cuda.is_available():
        raise NasError("device: this machine has no cuda; give cpu")
    if setup.runtime == "onnxruntime" and PROVIDERS[setup.device] not in onnxruntime.get_available_providers():
        raise NasError("device: the installed onnxruntime does not run on cuda; install onnxruntime-gpu, or give cpu")


def device_model(setup: Setup) -> str:
    """The model of the device, such as `AMD EPYC`."""
    check_device(setup)
    if setup.device == "cuda":
        return device_name(torch.device("cuda"))
    return processor_name()


def runtime_version(setup: Setup) -> str:
    """The version of the installed runtime."""
    return str(onnxruntime.__version__ if setup.runtime == "onnxruntime" else torch.__version__)


@contextmanager
def runner(architecture: Architecture, num_classes: int, setup: Setup) -> Iterator[Callable[[], object]]:
    """A function that runs the network once and returns when the device is done.

    Raises: NasError for a device that this machine lacks.
    """
    check_device(setup)
    if setup.runtime == "onnxruntime":
        yield _onnxruntime(architecture, num_classes, setup)[0]
        return
    with _torch(architecture, num_classes, setup) as (_, run):
        yield run


def profile(architecture: Architecture, num_classes: int, setup: Setup, *, runs: int) -> list[float]:
    """The median milliseconds of each layer while the whole network runs, over `runs` runs.

    Raises: NasError for a device that this machine lacks.
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
    events["run"] = (events["name"] == "model_run").cumsum()  # this event comes after those of its nodes
    nodes = events[(events["cat"] == "Node") & events["name"].str.endswith("_kernel_time")]
    named = nodes["name"].str.extract(r"^(\d+)/", expand=False).astype(float).groupby(nodes["run"])
    layer = named.bfill().fillna(named.ffill())  # a node of no layer, such as a layout change, counts towards the next
    times = nodes["dur"].groupby([nodes["run"], layer]).sum().unstack(fill_value=0).median() / 1e3
    return times.reindex(range(len(sequence)), fill_value=0.0).tolist()


def _onnxruntime(
    architecture: Architecture, num_classes: int, setup: Setup, *, profile: str | None = None
) -> tuple[Callable[[], object], onnxruntime.InferenceSession]:
    """A function that runs the network once, and its session, which writes a profile if `profile` gives the prefix of a path."""
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
    """The network, and a function that runs it once."""
    model = build(architecture, num_classes)
    with _module_runner(model, architecture.resolution, setup) as run:
        yield model, run


@contextmanager
def _module_runner(model: nn.Module, resolution: int, setup: Setup) -> Iterator[Callable[[], object]]:
    """A function that runs a module once; moves the module to the device and leaves it in eval mode."""
    dtype, threads_before = DTYPES[setup.dtype], torch.get_num_threads()
    torch.set_num_threads(setup.threads)
    try:
        model.eval().to(setup.device, dtype).to(memory_format=torch.channels_last)
        shape = (setup.batch, 3, resolution, resolution)
        image = torch.randn(shape, device=setup.device, dtype=dtype).to(memory_format=torch.channels_last)

        def run() -> None:
            with torch.inference_mode():
                model(image)
            if setup.device == "cuda":
                torch.cuda.synchronize()

        yield run
    finally:
        torch.set_num_threads(threads_before)


def _hooked(model: nn.Module, run: Callable[[], object], sequence: list[Layer], setup: Setup, *, runs: int) -> list[float]:
    """The median milliseconds from each layer's start to the next one's; a skip's addition counts towards the layer before."""
    starts: list[tuple[int, Any]] = []

    def mark(number: int) -> None:
        if setup.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            starts.append((number, event))
        else:
            starts.append((number, time.perf_counter()))

    for i, layer in enumerate(sequence):  # the hooks stay, as the model is not used again
        if layer.module:
            model.get_submodule(layer.module).register_forward_pre_hook(lambda _module, _inputs, number=i: mark(number))
    model.register_forward_hook(lambda _module, _inputs, _outputs: mark(len(sequence)))
    times = np.zeros((runs, len(sequence)))
    for run_times in times:
        starts.clear()
        run()
        for (number, start), (_, end) in pairwise(starts):
            run_times[number] += start.elapsed_time(end) if setup.device == "cuda" else 1e3 * (end - start)
    return [float(ms) for ms in np.median(times, axis=0)]
