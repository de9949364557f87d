"""Opens an image file as 8-bit RGB, with Pillow and NumPy alone. Each export has a copy of this file, `images.py`."""

from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps


def open_image(file: str | Path, *, bits: int = 8, side: int | None = None) -> Image.Image:
    """The first frame of an image file as upright RGB of 8 bits; with `side`, its centre square, resized to that many pixels.

    `bits` and `side` stand in card.json: the depth of images of one channel with 16 bits or more (1 for floats from 0 to 1), and
    the side at which the training kept its images.
    """
    with Path(file).open("rb") as stream:
        image = rgb(decoded(stream, side), bits)
    return image if side is None else square(image, side)


def decoded(stream: IO[bytes], side: int | None = None) -> Image.Image:
    """The first frame of an image file, upright, in its own mode.

    Any format that Pillow knows by its first bytes. With `side`, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is at
    least as large. An orientation that cannot be read turns nothing.

    Raises: whatever Pillow raises for a damaged file.
    """
    image = Image.open(stream)
    if side is not None:
        image.draft("RGB", (side, side))
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises many types, SyntaxError too, for EXIF that it cannot parse
        return image


def is_deep(image: Image.Image) -> bool:
    """True if an image has one channel of 16 or 32 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def rgb(image: Image.Image, bits: int) -> Image.Image:
    """An image as RGB of 8 bits; a deep one is scaled from 0 to 2**bits - 1.

    Of colours with 16 bits, Pillow gives the upper 8. Transparent pixels keep their stored colour, as in torchvision and timm.
    """
    if is_deep(image):  # convert() would clip them to white
        return Image.fromarray(eight_bits(np.asarray(image), bits)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a direct conversion warns of lost transparency
    return image.convert("RGB")


def eight_bits(values: Any, bits: int) -> Any:
    """An array of values of a depth as uint8: 2**bits - 1 and what is beyond becomes 255."""
    top = 2.0**bits - 1
    return np.rint(np.asarray(values, np.float32).clip(0, top) * (255 / top)).astype(np.uint8)


def square(image: Image.Image, side: int) -> Image.Image:
    """An image with its shorter side resized to `side` pixels, and the centre square cropped."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
