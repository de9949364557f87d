"""Semantic segmentation: LR-ASPP, MobileNetV3's own head, on a network's feature maps of stride 8 and of the last stage.

Trains on synthetic shapes and prints the mean IoU on other images, before and after: the intersection over union of true and
predicted pixels of a class, as a mean over background, circle, square and triangle.

Usage: python -m experiments.heads.segmentation [NETWORK] [--steps 200] [--size 96]
NETWORK is a reference (`nas.references()`), an exported folder, whose weights initialise it, or an architecture's file.
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
    Raises: NasError for an unknown network, or one without a feature map of stride 8 before its last.
    """
    network_maps = open_backbone(network)
    info = network_maps.features.feature_info
    channels, strides = info.channels(), info.reduction()
    if 8 not in strides[:-1]:
        raise NasError(f"its maps have strides {', '.join(map(str, strides))}; LR-ASPP takes one of 8 and a coarser one")
    low = strides.index(8)
    backbone = NamedMaps(network_maps.features, {"low": low, "high": -1})
    head = LRASPP(backbone, low_channels=channels[low], high_channels=channels[-1], num_classes=len(CLASSES))
    return nn.Sequential(Normalize(network_maps.mean, network_maps.std), head).to(memory_format=torch.channels_last)


def train(model: nn.Module, steps: int, *, size: int, generator: np.random.Generator) -> list[float]:
    """Train on new images in every step; gives the loss of each step."""

    def compute_loss() -> Tensor:
        shapes = draw(BATCH_SIZE, size, generator)
        return functional.cross_entropy(model(shapes.images)["out"], shapes.masks)

    return fit(model, steps, compute_loss)


@torch.inference_mode()
def mean_iou(model: nn.Module, shapes: Shapes) -> float:
    """The mean over classes of the intersection over union, over all pixels of all images."""
    model.eval()
    predicted = torch.cat([model(images)["out"].argmax(1) for images in shapes.images.split(BATCH_SIZE)])
    pairs = (len(CLASSES) * shapes.masks + predicted).flatten()
    confusion = torch.bincount(pairs, minlength=len(CLASSES) ** 2).view(len(CLASSES), -1)
    return float((confusion.diag() / (confusion.sum(0) + confusion.sum(1) - confusion.diag())).mean())


def run(network: str, *, steps: int, size: int, seed: int) -> str:
    """Train the head; gives a line with its loss and mean IoU before and after."""
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
