"""What the sections share: the device and sizes of a run, made-up images, networks drawn without Optuna, and timing."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
import torch
from torch import nn

from nas.datasets import Dataset, ImageData
from nas.models.architecture import Architecture, Block, round_width
from nas.models.build import build

T = TypeVar("T")
Figures: TypeAlias = Iterator[tuple[str, object]]
"""Names and values that go into a section's JSON line, each as soon as it is measured."""

CLASSES: Final = 10
STEPS: Final = 10  # between two synchronisations of a timed round


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of a section."""

    device: torch.device
    quick: bool
    """True for tiny sizes, which show that a section runs; its figures mean nothing."""
    root: Path | None
    """A folder with train/ and val/, each with a folder of images per class."""
    deadline: float
    """When the section should be done, as `time.monotonic` counts."""

    def size(self, full: T, quick: T) -> T:
        """The first of two sizes, or the second in a quick run."""
        return quick if self.quick else full

    def seconds_left(self) -> float:
        """Seconds until the section should be done; negative after that."""
        return self.deadline - time.monotonic()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def model(self, architecture: Architecture) -> nn.Module:
        """The network, newly initialised from seed 0, on the device."""
        torch.manual_seed(0)
        return build(architecture, CLASSES).to(self.device)


@dataclass(frozen=True, slots=True)
class MadeUp(Dataset):
    """Noise that is brighter in one of ten columns, the class. Its val and test parts have `num_val` images."""

    num: int
    side: int
    """Side of the stored images, pixels."""
    num_val: int = 2
    name = "made_up"
    classes = tuple(map(str, range(CLASSES)))
    mean = std = (0.5, 0.5, 0.5)
    mirrors = False

    def load(self, part: str) -> ImageData:
        """The images of a part, the same at every call."""
        return _made_up(self.num if part == "train" else self.num_val, self.side, part)


@lru_cache(maxsize=4)
def _made_up(num: int, side: int, part: str) -> ImageData:
    generator = np.random.default_rng(("train", "val", "test").index(part))
    images = generator.integers(0, 128, (num, side, side, 3), dtype=np.uint8)
    labels = np.arange(num, dtype=np.int64) % CLASSES
    for label in range(CLASSES):
        images[labels == label, :, side * label // CLASSES : side * (label + 1) // CLASSES] += np.uint8(100)
    return ImageData(images=images, labels=labels)


def draw(published: Architecture, resolution: int, generator: random.Random) -> Architecture:
    """A random network like a published one: fewer blocks in a stage, other kernels and expansions, the same widths."""
    stages, width = [], published.stem.width
    for stage in published.stages:
        blocks = []
        for block in stage[: generator.randint(1, len(stage))]:
            blocks.append(_draw_block(block, width, generator))
            width = block.width
        stages.append(tuple(blocks))
    return replace(published, resolution=resolution, stages=tuple(stages))


def _draw_block(block: Block, width: int, generator: random.Random) -> Block:
    if block.op != "mbconv":
        return block
    return replace(block, kernel=generator.choice((3, 5, 7)), hidden=round_width(width * generator.choice((3, 4, 6))))


def rate(step: Callable[[], object], bench: Bench, seconds: float) -> dict[str, float]:
    """Steps per second: the median, least and most of rounds of STEPS steps, after a warm-up of a third of `seconds`."""
    _rounds(step, bench, seconds / 3)
    rates = _rounds(step, bench, seconds)
    return {"median": round(statistics.median(rates), 3), "least": round(min(rates), 3), "most": round(max(rates), 3)}


def _rounds(step: Callable[[], object], bench: Bench, seconds: float) -> list[float]:
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        bench.synchronize()
        started = time.perf_counter()
        for _ in range(bench.size(STEPS, 1)):
            step()
        bench.synchronize()
        rates.append(bench.size(STEPS, 1) / (time.perf_counter() - started))
    return rates
