"""CIFAR-10: 60,000 images of 32 x 32 pixels in ten classes; downloaded on first use.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision.datasets.CIFAR10.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nas.datasets import Dataset, ImageData, from_torchvision


@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR10(Dataset):
    """CIFAR-10: train 45,000 images, val 5,000 held out of the training batches, test 10,000."""

    root: Path = Path("data")
    """The folder of cifar-10-batches-py or its archive; if both are missing, they are downloaded into it."""
    name = "cifar10"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean = (0.491, 0.482, 0.447)  # of the training images
    std = (0.247, 0.243, 0.262)
    mirrors = True

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, 32, 32, 3)."""
        return from_torchvision("CIFAR10", self.root, part)


DATASET: Final = CIFAR10()
