"""Training speed on one core: ours from real images, ours on one batch that is already there, and a loop written with timm.

The first over the second tells what the data path costs, the first over the third what this loop is worth. All three train the
same network at the same size and batch, and take turns in one run.

Usage: python -m experiments.benchmarks.train_speed --root FOLDER [--network mobilenetv3_small_100] [--repeats 5]
FOLDER has train/ and val/, each with a folder of images per class.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn import functional

from nas import TrainSettings, build, reference
from nas.datasets import Dataset, ImageData
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from nas.training.augment import Augment
from nas.training.loop import TrainSetup, train

SETTINGS = TrainSettings(epochs=1, batch_size=128, min_crop=0.35)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Part(Dataset):
    """The first images of a dataset, to train on alone; two of them to validate on, which takes no time."""

    dataset: ImageFolder
    num: int
    name = "part"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    mirrors = True

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def load(self, part: str) -> ImageData:
        data = self.dataset.load(part)
        step = max(1, len(data) // self.num)
        indices = slice(None, None, step) if part == "train" else slice(0, 2)
        return ImageData(images=data.images[indices][: self.num], labels=data.labels[indices][: self.num])


def ours(dataset: Part, network: str, resolution: int) -> float:
    """Images a second of the training loop, from its second step on."""
    marks: list[tuple[float, int]] = []
    model = build(reference(network), len(dataset.classes))
    train(
        model,
        TrainSetup(dataset=dataset, settings=SETTINGS, resolution=resolution, seed=0),
        on_step=lambda done, total: marks.append((time.perf_counter(), done)),  # noqa: ARG005
    )
    (began, before), (ended, done) = marks[0], marks[-1]
    return (done - before) / (ended - began)


def constant(dataset: Part, network: str, resolution: int) -> float:
    """The same loop, where every batch is the first one again."""
    kept: list[Tensor] = []
    cut = Augment.__call__

    def same(self: Augment, images: Tensor, indices: Tensor, crops: Tensor) -> Tensor:
        if not kept:
            kept.append(cut(self, images, indices, crops))
        return kept[0]

    Augment.__call__ = same  # type: ignore[method-assign]
    try:
        return ours(dataset, network, resolution)
    finally:
        Augment.__call__ = cut  # type: ignore[method-assign]


def with_timm(root: str, num: int, network: str, resolution: int) -> float:
    """Images a second of a loop of timm's own parts: dataset, loader, model, optimizer."""
    dataset = create_dataset("", root=root, split="train")
    loader = create_loader(
        dataset,
        input_size=(3, resolution, resolution),
        batch_size=SETTINGS.batch_size,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        scale=(SETTINGS.min_crop, 1.0),
        color_jitter=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        device=CPU,
    )
    model = timm.create_model(network, num_classes=10).train()
    optimizer = create_optimizer_v2(model, opt=SETTINGS.optimizer, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    marks: list[tuple[float, int]] = []
    for step, (x, y) in enumerate(loader, start=1):
        loss = functional.cross_entropy(model(x), y, label_smoothing=SETTINGS.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        marks.append((time.perf_counter(), step * SETTINGS.batch_size))
        if step * SETTINGS.batch_size >= num:
            break
    (began, before), (ended, done) = marks[0], marks[-1]
    return (done - before) / (ended - began)


def main() -> None:
    """Print the medians and ratios, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with train/ and val/")
    parser.add_argument("--network", default="mobilenetv3_small_100", help="one of nas.references()")
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--images", type=int, default=1408, help="a round, of which the first batch is not timed")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the sides take turns in each")
    parser.add_argument("--side", help="measure this side alone, once, and print its figure")
    options = parser.parse_args()
    network, resolution, num = options.network, options.resolution, options.images
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for every side
    torch.set_num_threads(1)

    dataset = Part(ImageFolder(root=options.root), num)
    sides: dict[str, Callable[[], float]] = {
        "ours, real images": lambda: ours(dataset, network, resolution),
        "ours, one constant batch": lambda: constant(dataset, network, resolution),
        "a loop of timm's parts": lambda: with_timm(options.root, num, network, resolution),
    }
    if options.side:
        print(sides[options.side]())
        return
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name in sides:  # each in a process of its own, since our loop changes how memory is kept
            line = [sys.executable, "-m", "experiments.benchmarks.train_speed", *sys.argv[1:], "--side", name]
            rates[name].append(float(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[-1]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    real, same, theirs = medians.values()
    print(f"{network}, {resolution} px, batch {SETTINGS.batch_size}, one core\n")
    print(f"{'images/s':<28}{'median':>10}{'least':>10}{'most':>10}")
    for name, values in rates.items():
        print(f"{name:<28}{medians[name]:>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}")
    print(f"\nreal images / constant batch {real / same:.3f}; ours / timm's parts {real / theirs:.2f}")
    figures = {
        "network": network,
        "resolution": resolution,
        "images_per_second": {name: round(value) for name, value in medians.items()},
        "real_over_constant": round(real / same, 3),
        "ours_over_timm": round(real / theirs, 2),
        "repeats": options.repeats,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
