"""Object detection: RetinaNet with a feature pyramid, or EfficientDet's BiFPN, on a network's last three feature maps.

Trains on synthetic shapes and prints AP50 on other images, before and after. AP50 is the area under the precision-recall curve
of a class, as a mean over circle, square and triangle; a detection is correct if its IoU with a shape that no detection of a
higher score matched is 0.5 or more.

Usage: python -m experiments.heads.detection [NETWORK] [--steps 200] [--size 96] [--neck fpn|bifpn] [--phi 0]
NETWORK is a reference (`nas.references()`), an exported folder, whose weights initialise it, or an architecture's file.
`--phi`, 0 to 7, gives the BiFPN of EfficientDet-D0 to D7, with fewer layers for images smaller than theirs.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, box_iou

from experiments.heads.backbone import NamedMaps, open_backbone
from experiments.heads.bifpn import DEPTHS, NUM_LEVELS, BiFPN
from experiments.heads.command import command
from experiments.heads.shapes import CLASSES, Shapes, draw
from experiments.heads.training import before_and_after, fit
from nas import Architecture, NasError
from nas.errors import unknown_name

BATCH_SIZE = 8
FPN_WIDTH = 64  # channels of the feature pyramid
ANCHORS = (2.5, 3.5, 5.0)  # sides of the anchor boxes, in strides of their feature map


class Pyramid(nn.Sequential):
    """The backbone with a neck; RetinaNet reads `out_channels`."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, out_channels: int) -> None:
        super().__init__(backbone, neck)
        self.out_channels = out_channels


def detector(network: str | Architecture, size: int, *, neck: str = "fpn", phi: int = 0) -> nn.Module:
    """RetinaNet on a network, for square images of `size` pixels; its neck is `fpn`, or `bifpn` as in EfficientDet-D`phi`.

    Raises: NasError for an unknown network, neck or phi, or a network with fewer than three feature maps.
    """
    network_maps = open_backbone(network)
    channels, strides = network_maps.features.feature_info.channels(), network_maps.features.feature_info.reduction()
    if len(strides) < 3:
        raise NasError(f"its maps have strides {', '.join(map(str, strides))}; the feature pyramid takes three")
    strides = levels(strides[-3:], size) if neck == "bifpn" else strides[-3:]
    fusion, width = make_neck(neck, channels[-3:], phi=phi, size=size, num_levels=len(strides))
    backbone = NamedMaps(network_maps.features, {"fine": -3, "middle": -2, "coarse": -1})
    sides = tuple(tuple(side * stride for side in ANCHORS) for stride in strides)
    model: nn.Module = RetinaNet(
        Pyramid(backbone, fusion, width),
        len(CLASSES),
        anchor_generator=AnchorGenerator(sides, aspect_ratios=((1.0,),) * len(sides)),  # the boxes of shapes are square
        head=RetinaNetHead(width, len(ANCHORS), len(CLASSES), norm_layer=partial(nn.GroupNorm, 8)),
        min_size=size,
        max_size=size,
        image_mean=list(network_maps.mean),
        image_std=list(network_maps.std),
    )
    return model.to(memory_format=torch.channels_last)


def make_neck(name: str, channels: Sequence[int], *, phi: int, size: int, num_levels: int) -> tuple[nn.Module, int]:
    """(The neck `fpn` or `bifpn` on feature maps of `channels`, the width of its maps), for images of `size` pixels.

    Raises: NasError for another name, or a phi that the neck does not have.
    """
    if name == "bifpn":
        neck = BiFPN(channels, phi=phi, num_levels=num_levels, max_layers=max_layers(size))
        return neck, neck.out_channels
    if name != "fpn":
        raise unknown_name("neck", name, ("fpn", "bifpn"))
    if phi:
        raise NasError(f"phi: {phi} does nothing with the neck fpn; give bifpn")
    return FeaturePyramidNetwork(channels, FPN_WIDTH), FPN_WIDTH


def max_layers(size: int) -> int:
    """The most layers of a BiFPN for images of `size` pixels.

    EfficientDet's rule ties both to one number: 512 + 128 * phi pixels and 3 + phi layers; so an image of 96 px has one layer.
    """
    return max(1, 3 + (size - 512) // 128)


def levels(strides: Sequence[int], size: int) -> list[int]:
    """The strides of a BiFPN's maps: the network's, and up to five if their smallest anchor box fits into the image."""
    coarser = [strides[-1] * 2**i for i in range(1, NUM_LEVELS - len(strides) + 1)]
    return [*strides, *(stride for stride in coarser if ANCHORS[0] * stride <= size)]


def train(model: nn.Module, steps: int, *, size: int, generator: np.random.Generator) -> list[float]:
    """Train on new images in every step; gives the loss of each step."""

    def compute_loss() -> Tensor:
        shapes = draw(BATCH_SIZE, size, generator)
        targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(shapes.boxes, shapes.labels, strict=True)]
        losses: dict[str, Tensor] = model(list(shapes.images), targets)
        return sum(losses.values(), torch.zeros(()))

    return fit(model, steps, compute_loss)


@torch.inference_mode()
def ap50(model: nn.Module, shapes: Shapes) -> float:
    """Average precision at an IoU of 0.5, as a mean over the classes."""
    model.eval()
    detections = [image for images in shapes.images.split(BATCH_SIZE) for image in model(list(images))]
    return sum(_average_precision(detections, shapes, label) for label in range(1, len(CLASSES))) / (len(CLASSES) - 1)


def _average_precision(detections: list[dict[str, Tensor]], shapes: Shapes, label: int) -> float:
    """The average precision of one class."""
    scored: list[tuple[float, bool]] = []
    for image, boxes, labels in zip(detections, shapes.boxes, shapes.labels, strict=True):
        detected = image["labels"] == label
        ious = box_iou(image["boxes"][detected], boxes[labels == label])  # (detections, shapes), highest score first
        for score, overlaps in zip(image["scores"][detected].tolist(), ious, strict=True):
            correct = bool((overlaps >= 0.5).any())
            scored.append((score, correct))
            if correct:
                ious[:, overlaps.argmax()] = 0  # a shape is matched once
    scored.sort(key=lambda pair: -pair[0])
    hits = np.array([correct for _, correct in scored], dtype=float)
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_from_here * hits).sum() / sum(int((labels == label).sum()) for labels in shapes.labels))


def run(network: str, *, steps: int, size: int, seed: int, neck: str = "fpn", phi: int = 0) -> str:
    """Train the head; gives a line with its loss and AP50 before and after."""
    before, losses, seconds, after = before_and_after(
        lambda: detector(network, size, neck=neck, phi=phi),
        lambda model, generator: train(model, steps, size=size, generator=generator),
        ap50,
        size=size,
        seed=seed,
    )
    layers = f" with {min(DEPTHS[phi], max_layers(size))} of D{phi}'s {DEPTHS[phi]} BiFPN layers" if neck == "bifpn" else ""
    trained = f"{network}{layers}: {steps} steps of {BATCH_SIZE} images of {size} px in {seconds:.0f} s"
    return f"{trained}; loss {losses[0]:.2f} to {losses[-1]:.2f}, AP50 {before:.3f} to {after:.3f}"


if __name__ == "__main__":
    command(run, description=__doc__, options={"neck": "fpn", "phi": 0})
