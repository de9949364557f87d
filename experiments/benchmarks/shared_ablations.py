"""What each choice in the training of shared weights is worth: the top-1 of networks after the same CPU time without it.

Each variant trains shared weights on the digits, in a process of one thread, for as much CPU time as the default takes, and
scores 32 random networks on the validation part. It adds a line of JSON to --output; what is there is not run again.

    python -m experiments.benchmarks.shared_ablations --seeds 0 1 2 --output ablations.jsonl
"""

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn import functional

from experiments.digits_mobilenetv3 import EXPERIMENT
from nas.datasets import load_part
from nas.models.architecture import Architecture, Block
from nas.models.cost import cost
from nas.models.layers import Part
from nas.models.slices import parts_by_path
from nas.spaces import Params, sample
from nas.supernet import drawing, network, scoring
from nas.supernet.drawing import Draws, make_draws
from nas.supernet.network import SharedNetwork
from nas.supernet.scoring import make_scorer, read_shared
from nas.supernet.training import WEIGHTS_FILE, SharedTraining, shared_settings, train_shared
from nas.supernet.whole import whole_shapes
from nas.training.augment import Augment
from nas.training.loop import TrainSetup
from nas.training.settings import TrainSettings

EPOCHS: Final = 40  # of the default
NUM_NETWORKS: Final = 32
SPACE: Final = EXPERIMENT.space
DATASET: Final = EXPERIMENT.dataset
CLASSES: Final = len(DATASET.classes)
DRAW: Final = Draws.draw


@dataclass(frozen=True, slots=True)
class Variant:
    """A training that differs from the default."""

    words: str
    prepare: Callable[[], object] = lambda: None
    """Changes constants and functions of this process."""
    settings: dict[str, Any] | None = None
    """Settings of the training that differ."""
    epochs: float = EPOCHS
    """Epochs that take as long as the default's, unless its length is what differs."""
    step: "Step | None" = None
    """Computes the gradients of one step, in a plain loop instead of the package's own."""


Batch = tuple[Callable[[int], Tensor], Tensor]  # resolution → images, labels
Step = Callable[[SharedNetwork, Draws, Batch, tuple[int, int]], object]  # the last are the number of the step, and of all steps


def share_by(name: Callable[[Block], object]) -> None:
    """Give blocks tensors of their own for each value of `name`."""

    def path_of(path: str, part: Part) -> str:
        return f"{path}{part.value.op}_{name(part.value)}." if isinstance(part.value, Block) else ""

    network.shared_path = path_of


class DeepPath(str):
    """The path of a block, with the number of blocks of its stage."""

    __slots__ = ("depth",)
    depth: int


def share_last_layers() -> None:
    """Count blocks from the end of their stage, so that networks share their last layers; the first, with a stride, stays."""

    def with_depth(architecture: Architecture, num_classes: int) -> Iterator[tuple[str, Part]]:
        for path, part in parts_by_path(architecture, num_classes):
            deep = DeepPath(path)
            deep.depth = len(architecture.stages[int(path.split(".")[1])]) if path else 0
            yield deep, part

    def path_of(path: str, part: Part) -> str:
        if not isinstance(part.value, Block):
            return ""
        _, stage, layer, _ = path.split(".")
        from_end = path.depth - int(layer) if int(layer) else 0  # type: ignore[attr-defined]
        return f"blocks.{stage}.{from_end}.{part.value.op}."

    network.parts_by_path = with_depth  # type: ignore[attr-defined]
    network.shared_path = path_of


def macs(architecture: Architecture) -> int:
    """The multiply-adds of a network."""
    return cost(architecture, CLASSES).macs


def draw_evenly_over_macs() -> None:
    """Draw 8 networks for each step, and take the one whose multiply-adds are nearest a level, even over those of the space."""

    def draw(self: Draws, step: int, steps: int, rank: int) -> Architecture:
        networks = [DRAW(self, 8 * step + i, 8 * steps, rank) for i in range(8)]
        sizes = [macs(SPACE.decode(point)) for point in self.pool]
        level = random.Random(f"{self.seed} {step}").uniform(min(sizes), max(sizes))
        return min(networks, key=lambda one: abs(macs(one) - level))

    Draws.draw = draw  # type: ignore[method-assign]


