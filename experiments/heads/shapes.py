"""Synthetic images of circles, squares and triangles with noise, with the class of every pixel and the box of every shape."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas import NasError

CLASSES: Final = ("background", "circle", "square", "triangle")
_TRIES: Final = 5  # random positions per image; one that overlaps an earlier shape is skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Images with their masks and boxes; a class is its index in CLASSES."""

    images: Tensor
    """(N, 3, size, size), from 0 to 1."""
    masks: Tensor
    """(N, size, size), the class of every pixel."""
    boxes: tuple[Tensor, ...]
    """Per image (shapes, 4): left, top, right and bottom, pixels."""
    labels: tuple[Tensor, ...]
    """Per image (shapes,): the class of each box."""


def draw(num_images: int, size: int, generator: np.random.Generator) -> Shapes:
    """Images with one to five shapes that are brighter than the background and do not overlap; colours and places are random.

    Raises: NasError for a `size` below 32 pixels.
    """
    if size < 32:
        raise NasError(f"size: {size} is not 32 pixels or more")
    drawn = [_draw_one(size, generator) for _ in range(num_images)]
    images, masks, boxes, labels = zip(*drawn, strict=True)
    return Shapes(images=torch.stack(images), masks=torch.stack(masks), boxes=boxes, labels=labels)


def _draw_one(size: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    background = generator.uniform(0, 0.5, 3).astype(np.float32)
    mask, image = np.zeros((size, size), np.int64), np.tile(background, (size, size, 1))
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(_TRIES):
        side = int(generator.integers(size // 5, size // 2))
        left, top = (int(start) for start in generator.integers(0, size - side, 2, endpoint=True))
        window = (slice(top, top + side), slice(left, left + side))
        if mask[window].any():
            continue
        label = int(generator.integers(1, len(CLASSES)))
        inside = _inside(CLASSES[label], side)
        mask[window][inside] = label
        image[window][inside] = background + generator.uniform(0.2, 0.5, 3)
        boxes.append((left, top, left + side, top + side))
        labels.append(label)
    image = (image + 0.1 * generator.standard_normal(image.shape, np.float32)).clip(0, 1)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return pixels, torch.from_numpy(mask), torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)


def _inside(name: str, side: int) -> NDArray[np.bool_]:
    """The pixels of its box that a shape covers, (side, side)."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5  # from -0.5 to 0.5
    inside: NDArray[np.bool_] = np.ones((side, side), bool)
    if name == "circle":
        inside = x**2 + y**2 <= 0.25
    elif name == "triangle":
        inside = 2 * np.abs(x) <= y + 0.5
    return inside
