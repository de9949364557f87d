"""Section a: the training loop gives the same losses on the device as on the CPU, within the rounding of each precision."""

from dataclasses import replace
from typing import Final

import torch

from experiments.benchmarks.gpu.bench import CLASSES, Bench, Figures, MadeUp
from nas.models.build import build
from nas.models.zoo import reference
from nas.training.loop import TrainSetup, train
from nas.training.settings import TrainSettings

STEPS: Final = 8
LR: Final = 1e-3  # of SGD; so low that rounding does not grow much from step to step
TOLERANCES: Final = {"float32": 0.01, "bfloat16": 0.03, "float16": 0.02}
"""Precision → largest relative difference of a step's loss. On two CPU kernels float32 differs by 0.001, but a GPU's float32
convolutions compute in TF32, which has 10 bits of mantissa, as float16 has; bfloat16 has 7."""


def agreement(bench: Bench) -> Figures:
    """Losses of the first steps on the CPU and on the device, from equal weights and equal batches, and how far they differ.

    Images are stored at the network's resolution and never cropped, so that no resizing differs. An epoch is one step, whose
    loss the report has. In float16, equal losses at first are steps that the scaler skips until its factor is low enough.
    """
    dataset = MadeUp(bench.size(64, 16), bench.size(64, 32))
    yield "setting", f"mobilenetv3_small_100, {dataset.side} px, batch {dataset.num}, sgd, lr {LR:g}"
    for precision, tolerance in TOLERANCES.items():
        expected = _losses(dataset, torch.device("cpu"), precision)
        losses = _losses(dataset, bench.device, precision)
        largest = max(abs(loss / other - 1) for loss, other in zip(losses, expected, strict=True))
        figures = {"cpu": expected, bench.device.type: losses, "largest_relative_difference": round(largest, 6)}
        yield precision, figures | {"tolerance": tolerance, "agrees": largest <= tolerance}


def _losses(dataset: MadeUp, device: torch.device, precision: str) -> list[float]:
    """The loss of each step."""
    torch.manual_seed(0)
    model = build(replace(reference("mobilenetv3_small_100"), resolution=dataset.side), CLASSES).to(device)
    settings = TrainSettings(epochs=STEPS, batch_size=dataset.num, optimizer="sgd", lr=LR, min_crop=1.0, precision=precision)
    report = train(model, TrainSetup(dataset=dataset, settings=settings, resolution=dataset.side, seed=0))
    return [round(epoch.train_loss, 6) for epoch in report.history]
