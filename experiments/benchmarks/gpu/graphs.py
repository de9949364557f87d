"""Section d: a whole training step as one CUDA graph, against the same step launched kernel by kernel.

A small network on a large GPU waits for its kernels to be launched; a graph launches all of them at once.
"""

import random
import time
from collections.abc import Callable
from typing import Final

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn import functional

from experiments.benchmarks.gpu.bench import CLASSES, Bench, Figures, draw, rate
from nas.models.architecture import Architecture
from nas.models.zoo import reference

WARM_UP: Final = 5  # steps before the capture, in which libraries allocate their buffers and the optimizer its state
CHECKED: Final = 5  # steps after which the losses of both must be close
SECONDS: Final = 3.0  # of timed steps
LR: Final = 1e-4  # constant: a captured step has its learning rate inside


def graphs(bench: Bench) -> Figures:
    """Steps a second of both, the time of the capture, and the loss of both after the same steps; for two optimizers."""
    resolution, batch = bench.size(96, 32), bench.size(128, 4)
    network = draw(reference("mobilenetv3_small_100"), resolution, random.Random(0))
    yield "setting", f"a network like mobilenetv3_small_100, {resolution} px, batch {batch}, bfloat16, one constant batch"
    x = torch.randn(batch, 3, resolution, resolution, device=bench.device).to(memory_format=torch.channels_last)
    y = torch.arange(batch, device=bench.device) % CLASSES
    for optimizer in ("adamw", "nadamw"):
        step = _step(bench, network, optimizer, x, y, capturable=False)
        loss = _loss_after(step, WARM_UP + CHECKED)
        yield f"{optimizer} eager", rate(step, bench, bench.size(SECONDS, 0.01)) | {"loss": loss}
        if bench.device.type != "cuda":
            yield f"{optimizer} graph", "not measured: only a GPU has CUDA graphs"
            continue
        replay, seconds = _captured(_step(bench, network, optimizer, x, y, capturable=True))
        loss = _loss_after(replay, CHECKED)
        yield f"{optimizer} graph", rate(replay, bench, SECONDS) | {"loss": loss, "capture_seconds": round(seconds, 3)}


def _step(bench: Bench, network: Architecture, optimizer: str, x: Tensor, y: Tensor, *, capturable: bool) -> Callable[[], Tensor]:
    """A training step that returns the loss; `capturable` keeps the optimizer's step counts on the GPU."""
    model = bench.model(network).to(memory_format=torch.channels_last)
    options = {"capturable": True} if capturable else {}
    updates = create_optimizer_v2(model, opt=optimizer, lr=LR, weight_decay=0.02, **options)

    def step() -> Tensor:
        updates.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
        updates.step()
        return loss.detach()

    return step


def _captured(step: Callable[[], Tensor]) -> tuple[Callable[[], Tensor], float]:
    """(a function that replays the step, seconds of the capture), after warm-up steps on a stream of their own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    started, graph = time.perf_counter(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay, seconds


def _loss_after(step: Callable[[], Tensor], steps: int) -> float:
    for _ in range(steps - 1):
        step()
    return round(float(step()), 4)
