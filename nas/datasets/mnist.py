"""MNIST: 70,000 handwritten digits of 28 x 28 pixels; downloaded on first use.

Source: LeCun et al., Gradient-based learning applied to document recognition, 1998, through torchvision.datasets.MNIST.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nas.datasets import Dataset, ImageData, from_torchvision


@dataclass(frozen=True, slots=True, kw_only=True)
class MNIST(Dataset):
    """MNIST: train 54,000 images, val 6,000 held out of the training files, test 10,000."""

    root: Path = Path("data")
    """The folder of MNIST/raw, with its four files or their archives; missing files are downloaded into it."""
    name = "mnist"
    classes = tuple("0123456789")
    mean = (0.131, 0.131, 0.131)  # of the training images, grey in three equal channels
    std = (0.308, 0.308, 0.308)
    mirrors = False

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, 28, 28, 3)."""
        return from_torchvision("MNIST", self.root, part)


DATASET: Final = MNIST()
