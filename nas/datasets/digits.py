"""1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships, so no download is needed.

Source: UCI Optical Recognition of Handwritten Digits, as sklearn.datasets.load_digits has it.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from nas.datasets import Dataset, ImageData, held_out_part

SHARE: Final = 0.2  # of every class for val, and for test


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits(Dataset):
    """Digits: train 1,079 images, val 359, test 359; every part has the same share of each class."""

    name = "digits"
    classes = tuple("0123456789")
    mean = (0.305, 0.305, 0.305)  # of all the images, grey in three equal channels
    std = (0.376, 0.376, 0.376)
    mirrors = False

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, 8, 8, 3)."""
        package = find_spec("sklearn")  # faster than an import, which takes a second
        assert package is not None
        assert package.origin is not None
        table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        grey = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        data = ImageData(images=np.repeat(grey, 3, axis=3), labels=table[:, -1].astype(np.int64))
        return held_out_part(data, part, missing=("val", "test"), share=SHARE)


DATASET: Final = Digits()
