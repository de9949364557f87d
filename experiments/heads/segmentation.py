"""A found network segments: LR-ASPP, MobileNetV3's own head, on its maps of stride 8 and of the last stage.

Trains on drawn shapes and prints the mean IoU before and after: the intersection of the pixels of a class with those
classified so, over their union, as a mean over background, circle, square and triangle, on images not trained on.

Usage: python -m experiments.heads.segmentation [NETWORK] [--steps 200] [--size 96]
NETWORK is a name (`nas.references()`), an exported folder, whose weights are started from, or an architecture's file.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.lraspp import LRASPP
from torchvision.transforms import Normalize

from experiments.heads.backbone import NamedMaps, open_backbone
from experiments.heads.command import command
from experiments.heads.shapes import CLASSES, Shapes, draw
from experiments.heads.training import before_and_after, fit
from nas import Architecture, NasError

BATCH_SIZE = 16


def segmenter(network: str | Architecture) -> nn.Module:
    """LR-ASPP on a network.

    Shapes: (N, 3, height, width), from 0 to 1 → {"out": (N, classes, height, width)}.
    Raises: NasError if there is no such network, or if it has no map of stride 8 before its last.
    """
    opened = open_backbone(network)
    channels, strides = opened.features.feature_info.channels(), opened.features.feature_info.reduction()
    if 8 not in strides[:-1]:
        raise NasError(f"its maps have strides {', '.join(map(str, strides))}; LR-ASPP takes one of 8 and a coarser one")
    low = strides.index(8)
    backbone = NamedMaps(opened.features, {"low": low, "high": -1})
    head = LRASPP(backbone, low_channels=channels[low], high_channels=channels[-1], num_classes=len(CLASSES))
    return nn.Sequential(Normalize(opened.mean, opened.std), head).to(memory_format=torch.channels_last)


def train(model: nn.Module, steps: int, *, size: int, generator: np.random.Generator) -> list[float]:
    """Train on new images in every step, and give the loss of each."""

    def loss_of() -> Tensor:
        shapes = draw(BATCH_SIZE, size, generator)
        return functional.cross_entropy(model(shapes.images)["out"], shapes.masks)

    return fit(model, steps, loss_of)


@torch.inference_mode()
def mean_iou(model: nn.Module, shapes: Shapes) -> float:
    """The mean over the classes of intersection over union, of all the pixels of all the images."""
    model.eval()
    found = torch.cat([model(images)["out"].argmax(1) for images in shapes.images.split(BATCH_SIZE)])
    table = torch.bincount((len(CLASSES) * shapes.masks + found).flatten(), minlength=len(CLASSES) ** 2).view(len(CLASSES), -1)
    return float((table.diag() / (table.sum(0) + table.sum(1) - table.diag())).mean())


def run(network: str, *, steps: int, size: int, seed: int) -> str:
    """Train, and tell what came of it."""
    before, losses, seconds, after = before_and_after(
        lambda: segmenter(network),
        lambda model, generator: train(model, steps, size=size, generator=generator),
        mean_iou,
        size=size,
        seed=seed,
    )
    trained = f"{network}: {steps} steps of {BATCH_SIZE} images of {size} px in {seconds:.0f} s"
    return f"{trained}; loss {losses[0]:.2f} to {losses[-1]:.2f}, mean IoU {before:.3f} to {after:.3f}"


if __name__ == "__main__":
    command(run, description=__doc__)
