"""MNIST: 70,000 handwritten digits of 28 x 28 pixels; downloaded where they are not there.

Source: LeCun et al., Gradient-based learning applied to document recognition, 1998, through torchvision.datasets.MNIST.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from nas.datasets import Dataset, ImageData, downloading, held_out_part


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
        with downloading("MNIST", self.root):
            from torchvision import datasets  # takes seconds, which only a process that trains should pay

            raw = datasets.MNIST(self.root, train=part != "test", download=True)
        grey = raw.data.numpy()
        images = np.repeat(grey[..., None], 3, axis=3)
        return held_out_part(ImageData(images=images, labels=raw.targets.numpy().astype(np.int64)), part)


DATASET: Final = MNIST()
