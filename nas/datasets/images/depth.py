"""The depth of a dataset's images: how many bits their values use.

Images of 8 bits are scaled from 0 to 255. Deep images, of one channel with 16 or 32 bits, do not say which values they use, so
all of a dataset are scaled by one depth, which holds their largest value.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.datasets.images.open_image import is_deep
from nas.errors import NasError


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The largest value of a deep image."""

    value: float
    whole: bool
    """True if the image holds whole numbers."""


def top_of(image: Image.Image) -> Top | None:
    """The largest value of a deep image; None for an image of 8 bits.

    Raises: NasError for values that no image has: negative ones, or some that are not finite.
    """
    if not is_deep(image):
        return None
    values: NDArray[Any] = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise NasError("some of its values are not finite")
    if low < min(0.0, -high / 255):  # less than a level of 8 bits comes from resampling
        raise NasError(f"its values go down to {low:g}; those of an image begin at 0")
    return Top(value=high, whole=image.mode != "F")


def depth(tops: Iterable[Top]) -> int:
    """The bits of a dataset with these deep images: their values go from 0 to 2**bits - 1.

    8, 10, 12, 14, 16 and so on, whichever holds the largest value; 1 if all are floats from 0 to 1 (or a little beyond, after
    resampling); 8 without deep images.
    """
    tops = tuple(tops)
    largest = max((top.value for top in tops), default=255.0)
    if largest < 2 and not any(top.whole for top in tops):
        return 1
    bits = int(largest).bit_length()
    return max(8, bits + bits % 2)
