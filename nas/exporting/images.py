"""Opens an image file as the network's training did, with Pillow and NumPy alone. Each export has a copy of this file."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def open_image(file: str | Path, *, bits: int = 8, side: int | None = None) -> Image.Image:
    """The first frame of an image file as upright RGB of 8 bits; with `side`, its centre square, resized to that many pixels.

    `bits` and `side` stand in card.json: the depth of images of one channel with 16 bits or more (1 for floats from 0 to 1), and
    the side at which the training kept its images.
    """
    with Image.open(file) as image:
        if side is not None:
            image.draft("RGB", (side, side))  # decodes a JPEG at 1/2, 1/4 or 1/8 of its size where that is large enough
        image.load()
        rgb = _rgb(_upright(image), bits)
    return rgb if side is None else ImageOps.fit(rgb, (side, side), Image.Resampling.BICUBIC)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises many types for an orientation that it cannot read, which turns nothing
        return image


def _rgb(image: Image.Image, bits: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # convert() would clip them to white
        top = 2.0**bits - 1
        values = np.rint(np.asarray(image, np.float32).clip(0, top) * (255 / top))
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a direct conversion warns of lost transparency
    return image.convert("RGB")
