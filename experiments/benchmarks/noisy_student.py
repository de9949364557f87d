"""What a teacher and unlabelled images are worth: the top-1 on Imagenette's test part of one network trained in three ways.

Labelled is a tenth of the training part, the same in every training. `alone` trains on it without a teacher. `taught` learns
from a network that was trained alone with another seed. `noisy student` is taught by that network too, which has also labelled
the other nine tenths. Every training has equal epochs of equally many steps: the first two show each labelled image ten times
an epoch, the third shows each image once. So that the steps are equal, it takes every image, however unsure the teacher is: all
of them are of the ten classes.

Each training is an export in --output, and adds a line to its results.jsonl; what is there is not trained again.

Usage: python -m experiments.benchmarks.noisy_student --root FOLDER --output FOLDER [--seeds 3] [--epochs 30] [--threads 2]
The first FOLDER has Imagenette's train/ and val/.
"""

import argparse
import json
import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from nas.datasets import Dataset, ImageData
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD
from nas.datasets.imagenette import CLASSES, Imagenette
from nas.exporting.full_training import FullTraining, train_network
from nas.statistics import Interval, mean_interval
from nas.training.settings import TrainSettings
from search_spaces.mobilenetv3 import MobileNetV3Space

SHARE: Final = 0.1  # of the training part has labels
REPEATS: Final = round(1 / SHARE)  # of a labelled image in an epoch without unlabelled ones
SIDE: Final = 80  # of the stored images, pixels
SPACE: Final = MobileNetV3Space(width_multiple=0.5, head_multiple=0.5, skeletons=("small",), resolutions=(64,), stem_stride=2)
NETWORK: Final = SPACE.decode(SPACE.references["mobilenetv3_small_100"])  # at half of its widths and 64 px
SETTINGS: Final = TrainSettings(batch_size=64, augment="trivial", drop_rate=0.2, drop_path_rate=0.1, weight_decay=0.05)
WAYS: Final = ("alone", "taught", "noisy student")
RESULTS_FILE: Final = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Tenth(Dataset):
    """A tenth of Imagenette's training part, each image of it several times, and the whole of the other parts."""

    root: Path
    repeats: int = REPEATS
    name = "imagenette"
    classes = tuple(CLASSES.values())
    class_folders = tuple(CLASSES)
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    mirrors = True

    def load(self, part: str) -> ImageData:
        """The images of a part; those of the training part `repeats` times."""
        data = Imagenette(root=self.root, side=SIDE, share=SHARE).load(part)
        if part != "train":
            return data
        return ImageData(images=np.tile(data.images, (self.repeats, 1, 1, 1)), labels=np.tile(data.labels, self.repeats))


def training_of(way: str, seed: int, options: argparse.Namespace) -> FullTraining:
    """One training; the teacher of a student is the network that was trained alone with the next seed."""
    output, settings = Path(options.output), replace(SETTINGS, epochs=options.epochs)
    dataset = Tenth(root=options.root)
    target = output / f"{way.replace(' ', '_')}-seed{seed}"
    alone = FullTraining(network=NETWORK, dataset=dataset, train=settings, seed=seed, output=str(target))
    if way == "alone":
        return alone
    taught = replace(alone, train=replace(settings, teacher=str(output / f"alone-seed{(seed + 1) % options.seeds}")))
    if way == "taught":
        return taught
    return replace(taught, dataset=replace(dataset, repeats=1), unlabelled=str(options.root / "train"), min_confidence=0.0)


def result_of(way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a training reached, which runs now unless its export is there."""
    training = training_of(way, seed, options)
    if not training.target.exists():
        train_network(training, on_epoch=lambda epoch: print(f"  epoch {epoch.epoch}: {epoch.val_top1_pct:.1f}", flush=True))
    card = json.loads((training.target / "card.json").read_text(encoding="utf-8"))
    accuracy = {name: card["accuracy"][name] for name in ("val_top1_pct", "test_top1_pct", "test_images")}
    images = card["train"].get("pseudo_labelled", 0)
    return {"way": way, "seed": seed, "epochs": options.epochs, **accuracy, "pseudo_labelled": images} | {
        "seconds": round(card["train"]["seconds"], 1)
    }


def results(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The result of every training, each written before the next one begins."""
    file = Path(options.output, RESULTS_FILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = {(row["way"], row["seed"], row["epochs"]): row for row in map(json.loads, lines)}
    wanted = [(way, seed, options.epochs) for way in WAYS for seed in range(options.seeds)]
    for way, seed, epochs in wanted:
        if (way, seed, epochs) in rows:
            continue
        print(f"{way}, seed {seed}", flush=True)
        rows[way, seed, epochs] = result_of(way, seed, options)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows[way, seed, epochs]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return [rows[key] for key in wanted]


def figures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the mean of each way and of its differences, by seed, with their 95 % intervals; the same as values."""
    tops = {way: [row["test_top1_pct"] for row in rows if row["way"] == way] for way in WAYS}
    figures: dict[str, Any] = {"test_images": rows[0]["test_images"], "seeds": len(tops[WAYS[0]]), "epochs": rows[0]["epochs"]}
    for way, values in tops.items():
        seconds = statistics.mean(row["seconds"] for row in rows if row["way"] == way)
        figures[way] = shown(f"{way} ({seconds:.0f} s a training)", values)
    for one, other in (("taught", "alone"), ("noisy student", "alone"), ("noisy student", "taught")):
        differences = [a - b for a, b in zip(tops[one], tops[other], strict=True)]
        figures[f"{one} - {other}"] = shown(f"{one} minus {other}", differences)
    return figures


def shown(what: str, values: list[float]) -> dict[str, Any]:
    """Print a mean and its interval."""
    mean, interval = statistics.mean(values), interval_of(values)
    between = "too few seeds for an interval" if interval is None else f"95 % from {interval[0]:.2f} to {interval[1]:.2f}"
    print(f"{what}: {mean:.2f}, {between}")
    return {"mean": round(mean, 2), "interval": interval}


def interval_of(values: list[float]) -> Interval | None:
    """The 95 % interval of a mean; None for fewer than two values."""
    return mean_interval(values) if len(values) > 1 else None


def main() -> None:
    """Train what is not trained yet, then print the figures, also as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with Imagenette's train/ and val/")
    parser.add_argument("--output", type=Path, required=True, help="the folder of the exports and of the results")
    parser.add_argument("--seeds", type=int, default=3, help="0 to this, without it")
    parser.add_argument("--epochs", type=int, default=30, help="of every training")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.root, options.output = options.root.resolve(), options.output.resolve()
    print(json.dumps(figures_of(results(options))))


if __name__ == "__main__":
    main()
