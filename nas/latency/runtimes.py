"""Networks in the runtimes that people deploy in, whole, and with the time of each layer in its place. Read `timing.py` next."""

import json
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
import pandas as pd
import torch
from torch import nn

from nas.architecture import Architecture
from nas.devices import DTYPES, device_name
from nas.errors import NasError
from nas.latency.onnx_graph import onnx_model
from nas.latency.table import Setup
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
