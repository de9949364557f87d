"""Decodes an image file into a square of RGB pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def decode(path: Path, side: int) -> NDArray[np.uint8]:
    """The image in a file, its shorter side resized to `side` pixels and the centre square cropped.

    It is rotated by its EXIF orientation. Grey, CMYK, palette and 16-bit images become RGB. An animation gives its first frame.
    Transparent pixels keep their stored colour, as in torchvision and timm.

    Shapes: (side, side, 3).
    Raises: whatever Pillow raises for a damaged file.
    """
    with Image.open(path) as file:
        file.draft("RGB", (side, side))  # decodes a JPEG at 1/2, 1/4 or 1/8 of its size where that is large enough
        image = _rgb(ImageOps.exif_transpose(file))
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more; convert() would clip them to white
        values: NDArray[Any] = np.asarray(image, dtype=np.float32)
        top = 65535 if image.mode.startswith("I") else max(float(values.max()), 1e-9)
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a direct conversion warns of lost transparency
    return image.convert("RGB")