class Attention:
    """Draws towards the front that emerges: of 3 networks near a level of multiply-adds, the one whose choices had low losses."""

    def __init__(self) -> None:
        self.losses: dict[tuple[str, Any], list[float]] = defaultdict(list)
        self.params: Params = {}

    def step(self, shared: SharedNetwork, draws: Draws, batch: Batch, now: tuple[int, int]) -> None:
        """Gradients of one such network."""
        (images, y), (number, steps) = batch, now
        generator = random.Random(f"{draws.seed} {number}")
        spread = number / (drawing.SPREAD_SHARE * steps)
        points = [crossed(draws, generator, spread) for _ in range(6)]
        level = generator.choice(points)
        points.sort(key=lambda point: abs(macs(SPACE.decode(point)) - macs(SPACE.decode(level))))
        params = min(points[:3], key=self.expected)
        loss = functional.cross_entropy(logits_of(shared, SPACE.decode(params), images), y, label_smoothing=0.1)
        loss.backward()
        for choice in params.items():
            self.losses[choice] = [*self.losses[choice][-50:], loss.item()]

    def expected(self, params: Params) -> float:
        """The mean of the latest losses of each choice."""
        return mean(mean(self.losses[choice]) for choice in params.items() if self.losses[choice]) if self.losses else 0.0


def crossed(draws: Draws, generator: random.Random, spread: float) -> Params:
    """A point as `Draws.draw` crosses it."""
    one, other = generator.choice(draws.pool), generator.choice(draws.pool)
    return draws.middle | {name: generator.choice((one, other))[name] for name in one if generator.random() < spread}


def ends(draws: Draws) -> tuple[Architecture, Architecture]:
    """The smallest and the largest network of the pool."""
    networks = sorted((SPACE.decode(point) for point in draws.pool), key=macs)
    return networks[0], networks[-1]


def logits_of(shared: SharedNetwork, architecture: Architecture, images: Callable[[int], Tensor]) -> Tensor:
    """What the shared weights compute as a network, at its resolution."""
    shared.become(architecture)
    logits: Tensor = shared(images(architecture.resolution))
    return logits


def sandwich(shared: SharedNetwork, draws: Draws, batch: Batch, now: tuple[int, int]) -> None:
    """Gradients of the largest network, and of the smallest and two drawn ones, which the largest teaches (arXiv:2003.11142)."""
    (images, y), (number, steps) = batch, now
    smallest, largest = ends(draws)
    logits = logits_of(shared, largest, images)
    functional.cross_entropy(logits, y, label_smoothing=0.1).backward()
    for one in (smallest, *(draws.draw(2 * number + i, 2 * steps, 0) for i in range(2))):
        functional.cross_entropy(logits_of(shared, one, images), logits.detach().softmax(1)).backward()


def teach(shared: SharedNetwork, draws: Draws, batch: Batch, now: tuple[int, int]) -> None:
    """Gradients of the largest network, and of a drawn one that learns from the classes and from the largest."""
    images, y = batch
    logits = logits_of(shared, ends(draws)[1], images)
    functional.cross_entropy(logits, y, label_smoothing=0.1).backward()
    drawn = logits_of(shared, draws.draw(*now, 0), images)
    soft = functional.cross_entropy(drawn, logits.detach().softmax(1))
    (0.5 * functional.cross_entropy(drawn, y, label_smoothing=0.1) + 0.5 * soft).backward()


def draw_one(shared: SharedNetwork, draws: Draws, batch: Batch, now: tuple[int, int]) -> None:
    """Gradients of one drawn network, as in the package's own loop."""
    images, y = batch
    functional.cross_entropy(logits_of(shared, draws.draw(*now, 0), images), y, label_smoothing=0.1).backward()


VARIANTS: Final = {
    "default": Variant("one drawn network a step, LAMB, draws that spread from the middle"),
    "at random from the first step": Variant("", lambda: setattr(drawing, "SPREAD_SHARE", 1e-9)),
    "evenly over MACs": Variant("", draw_evenly_over_macs),
    "plain loop": Variant("the default by the loop of the next three", step=draw_one),
    "sandwich": Variant("", step=sandwich, epochs=EPOCHS / 4),
    "teacher": Variant("", step=teach, epochs=EPOCHS / 2.6),
    "attentive": Variant("", step=Attention().step),
    "NAdamW": Variant("", settings={"optimizer": "nadamw"}),
    "NAdamW, a third of the rate": Variant("", settings={"optimizer": "nadamw", "lr": 0.004}),
    "half the rate": Variant("", settings={"lr": 0.006}),
    "twice the rate": Variant("", settings={"lr": 0.024}),
    "no weight decay": Variant("", settings={"weight_decay": 0.0}),
    "five times the weight decay": Variant("", settings={"weight_decay": 0.1}),
    "own weights for each activation and squeeze": Variant(
        "", partial(share_by, lambda one: f"{one.activation}{one.squeeze > 0}")
    ),
    "own weights for each kernel": Variant("", partial(share_by, lambda one: one.kernel)),
    "last layers": Variant("", share_last_layers),
    "BatchNorm by 128 images": Variant("", lambda: setattr(scoring, "CALIBRATION_IMAGES", 128)),
    "BatchNorm by 1,024 images": Variant("", lambda: setattr(scoring, "CALIBRATION_IMAGES", 1024)),
    "whole images": Variant("", settings={"min_crop": 1.0}),
    "half as long": Variant("", epochs=EPOCHS / 2),
    "twice as long": Variant("", epochs=EPOCHS * 2),
    "four times as long": Variant("", epochs=EPOCHS * 4),
}


