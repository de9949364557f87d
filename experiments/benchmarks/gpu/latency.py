"""Section g: latencies of whole networks, predicted from a table of layers that was timed on the device.

`nas latency build --runtime torch --device cuda` makes such a table, but its modules need pydantic and Optuna. This section
needs neither. It times layers the same way, from hook to hook in a running network, but corrects the sum of a network's layers
with one factor, where `nas` fits one for each kind of layer.
"""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from experiments.benchmarks.gpu.bench import CLASSES, Bench, Figures, draw
from nas.models.architecture import Architecture
from nas.models.layers import layers
from nas.models.zoo import reference

TABLE_NETWORKS: Final = 12  # whose layers are timed
NETWORKS: Final = 10  # predicted and measured
RUNS: Final = 30


def latency(bench: Bench) -> Figures:
    """Mean absolute percentage error and Spearman correlation of the predictions, one image and many images per batch.

    The predicted networks combine stages of the timed ones, so the table has all of their layers.
    """
    generator, resolution = random.Random(0), bench.size(224, 32)
    published = reference("mobilenetv3_large_100")
    timed = [draw(published, resolution, generator) for _ in range(bench.size(TABLE_NETWORKS, 3))]
    others = [_mixed(timed, generator) for _ in range(bench.size(NETWORKS, 3))]
    dtype = torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    yield "setting", f"networks like mobilenetv3_large_100, {resolution} px, {dtype}, eager torch, channels_last"
    for batch in bench.size((1, 64), (1,)):
        table, factor = _table(bench, timed, batch, dtype)
        predicted = [factor * sum(table[layer.key] for layer in layers(network, CLASSES)) for network in others]
        measured = [_whole_ms(bench, *_prepared(bench, network, batch, dtype)) for network in others]
        errors = [abs(guess / ms - 1) for guess, ms in zip(predicted, measured, strict=True)]
        yield (
            f"batch {batch}",
            {
                "mape_pct": round(100 * statistics.mean(errors), 2),
                "spearman": round(float(spearmanr(predicted, measured).statistic), 3),
                "layers": len(table),
                "factor": round(factor, 3),
                "measured_ms": [round(ms, 4) for ms in measured],
                "predicted_ms": [round(ms, 4) for ms in predicted],
            },
        )


def _mixed(networks: Sequence[Architecture], generator: random.Random) -> Architecture:
    """Each stage from one of the networks, which have equal widths."""
    return replace(
        networks[0], stages=tuple(generator.choice(stages) for stages in zip(*(n.stages for n in networks), strict=True))
    )


def _table(bench: Bench, networks: Sequence[Architecture], batch: int, dtype: torch.dtype) -> tuple[dict[str, float], float]:
    """(layer → its median milliseconds, median ratio of a network's latency to the sum of its layers)."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    ratios: list[float] = []
    for network in networks:
        model, run = _prepared(bench, network, batch, dtype)
        whole = _whole_ms(bench, model, run)  # before the hooks, which slow the network down
        layer_ms = _layer_ms(bench, model, run, network)
        ratios.append(whole / sum(layer_ms))
        for layer, ms in zip(layers(network, CLASSES), layer_ms, strict=True):
            times[layer.key].append(ms)
    return {key: statistics.median(values) for key, values in times.items()}, statistics.median(ratios)


def _prepared(bench: Bench, network: Architecture, batch: int, dtype: torch.dtype) -> tuple[nn.Module, Callable[[], None]]:
    """A network in eval mode, and a function that runs it once and waits for it."""
    model = bench.model(network).eval().to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, network.resolution, network.resolution, device=bench.device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            model(x)
        bench.synchronize()

    return model, run


def _whole_ms(bench: Bench, model: nn.Module, run: Callable[[], None]) -> float:
    """The median milliseconds of a run, after a warm-up."""
    assert not model.training
    times = []
    for _ in range(bench.size(RUNS, 2) * 4 // 3):
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[len(times) // 4 :])


def _layer_ms(bench: Bench, model: nn.Module, run: Callable[[], None], network: Architecture) -> list[float]:
    """The median milliseconds from each layer's start to the next one's; a skip's addition counts towards the layer before."""
    sequence, starts = layers(network, CLASSES), list[tuple[int, Any]]()

    def mark(number: int) -> None:
        starts.append((number, _now(bench)))

    for i, layer in enumerate(sequence):
        if layer.module:
            model.get_submodule(layer.module).register_forward_pre_hook(lambda _module, _inputs, number=i: mark(number))
    model.register_forward_hook(lambda _module, _inputs, _outputs: mark(len(sequence)))
    times = np.zeros((bench.size(RUNS, 2), len(sequence)))
    for row in times:
        starts.clear()
        run()
        for (number, start), (_, end) in pairwise(starts):
            row[number] = start.elapsed_time(end) if bench.device.type == "cuda" else 1e3 * (end - start)
    return [float(ms) for ms in np.median(times, axis=0)]


def _now(bench: Bench) -> Any:
    """A moment on the device: a CUDA event, or the clock."""
    if bench.device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
