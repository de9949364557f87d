"""Networks in the runtimes that people deploy in, whole, and with the time of each layer in its place. Read `timing.py` next."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.devices import DTYPES, device_name
from nas.errors import NasError
from nas.latency.onnx_graph import onnx_model
from nas.latency.setups import Setup
from nas.layers import Layer, layers
from nas.modules import build

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # of onnxruntime


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
    if setup.device == "cuda":
        return device_name(torch.device("cuda"))
    return str(torch.cpu.get_capabilities().get("cpu_name", "unknown"))


def runtime_version(setup: Setup) -> str:
    """Of the runtime that is installed here."""
    return str(onnxruntime.__version__ if setup.runtime == "onnxruntime" else torch.__version__)


@contextmanager
def runner(architecture: Architecture, num_classes: int, setup: Setup) -> Iterator[Callable[[], object]]:
    """A call that runs the network once, and returns when the device is done."""
    with _opened(architecture, num_classes, setup, profiled=False) as run:
        yield run


@contextmanager
def profiler(architecture: Architecture, num_classes: int, setup: Setup) -> Iterator[Callable[[int], list[float]]]:
    """A call that runs the network so many times, and gives the median milliseconds of each of its layers, in context."""
    with _opened(architecture, num_classes, setup, profiled=True) as profile:
        yield lambda runs: [statistics.median(column) for column in zip(*profile(runs), strict=True)]


def _opened(architecture: Architecture, num_classes: int, setup: Setup, *, profiled: bool) -> Any:
    """A call that runs the network once; or, if `profiled`, so many times, which gives milliseconds of each run's layers."""
    check_device(setup)
    opened = _in_onnxruntime if setup.runtime == "onnxruntime" else _in_torch
    return opened(architecture, num_classes, setup, profiled=profiled)


@contextmanager
def _in_onnxruntime(architecture: Architecture, num_classes: int, setup: Setup, *, profiled: bool) -> Iterator[Any]:
    model = onnx_model(architecture, num_classes, batch=setup.batch).SerializeToString()
    shape = (setup.batch, 3, architecture.resolution, architecture.resolution)
    image = {"image": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
        options.log_severity_level = 3
        options.enable_profiling = profiled
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[setup.device]])
        run = partial(session.run, None, image)

        def profile(runs: int) -> list[list[float]]:
            for _ in range(runs):
                run()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            return _by_layer(events, len(layers(architecture, num_classes)))

        yield profile if profiled else run


def _by_layer(events: list[dict[str, Any]], num_layers: int) -> list[list[float]]:
    """Of each run in onnxruntime's profile, milliseconds of each layer.

    A node without a layer's number, such as a change of layout, belongs to the layer of the next one that has it.
    """
    runs: list[list[float]] = []
    times, waiting, last = [0.0] * num_layers, 0.0, 0
    for event in events:
        if event["name"] == "model_run":  # comes after its nodes
            times[last] += waiting
            runs.append(times)
            times, waiting, last = [0.0] * num_layers, 0.0, 0
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            number, slash, _ = event["name"].partition("/")
            waiting += event["dur"] / 1e3
            if slash and number.isdigit():
                last = int(number)
                times[last] += waiting
                waiting = 0.0
    return runs


@contextmanager
def _in_torch(architecture: Architecture, num_classes: int, setup: Setup, *, profiled: bool) -> Iterator[Any]:
    dtype, before = DTYPES[setup.dtype], torch.get_num_threads()
    torch.set_num_threads(setup.threads)
    try:
        model = build(architecture, num_classes).eval().to(setup.device, dtype).to(memory_format=torch.channels_last)
        shape = (setup.batch, 3, architecture.resolution, architecture.resolution)
        image = torch.randn(shape, device=setup.device, dtype=dtype).to(memory_format=torch.channels_last)

        def run() -> None:
            with torch.inference_mode():
                model(image)
            _synchronise(setup)

        yield partial(_hooked, model, image, layers(architecture, num_classes), setup) if profiled else run
    finally:
        torch.set_num_threads(before)


def _synchronise(setup: Setup) -> None:
    if setup.device == "cuda":
        torch.cuda.synchronize()


def _hooked(model: nn.Module, image: Tensor, sequence: list[Layer], setup: Setup, runs: int) -> list[list[float]]:
    """Of each run, milliseconds from the beginning of each layer to that of the next: a sum counts to the layer before it."""
    begun: list[tuple[int, Any]] = []

    def mark(number: int) -> None:
        if setup.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            begun.append((number, event))
        else:
            begun.append((number, time.perf_counter()))

    modules = [(i, model.get_submodule(layer.module)) for i, layer in enumerate(sequence) if layer.module]
    for i, module in modules:  # the model is this profiler's own, and so are its hooks
        module.register_forward_pre_hook(lambda _module, _inputs, number=i: mark(number))
    found = []
    for _ in range(runs):
        begun.clear()
        with torch.inference_mode():
            model(image)
        mark(len(sequence))
        _synchronise(setup)
        times = [0.0] * len(sequence)
        for (number, start), (_, end) in pairwise(begun):
            times[number] += start.elapsed_time(end) if setup.device == "cuda" else 1e3 * (end - start)
        found.append(times)
    return found
