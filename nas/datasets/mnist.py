"""MNIST: 70,000 handwritten digits of 28 x 28 pixels; downloaded where they are not there.

Source: LeCun et al., Gradient-based learning applied to document recognition, 1998, through torchvision.datasets.MNIST.
"""

from dataclasses import dataclass
from typing import Final

from nas.datasets import Dataset, ImageData, from_torchvision


@dataclass(frozen=True, slots=True, kw_only=True)
class MNIST(Dataset):
    """54,000 images to train on, 6,000 for search validation, held out of the training files, and the 10,000 of the test."""

    root: str = "data"
    """The folder that MNIST/raw, with its four files or their archives, is in or is downloaded to."""
    name = "mnist"
    classes = tuple("0123456789")
    mean = (0.131, 0.131, 0.131)  # of the training images, grey in three equal channels
    std = (0.308, 0.308, 0.308)
    mirrors = False

    def load(self, part: str) -> ImageData:
        return from_torchvision("MNIST", self.root, part)


DATASET: Final = MNIST()
