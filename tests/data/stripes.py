"""A dataset and networks that are trained in a moment."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nas.datasets import Dataset, ImageData
from nas.models.architecture import Architecture
from search_spaces.mobilenetv3 import MobileNetV3Space


@dataclass(frozen=True)
class Stripes(Dataset):
    """Noise with bright stripes, down or across: two classes that only a network that sees shapes can tell apart."""

    shift: int = 0
    name = "stripes"
    classes = ("down", "across")
    mean = std = (0.5, 0.5, 0.5)
    mirrors = True

    def load(self, part: str) -> ImageData:
        labels = np.arange(96) % 2
        images = striped(labels, seed={"train": 0, "val": 1, "test": 2}[part])
        return ImageData(images=images, labels=labels.astype(np.int64))


def striped(labels, *, seed):
    """An image of 12 pixels for each label: 0 for stripes down, 1 for stripes across."""
    images = np.random.default_rng(seed).integers(0, 60, (len(labels), 12, 12, 3), dtype=np.uint8)
    images[labels == 0, :, ::4] += 180
    images[labels == 1, ::4] += 180
    return images


class TwoLayers(nn.Sequential):
    """The least network that sees shapes, with all that a training changes: weights, BatchNorm's statistics, dropout's chance."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(8, 2),
        )


def architecture() -> Architecture:
    """MobileNetV3-Small, thinned."""
    space = MobileNetV3Space(width_multiple=0.35, head_multiple=0.1, resolutions=(16,), stem_stride=1, skeletons=("small",))
    return space.decode(space.references["mobilenetv3_small_100"])


def weights(model: nn.Module) -> torch.Tensor:
    """Everything in a model's state, in one row."""
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])
