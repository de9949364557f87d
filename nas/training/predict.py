"""Whole images in, classes out: what a network reads, its predictions, and a fingerprint of them."""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nas.datasets import ImageData
from nas.training.device import is_out_of_memory

EVAL_BATCH: Final = 256
EVAL_PIXELS: Final = 2**24  # of one batch, which keeps the memory of large images in bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """From bytes to what the network reads: resized to its resolution, then normalised."""

    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Whole images resized to the resolution.

        Shapes: uint8 (N, height, width, 3) → float32 (N, 3, resolution, resolution), channels_last.
        """
        rows, size = torch.empty(images.shape, device=images.device), (self.resolution, self.resolution)
        normalize_into(rows, images, *self.scale(images.shape[2], images.device))
        x = rows.permute(0, 3, 1, 2)  # a permuted NHWC array is channels_last
        if x.shape[-2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return x.contiguous(memory_format=torch.channels_last)

    def scale(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(what is added to a row of `width` pixels after it was multiplied, what it is multiplied by)."""
        mean, std = (255 * torch.tensor(value).repeat(width) for value in (self.mean, self.std))
        return (-mean / std).to(device, non_blocking=True), (1 / std).to(device, non_blocking=True)


def normalize_into(x: Tensor, pixels: Tensor, bias: Tensor, factor: Tensor) -> None:
    """`pixels` by `factor` and with `bias`, written into `x`; by rows, which is five times as fast as by the three channels.

    Shapes: x and pixels (N, height, width, 3), bias and factor (width * 3,).
    """
    rows = x.flatten(2)
    torch.addcmul(bias, rows.copy_(pixels.flatten(2)), factor, out=rows)


def predict(model: nn.Module, data: ImageData, preprocess: Preprocess) -> Tensor:
    """The logits of every image in float32, whatever precision it trained in, so that a reloaded network gives the same.

    Leaves the model in eval mode and channels_last. Shapes: (N, classes), on the CPU.
    Raises: torch.OutOfMemoryError when one image does not fit.
    """
    model.eval().to(memory_format=torch.channels_last)
    batch = max(1, min(EVAL_BATCH, EVAL_PIXELS // preprocess.resolution**2))
    while True:
        try:
            return _predict(model, data, preprocess, batch)
        except (RuntimeError, MemoryError) as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
        batch //= 2  # outside the except clause, which holds on to the memory of what failed


@torch.inference_mode()
def _predict(model: nn.Module, data: ImageData, preprocess: Preprocess, batch: int) -> Tensor:
    device, images = next(model.parameters()).device, torch.from_numpy(data.images)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        return torch.cat([model(preprocess(part.to(device))).float().cpu() for part in images.split(batch)])


def evenly(data: ImageData, most: int) -> NDArray[np.uint8]:
    """Up to `most` of the images, from the whole part, so of every class however they are sorted.

    Shapes: uint8 (N, height, width, 3).
    """
    chosen: NDArray[np.uint8] = data.images[np.unique(np.linspace(0, len(data) - 1, most).astype(int))]
    return chosen


def num_correct(logits: Tensor, data: ImageData) -> int:
    """How many images the logits put into their class."""
    return int((logits.argmax(1) == torch.from_numpy(data.labels)).sum())


def fingerprint(logits: Tensor) -> str:
    """16 hexadecimal digits that are equal when, and in practice only when, every image is put into the same class."""
    return hashlib.sha256(logits.argmax(1).numpy().tobytes()).hexdigest()[:16]
