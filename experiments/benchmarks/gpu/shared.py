"""Section f: what shared weights cost, in training and in scoring.

The networks are drawn without a search space, which would need Optuna, and the whole tensors fit around them.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Final

import torch
from torch import nn

from experiments.benchmarks.gpu.bench import CLASSES, Bench, Figures, MadeUp, draw
from nas.models.architecture import Architecture
from nas.models.zoo import reference
from nas.supernet.network import SharedNetwork, shared_shapes
from nas.supernet.scoring import make_scorer
from nas.training.loop import TrainSetup, train
from nas.training.settings import TrainSettings

BATCH: Final = 256
RESOLUTION: Final = 128  # pixels
OPTIMIZER: Final = "nadamw"  # of networks alone
OPTIMIZERS: Final = (OPTIMIZER, "lamb")  # of shared weights; the second is theirs
NETWORKS: Final = 8  # which the steps of shared weights take in turn
SCORES: Final = 20
NUM_VAL: Final = 947  # images of Imagenette's validation part


def shared(bench: Bench) -> Figures:
    """Seconds of a step beside those of its networks alone, what setting the network takes of it, seconds for 1,000 scores."""
    resolution, batch = bench.size(RESOLUTION, 32), bench.size(BATCH, 8)
    generator, published = random.Random(0), reference("mobilenetv3_large_100")
    networks = [draw(published, resolution, generator) for _ in range(bench.size(NETWORKS, 2))]
    dataset = MadeUp(batch * bench.size(2 * NETWORKS, 2), bench.size(160, 32))
    yield "setting", f"networks like mobilenetv3_large_100, {resolution} px, batch {batch}, {len(networks)} networks in turn"
    torch.manual_seed(0)
    weights = SharedNetwork(_whole_shapes(networks), CLASSES, validated=networks[0]).to(bench.device)
    turns = cycle(networks)

    def before_step(*_: int) -> int:
        weights.become(network := next(turns))
        return network.resolution

    step = {name: _seconds_a_step(bench, weights, dataset, name, before_step) for name in OPTIMIZERS}
    yield "seconds a step", {name: round(seconds, 5) for name, seconds in step.items()}
    setting = statistics.median(_setting_seconds(bench, weights, network) for network in networks)
    shares = {f"share of a step with {name}": round(setting / seconds, 4) for name, seconds in step.items()}
    yield "seconds to set the network", {"median": round(setting, 5)} | shares
    alone = statistics.mean(_seconds_a_step(bench, bench.model(network), dataset, OPTIMIZER) for network in networks)
    yield f"seconds a step alone, {OPTIMIZER}", {"mean": round(alone, 5), "shared / alone": round(step[OPTIMIZER] / alone, 3)}
    yield "1,000 scores", _scores(bench, weights, replace(dataset, num_val=bench.size(NUM_VAL, 20)), networks)


def _whole_shapes(networks: Sequence[Architecture]) -> dict[str, tuple[int, ...]]:
    """The least whole tensors of which every network is a slice."""
    whole: dict[str, tuple[int, ...]] = {}
    for network in networks:
        for name, shape in shared_shapes(network, CLASSES).items():
            whole[name] = tuple(map(max, shape, whole.get(name, shape)))
    return whole


def _seconds_a_step(
    bench: Bench, model: nn.Module, dataset: MadeUp, optimizer: str, before_step: Callable[..., int] | None = None
) -> float:
    """By the median epoch after the first; an epoch ends when the device is done, and validates on two images alone."""
    batch = bench.size(BATCH, 8)
    settings = TrainSettings(epochs=bench.size(4, 2), batch_size=batch, optimizer=optimizer)
    setup = TrainSetup(dataset=dataset, settings=settings, resolution=bench.size(RESOLUTION, 32), seed=0)
    report = train(model, setup, before_step=before_step)
    return statistics.median(epoch.seconds for epoch in report.history[1:]) / (dataset.num // batch)


def _setting_seconds(bench: Bench, weights: SharedNetwork, network: Architecture) -> float:
    """Seconds of this process to set a network, slice the whole tensors and put the modules together, while the device waits."""
    bench.synchronize()
    started = time.perf_counter()
    weights.become(network)
    weights.slices_of(network)
    weights._assembled(network)  # noqa: SLF001 - a forward pass does this and the line before it first
    return time.perf_counter() - started


def _scores(bench: Bench, weights: SharedNetwork, dataset: MadeUp, networks: Sequence[Architecture]) -> dict[str, object]:
    scorer, seconds = make_scorer(weights, dataset), []
    for _, network in zip(range(bench.size(SCORES, 2)), cycle(networks), strict=False):
        started = time.perf_counter()
        _, report = scorer.score(network)
        seconds.append(time.perf_counter() - started)
    figures: dict[str, object] = {"seconds": round(1_000 * statistics.median(seconds), 1), "first": round(seconds[0], 3)}
    return figures | {
        "scores": len(seconds),
        "val_images": len(scorer.held_out),
        "last_val_top1_pct": round(report.val_top1_pct, 1),
    }
