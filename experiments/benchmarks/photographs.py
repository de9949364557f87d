"""What a small network learns from a tenth of Imagenette in five epochs on one core: MobileNetV3-Small's point of imagenette_cpu.

Usage: python -m experiments.benchmarks.photographs --root FOLDER [--seeds 3]
FOLDER has Imagenette's train/ and val/.
"""

import argparse
import json
import statistics
from dataclasses import replace

import torch

from experiments.imagenette_cpu import EXPERIMENT
from nas import build, cost
from nas.datasets import load_part
from nas.datasets.imagenette import Imagenette
from nas.exporting.formats import measure_accuracy
from nas.training.loop import TrainSetup, train


def main() -> None:
    """Print the accuracy by seed, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with Imagenette's train/ and val/")
    parser.add_argument("--seeds", type=int, default=3, help="0 to this, without it")
    options = parser.parse_args()
    torch.set_num_threads(1)

    assert isinstance(EXPERIMENT.dataset, Imagenette)
    dataset = replace(EXPERIMENT.dataset, root=options.root)
    architecture = EXPERIMENT.space.decode(EXPERIMENT.space.references["mobilenetv3_small_100"])
    num_images, num_classes, device = len(dataset.load("train")), len(dataset.classes), torch.device("cpu")
    macs_m = cost(architecture, num_classes).macs / 1e6
    print(f"{num_images} training images of {num_classes} classes, {architecture.resolution} px, {macs_m:.1f} M multiply-adds")
    rows = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model = build(architecture, num_classes)
        setup = TrainSetup(dataset=dataset, settings=EXPERIMENT.train, resolution=architecture.resolution, seed=seed)
        report = train(model, setup)
        parts = {part: load_part(dataset, part) for part in ("val", "test")}
        accuracy, _ = measure_accuracy(model, architecture.resolution, dataset, parts, device)
        rows.append({"seed": seed, "seconds": round(report.seconds, 1), **accuracy})
        val, test = accuracy["val_top1_pct"], accuracy["test_top1_pct"]
        print(f"seed {seed}: val_top1_pct {val:.1f}, test_top1_pct {test:.1f}, {report.seconds:.0f} s")
    tests = [row["test_top1_pct"] for row in rows]
    figures = {
        "test_top1_pct": round(statistics.median(tests), 1),
        "test_range": [round(min(tests), 1), round(max(tests), 1)],
        "val_top1_pct": round(statistics.median(row["val_top1_pct"] for row in rows), 1),
        "seconds": statistics.median(row["seconds"] for row in rows),
        "seeds": options.seeds,
        "torch": torch.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