def train_by_loop(variant: Variant, settings: TrainSettings, seed: int) -> SharedNetwork:
    """Shared weights after a plain loop over the variant's steps."""
    assert variant.step is not None
    draws = make_draws(SPACE, lambda _: True, seed=seed)
    torch.manual_seed(seed)
    shared = SharedNetwork(whole_shapes(SPACE, CLASSES), CLASSES).to(memory_format=torch.channels_last).train()
    setup = TrainSetup(dataset=DATASET, settings=settings, resolution=SPACE.decode(draws.middle).resolution, seed=seed)
    optimizer = create_optimizer_v2(shared, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    data, generator = load_part(DATASET, "train"), torch.Generator().manual_seed(seed)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)

    def augment_at(resolution: int) -> Augment:
        return Augment(preprocess=setup.preprocess(resolution), settings=settings, mirrors=DATASET.mirrors)

    def images_at(indices: Tensor, crops: Tensor, resolution: int) -> Tensor:
        return augment_at(resolution)(images, indices, crops).contiguous(memory_format=torch.channels_last)

    steps = settings.epochs * (len(labels) // settings.batch_size)
    warmup = settings.warmup_share * steps
    for number in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * max(0.0, number - warmup) / (steps - warmup)))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (number + 1) / warmup) * decay
        indices = torch.randperm(len(labels), generator=generator)[: settings.batch_size]
        crops = augment_at(setup.resolution).draw(len(indices), (images.shape[1], images.shape[2]), generator)
        optimizer.zero_grad(set_to_none=True)
        variant.step(shared, draws, (partial(images_at, indices, crops), labels[indices]), (number, steps))
        optimizer.step()
    return shared


def train_by_package(settings: TrainSettings, seed: int) -> SharedNetwork:
    """Shared weights as the package trains them."""
    with TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {
            "space": SPACE,
            "dataset": DATASET,
            "settings": settings,
            "seed": seed,
            "folder": Path(folder),
        }
        train_shared(SharedTraining(feasible=lambda _: True, **arguments))
        return read_shared(Path(folder, WEIGHTS_FILE), CLASSES)


def run(name: str, seed: int) -> dict[str, Any]:
    """One variant with one seed."""
    torch.set_num_threads(1)
    variant = VARIANTS[name]
    variant.prepare()
    settings = replace(shared_settings(EXPERIMENT.train, round(variant.epochs)), **variant.settings or {})
    begin = time.process_time()
    shared = train_by_loop(variant, settings, seed) if variant.step else train_by_package(settings, seed)
    seconds = time.process_time() - begin
    scorer, generator = make_scorer(shared, DATASET), random.Random(99)
    begin = time.process_time()
    reports = [scorer.score(SPACE.decode(sample(SPACE.parameters, generator)))[1] for _ in range(NUM_NETWORKS)]
    scored = (time.process_time() - begin) / NUM_NETWORKS
    tops = [report.val_top1_pct for report in reports]
    losses = [report.val_loss for report in reports]
    return {
        "variant": name,
        "seed": seed,
        "cpu_s": seconds,
        "score_s": scored,
        "mean": mean(tops),
        "best": max(tops),
        "val_loss": mean(losses),
    }


def main() -> None:
    """Run the variants that --output lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--one", action="store_true", help="run the variant here, and print its line")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.variants[0], options.seeds[0])))
        return
    options.output.touch()
    lines = [json.loads(line) for line in options.output.read_text().splitlines()]
    there = {(line["variant"], line["seed"]) for line in lines}
    jobs = [(name, seed) for seed in options.seeds for name in options.variants if (name, seed) not in there]

    def start(job: tuple[str, int]) -> None:
        module = "experiments.benchmarks.shared_ablations"
        command = [sys.executable, "-m", module, "--one", "--output", "-", "--variants", job[0], "--seeds", str(job[1])]
        line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        with options.output.open("a") as file:
            file.write(line)
        print(line, end="", flush=True)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(start, jobs))
    show([json.loads(line) for line in options.output.read_text().splitlines()])


def show(lines: list[dict[str, Any]]) -> None:
    """Print the means over the seeds, and the lowest and highest."""
    print(f"| {'variant':<44} | mean top-1, % | best | CPU s | seeds |\n|---|---|---|---|---|")
    for name in VARIANTS:
        rows = [line for line in lines if line["variant"] == name]
        if rows:
            tops = [row["mean"] for row in rows]
            spread = f"{mean(tops):.1f} ({min(tops):.1f} to {max(tops):.1f})"
            best, seconds = (mean(row[column] for row in rows) for column in ("best", "cpu_s"))
            print(f"| {name:<44} | {spread} | {best:.1f} | {seconds:.0f} | {len(rows)} |")


if __name__ == "__main__":
    main()
