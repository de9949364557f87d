"""Prediction: preprocessing of whole images, logits, and a fingerprint of the predicted classes."""

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
EVAL_PIXELS: Final = 2**24  # most pixels in one batch, which bounds the memory for large images


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Turns stored images into a network's input: normalised, and resized to its resolution."""

    resolution: int
    """Side of the network's input, pixels."""
    mean: tuple[float, float, float]
    """Mean of each channel, for pixel values from 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, for pixel values from 0 to 1."""

    def __call__(self, images: Tensor) -> Tensor:
        """Whole images as the network's input.

        Shapes: uint8 (N, height, width, 3) → float32 (N, 3, resolution, resolution), channels_last.
        """
        rows, size = torch.empty(images.shape, device=images.device), (self.resolution, self.resolution)
        normalize_into(rows, images, *self.scale(images.shape[2], images.device))
        x = rows.permute(0, 3, 1, 2)  # a permuted NHWC array is channels_last
        if x.shape[-2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return x.contiguous(memory_format=torch.channels_last)

    def scale(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(bias, factor) that normalise a row of `width` RGB pixels as row * factor + bias.

        Shapes: both (width * 3,).
        """
        mean, std = (255 * torch.tensor(value).repeat(width) for value in (self.mean, self.std))
        return (-mean / std).to(device, non_blocking=True), (1 / std).to(device, non_blocking=True)


def normalize_into(x: Tensor, pixels: Tensor, bias: Tensor, factor: Tensor) -> None:
    """Write pixels * factor + bias into `x`, a whole row at a time: five times as fast as channel by channel.

    Shapes: x and pixels (N, height, width, 3), bias and factor (width * 3,).
    """
    rows = x.flatten(2)
    torch.addcmul(bias, rows.copy_(pixels.flatten(2)), factor, out=rows)


def predict(model: nn.Module, data: ImageData, preprocess: Preprocess) -> Tensor:
    """The logits of every image, computed in float32 so that a reloaded network gives the same ones.

    Leaves the model in eval mode and channels_last.

    Shapes: (N, classes), on the CPU.
    Raises: torch.OutOfMemoryError if a single image does not fit into memory.
    """
    model.eval().to(memory_format=torch.channels_last)
    batch = max(1, min(EVAL_BATCH, EVAL_PIXELS // preprocess.resolution**2))
    while (logits := _predict(model, data, preprocess, batch)) is None:
        batch //= 2
    return logits


@torch.inference_mode()
def _predict(model: nn.Module, data: ImageData, preprocess: Preprocess, batch: int) -> Tensor | None:
    """The logits; None if a batch of several images does not fit into memory."""
    device, images = next(model.parameters()).device, torch.from_numpy(data.images)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return torch.cat([model(preprocess(part.to(device))).float().cpu() for part in images.split(batch)])
    except (RuntimeError, MemoryError) as error:
        if batch == 1 or not is_out_of_memory(error):
            raise
    return None


def evenly_spaced(data: ImageData, num: int) -> NDArray[np.intp]:
    """The indices of up to `num` images, evenly spaced over the part, which span all classes even if it is sorted by class.

    Shapes: (N,).
    """
    return np.unique(np.linspace(0, len(data) - 1, num).astype(np.intp))


def mean_loss(logits: Tensor, data: ImageData) -> float:
    """Mean cross-entropy of the images, nat."""
    return float(functional.cross_entropy(logits, torch.from_numpy(data.labels)))


def num_correct(logits: Tensor, data: ImageData) -> int:
    """The number of images whose largest logit is the one of their class."""
    return int((logits.argmax(1) == torch.from_numpy(data.labels)).sum())


def fingerprint(logits: Tensor) -> str:
    """`p` and 15 hexadecimal digits of a hash of the predicted classes: equal for two networks that predict every image alike."""
    return f"p{hashlib.sha256(logits.argmax(1).numpy().tobytes()).hexdigest()[:15]}"
