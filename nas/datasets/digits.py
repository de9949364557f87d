"""1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn, without a download.

Source: UCI Optical Recognition of Handwritten Digits, through sklearn.datasets.load_digits.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from nas.datasets import Dataset, ImageData

SHARES: Final = {"val": 0.2, "test": 0.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits(Dataset):
    """Ten classes, 1,078 / 359 / 360 images for training, search validation and test, each with every class alike."""

    name = "digits"
    classes = tuple("0123456789")
    mean = (0.305, 0.305, 0.305)  # of all the images, grey in three equal channels
    std = (0.376, 0.376, 0.376)
    mirrors = False

    def load(self, part: str) -> ImageData:
        from sklearn.datasets import load_digits  # takes a second, which only a process that trains should pay
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        labels = bunch.target.astype(np.int64)
        rest, test = train_test_split(np.arange(len(labels)), test_size=SHARES["test"], random_state=0, stratify=labels)
        train, val = train_test_split(rest, test_size=SHARES["val"] / (1 - SHARES["test"]), random_state=0, stratify=labels[rest])
        chosen = {"train": train, "val": val, "test": test}[part]
        return ImageData(images=np.repeat(grey[chosen, :, :, None], 3, axis=3), labels=labels[chosen])


DATASET: Final = Digits()
