"""From image files to training batches on the device, per core: ours, PIL with torchvision v1, torchvision's decoder with v2.

All take turns on one core, over as many images of one folder, drawn at random: random resized crop, flip, normalisation. Ours is
measured after the first epoch, from the cache; what making the cache costs stands beside it.

Usage: python -m experiments.benchmarks.data_path --root FOLDER [--images 4096] [--repeats 5]
FOLDER has train/ and val/, each with a folder of images per class.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from nas import TrainSettings
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from nas.training.augment import Augment
from nas.training.device import keep_freed_memory
from nas.training.predict import Preprocess

MIN_AREA = 0.35


class Decoded(Dataset[tuple[torch.Tensor, int]]):
    """torchvision's own decoder and its v2 transforms, image by image."""

    def __init__(self, files: list[tuple[str, int]], resolution: int) -> None:
        self.files = files
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(resolution, scale=(MIN_AREA, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        path, label = self.files[i]
        image: torch.Tensor = self.transform(decode_image(path, mode=ImageReadMode.RGB))
        return image, label


def seconds(batches: Callable[[], Iterator[Any]]) -> float:
    """Time to go through all batches once."""
    started = time.perf_counter()
    left = batches()
    while next(left, None) is not None:  # every batch is let go of before the next is asked for, as a training loop does
        pass
    return time.perf_counter() - started


class Ours:
    """Batches as the training loop makes them, of images that it has opened once."""

    def __init__(self, dataset: ImageFolder, resolution: int, batch_size: int) -> None:
        keep_freed_memory()  # as the loop does; the other sides have it too, as they run in this process
        preprocess = Preprocess(resolution=resolution, mean=dataset.mean, std=dataset.std)
        self.augment = Augment(preprocess=preprocess, settings=TrainSettings(min_crop=MIN_AREA), mirrors=True)
        self.images = torch.from_numpy(dataset.load("train").images)
        self.batch_size = batch_size

    def batches(self, num: int) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        _, height, width, _ = self.images.shape
        for indices in torch.randperm(len(self.images), generator=generator)[:num].split(self.batch_size):
            crops = self.augment.draw(len(indices), (height, width), generator)
            yield self.augment(self.images, indices, crops)


def memory_mb() -> dict[str, int]:
    """What this process holds now, 10^6 bytes: of its own, and of files that it maps and shares with every other process."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    kilobytes = {words[0]: int(words[1]) for words in lines if words and words[0] in ("RssAnon:", "RssFile:")}
    return {"own": kilobytes["RssAnon:"] * 1024 // 10**6, "mapped": kilobytes["RssFile:"] * 1024 // 10**6}


# Times the first call, and in another process the second one, without the imports.
START = """
import sys, time
from nas.datasets.image_folder import ImageFolder
started = time.perf_counter()
ImageFolder(root=sys.argv[1], side=int(sys.argv[2])).load("train")
print(time.perf_counter() - started)
"""


def first_and_second_start(root: str, side: int) -> tuple[float, float, float]:
    """(seconds until the images are there without a cache, and with one; megabytes of the cache). On all cores."""
    with tempfile.TemporaryDirectory() as folder:
        line, environment = [sys.executable, "-c", START, root, str(side)], os.environ | {"XDG_CACHE_HOME": folder}
        answers = [subprocess.run(line, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    return float(answers[0].stdout), float(answers[1].stdout), size


def main() -> None:
    """Print the medians and ratios, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with train/ and val/")
    parser.add_argument("--images", type=int, default=4096, help="images a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the sides take turns in each")
    parser.add_argument("--resolution", type=int, default=128, help="of the batches, pixels")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    num, batch_size, resolution = options.images, options.batch_size, options.resolution

    first, second, cache_mb = first_and_second_start(options.root, 160)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for every side
    torch.set_num_threads(1)

    mine = Ours(ImageFolder(root=options.root), resolution, batch_size)
    normal = [v1.ToTensor(), v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    crop = v1.Compose([v1.RandomResizedCrop(resolution, scale=(MIN_AREA, 1.0)), v1.RandomHorizontalFlip(), *normal])
    folder = TorchvisionFolder(str(Path(options.root) / "train"), crop)
    order = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0))[:num].tolist()
    decoded = Decoded([folder.samples[i] for i in order], resolution)
    sides: dict[str, Callable[[], Iterator[Any]]] = {
        "ours": lambda: mine.batches(num),
        "PIL + torchvision v1": lambda: iter(DataLoader(Subset(folder, order), batch_size)),
        "the same, one worker process": lambda: iter(
            DataLoader(torch.utils.data.Subset(folder, order), batch_size, num_workers=1)
        ),
        "torchvision decode + v2": lambda: iter(DataLoader(decoded, batch_size)),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    before = memory_mb()
    for name, batches in sides.items():
        seconds(batches)  # reads the files once
        if name == "ours":
            memory = {kind: value - before[kind] for kind, value in memory_mb().items()}
    for _ in range(options.repeats):
        for name, batches in sides.items():
            rates[name].append(num / seconds(batches))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'images/s on one core':<28}{'median':>10}{'least':>10}{'most':>10}{'ours is':>10}")
    for name, values in rates.items():
        ratio = f"{medians['ours'] / medians[name]:.1f}x" if name != "ours" else ""
        print(f"{name:<28}{medians[name]:>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}{ratio:>10}")
    print(f"\nfirst start {first:.1f} s, second start {second:.2f} s, cache {cache_mb:,.0f} MB on disk, shared by every process")
    print(f"memory of ours: {memory['own']:,} MB of its own; it maps the cache, which is in memory once for all processes")
    figures = {
        "images_per_second": {name: round(value) for name, value in medians.items()},
        "ratio_v1": round(medians["ours"] / medians["PIL + torchvision v1"], 1),
        "ratio_v2": round(medians["ours"] / medians["torchvision decode + v2"], 1),
        "first_start_s": round(first, 1),
        "second_start_s": round(second, 2),
        "cache_mb": round(cache_mb),
        "own_memory_mb": memory["own"],
        "repeats": options.repeats,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
