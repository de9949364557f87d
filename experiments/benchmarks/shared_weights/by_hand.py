"""A search as a user writes it without this package: Ray Tune, OptunaSearch, torch's DataLoader and timm's parts.

Networks and images come from the experiment, so that they are those of the other side. Prints top-1 and MACs of each network.

Usage: python -m experiments.benchmarks.shared_weights.by_hand EXPERIMENT [--root FOLDER] [--trials 24] [--seed 0] [--epochs 5]
"""

import argparse
import json
import math
import tempfile
from dataclasses import replace
from typing import Any

import ray
import torch
from PIL import Image
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from nas import Experiment, build, cost
from nas.plugins import load_plugin
from nas.spaces import grid_values

WORKERS = 2


class Images(torch.utils.data.Dataset[Any]):
    """A part of the images, transformed one by one."""

    def __init__(self, part: Any, transform: Any) -> None:
        """`part` is an ImageData; `transform` gets PIL images."""
        self.part, self.transform = part, transform

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.part.images[i])), int(self.part.labels[i])


def train(params: dict[str, Any], experiment: Experiment, parts: dict[str, Any], num_classes: int) -> None:
    """A trial: train a network with the experiment's settings, then report its top-1 and MACs.

    The word `classes` in here would make Ray pickle `torch.classes`, which fails.
    """
    torch.set_num_threads(1)
    torch.manual_seed(experiment.seed)
    settings, dataset = experiment.train, experiment.dataset
    architecture = experiment.space.decode(params)
    sides = {"input_size": architecture.resolution, "mean": dataset.mean, "std": dataset.std}
    crops = {"scale": (settings.min_crop, 1.0), "hflip": 0.5 * dataset.mirrors, "color_jitter": None}
    crop = create_transform(**sides, **crops, is_training=True)
    whole = create_transform(**sides, crop_pct=1.0, interpolation="bilinear")
    loader = DataLoader(Images(parts["train"], crop), settings.batch_size, shuffle=True, drop_last=True)
    model = build(architecture, num_classes).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    steps = settings.epochs * len(loader)
    warmup = settings.warmup_share * steps
    cosine = LambdaLR(optimizer, lambda step: min((step + 1) / (warmup + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps)))
    for _ in range(settings.epochs):
        model.train()
        for x, y in loader:
            loss = functional.cross_entropy(model(x), y, label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    model.eval()
    with torch.inference_mode():
        batches = DataLoader(Images(parts["val"], whole), 256)
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    tune.report({"top1_pct": 100.0 * correct / len(parts["val"]), "macs_m": cost(architecture, num_classes).macs / 1e6})


def search(experiment: Experiment, trials: int) -> list[tuple[float, float]]:
    """(top-1 on the search validation part, MACs in millions) of every network."""
    parts = {part: experiment.dataset.load(part) for part in ("train", "val")}
    space = {name: tune.choice(grid_values(choices)) for name, choices in experiment.space.parameters.items()}
    algorithm = OptunaSearch(metric=["top1_pct", "macs_m"], mode=["max", "min"], seed=experiment.seed)
    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=WORKERS)
        results = tune.Tuner(
            tune.with_parameters(train, experiment=experiment, parts=parts, num_classes=len(experiment.dataset.classes)),
            param_space=space,
            tune_config=tune.TuneConfig(search_alg=algorithm, num_samples=trials, max_concurrent_trials=WORKERS),
            run_config=tune.RunConfig(storage_path=folder),
        ).fit()
        ray.shutdown()
    return [(one.metrics["top1_pct"], one.metrics["macs_m"]) for one in results if one.error is None]


def main() -> None:
    """Print the networks as one JSON list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--root", help="of the images")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="other than the experiment's")
    options = parser.parse_args()
    experiment: Experiment = load_plugin("experiment", options.experiment)
    if options.root:
        dataset: Any = experiment.dataset
        experiment = replace(experiment, dataset=replace(dataset, root=options.root))
    train_settings = replace(experiment.train, epochs=options.epochs or experiment.train.epochs)
    print("\n" + json.dumps(search(replace(experiment, train=train_settings, seed=options.seed), options.trials)))


if __name__ == "__main__":
    main()
