"""Decodes an image file into a square of RGB pixels of 8 bits.

Images of 8 bits are scaled from 0 to 255. Deep images, of one channel with 16 or 32 bits, do not say which values they use, so
all of a dataset are scaled by one depth, which holds their largest value.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nas.errors import NasError


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The largest value of a deep image."""

    value: float
    whole: bool
    """True if the image holds whole numbers."""


def open_image(data: bytes, side: int) -> Image.Image:
    """The first frame of an image file, upright, in its own mode.

    Any format that Pillow knows by its first bytes. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is at least `side`.
    An orientation that cannot be read turns nothing.

    Raises: whatever Pillow raises for a damaged file.
    """
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (side, side))
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises many types, SyntaxError too, for EXIF that it cannot parse
        return image


def top_of(image: Image.Image) -> Top | None:
    """The largest value of a deep image; None for an image of 8 bits.

    Raises: NasError for values that no image has: negative ones, or some that are not finite.
    """
    if not _is_deep(image):
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


def eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Values of a depth as 8 bits: 2**bits - 1 and what is beyond becomes 255."""
    top = 2.0**bits - 1
    return np.rint(np.asarray(values, np.float32).clip(0, top) * (255 / top)).astype(np.uint8)


def square(image: Image.Image, side: int, *, bits: int) -> NDArray[np.uint8]:
    """An image as RGB, its shorter side resized to `side` pixels and the centre square cropped; a deep one is scaled by `bits`.

    Of colours with 16 bits, Pillow gives the upper 8. Transparent pixels keep their stored colour, as in torchvision and timm.

    Shapes: (side, side, 3).
    """
    return np.asarray(ImageOps.fit(_rgb(image, bits), (side, side), Image.Resampling.BICUBIC))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _rgb(image: Image.Image, bits: int) -> Image.Image:
    if _is_deep(image):  # convert() would clip them to white
        return Image.fromarray(eight_bits(np.asarray(image), bits)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a direct conversion warns of lost transparency
    return image.convert("RGB")
