"""Augmentation: random crops and flips of a whole batch on the training device, and torchvision's transforms per image.

By default, only crops and flips are on. Crops are drawn on the CPU, so that they are the same on every device.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torchvision.transforms import v2

from nas.training.predict import Preprocess, normalize_into
from nas.training.settings import TrainSettings

ATTEMPTS: Final = 10  # draws per crop, as in torchvision.transforms.RandomResizedCrop
LOG_RATIO: Final = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3, as in RandomResizedCrop
AREA_SCALE: Final = 1.5  # on a CPU, crops longer than this times the input's side are resized by area, others bilinearly
CPU_CHUNK: Final = 16  # images that a CPU processes at a time, few enough for its cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crops of stored images, flipped, augmented by the settings and normalised."""

    preprocess: Preprocess
    settings: TrainSettings
    mirrors: bool
    """True to flip half of the images horizontally."""

    def draw(self, num: int, stored: tuple[int, int], generator: Generator) -> Tensor:
        """Random crops and flips for `num` images of `stored` (height, width) pixels, on the CPU.

        Shapes: (num, 5) int64: top, left, height, width, and 1 to flip the image.
        """
        boxes = random_crops(num, *stored, min_area=self.settings.min_crop, generator=generator)
        chance = torch.rand(4, num, generator=generator)  # only row 0 is used; fewer rows would change later draws of a seed
        return torch.cat((boxes, ((chance[:1] < 0.5) & self.mirrors).T.long()), 1)

    def __call__(self, images: Tensor, indices: Tensor, crops: Tensor) -> Tensor:
        """The network's input for the images at `indices`; per-image transforms draw from torch's global generator.

        Shapes: images uint8 (all, height, width, 3), indices int64 (N,) on the CPU, crops (N, 5) → float32
        (N, 3, resolution, resolution), channels_last.
        """
        on_cpu, side = images.device.type == "cpu", self.preprocess.resolution
        x = torch.empty(len(indices), side, side, 3, device=images.device)
        bias, factor = self.preprocess.scale(side, images.device)
        crop, chunk = (crop_on_cpu, CPU_CHUNK) if on_cpu else (crop_on_gpu, len(indices))
        transform = _transform(self.settings)
        for start in range(0, len(indices), chunk):
            part = slice(start, start + chunk)
            pixels = crop(images, indices[part], crops[part], resolution=side)
            if transform is not None:
                pixels = torch.stack([transform(image) for image in pixels.permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)
            normalize_into(x[part], pixels, bias, factor)
        x = x.permute(0, 3, 1, 2)  # a permuted NHWC array is channels_last
        if self.settings.erasing:
            erase = v2.RandomErasing(self.settings.erasing, value="random", inplace=True)
            for image in x:
                erase(image)
        return x


def _transform(settings: TrainSettings) -> v2.Transform | None:
    """The transform of one uint8 image; None if the settings ask for none."""
    transforms: list[v2.Transform] = []
    if settings.color_jitter:
        transforms.append(v2.ColorJitter(*[settings.color_jitter] * 3))  # brightness, contrast, saturation
    if settings.augment == "randaugment":
        transforms.append(v2.RandAugment(settings.randaugment_ops, settings.randaugment_magnitude))
    if settings.augment == "trivial":
        transforms.append(v2.TrivialAugmentWide())
    return v2.Compose(transforms) if transforms else None


def random_crops(num: int, height: int, width: int, *, min_area: float, generator: Generator) -> Tensor:
    """Crops distributed as in torchvision's RandomResizedCrop: area from `min_area` to 1 of the image, aspect 3:4 to 4:3.

    Shapes: (num, 4) int64: top, left, height, width.
    """
    area, log_ratio, across, down = torch.rand(4, num, ATTEMPTS, generator=generator, dtype=torch.float64)
    area, ratio = height * width * (min_area + (1 - min_area) * area), torch.exp(LOG_RATIO * (2 * log_ratio - 1))
    w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)  # index of the first attempt that fits
    w, h, across, down, fits = (attempts.gather(1, first)[:, 0] for attempts in (w, h, across, down, fits))
    whole_w, whole_h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    w, h = torch.where(fits, w, whole_w), torch.where(fits, h, whole_h)  # if none fits: the largest centre crop
    left = torch.where(fits, (across * (width - w + 1)).long(), (width - w) // 2)
    top = torch.where(fits, (down * (height - h + 1)).long(), (height - h) // 2)
    return torch.stack((top, left, h, w), 1)


def crop_on_cpu(images: Tensor, indices: Tensor, crops: Tensor, *, resolution: int) -> Tensor:
    """Each image's crop, resized and flipped by OpenCV, the fastest way on a CPU.

    Shapes: images uint8 (all, height, width, 3), indices (N,), crops (N, 5) → uint8 (N, resolution, resolution, 3).
    Raises: MemoryError if OpenCV runs out of memory.
    """
    import cv2  # not needed to train on a GPU

    stored, unflipped = images.numpy(), np.empty((resolution, resolution, 3), np.uint8)
    cropped = torch.empty(len(indices), resolution, resolution, 3, dtype=torch.uint8)
    try:
        for out, index, crop in zip(cropped.numpy(), indices.tolist(), crops.tolist(), strict=True):
            _crop_into(out, stored[index], crop, unflipped)
    except cv2.error as error:  # crops lie inside the image, so only memory can be missing
        raise MemoryError(str(error)) from error
    return cropped


def _crop_into(out: NDArray[np.uint8], image: NDArray[np.uint8], crop: list[int], unflipped: NDArray[np.uint8]) -> None:
    """Write one image's crop into `out`; `unflipped` is a buffer of the same shape."""
    import cv2

    top, left, height, width, flip = crop
    box = image[top : top + height, left : left + width]
    interpolation = cv2.INTER_AREA if max(height, width) > AREA_SCALE * len(out) else cv2.INTER_LINEAR
    cv2.resize(box, (len(out), len(out)), dst=unflipped if flip else out, interpolation=interpolation)
    if flip:
        cv2.flip(unflipped, 1, dst=out)


def crop_on_gpu(images: Tensor, indices: Tensor, crops: Tensor, *, resolution: int) -> Tensor:
    """Each image's crop, resized and flipped by two matrix products per batch; fast on a GPU, correct on any device.

    Shapes: images uint8 (all, height, width, 3), indices (N,), crops (N, 5) → uint8 (N, resolution, resolution, 3).
    """
    device = images.device
    _, height, width, _ = images.shape
    crops = crops.to(device, non_blocking=True)
    top, left, crop_height, crop_width, flip = crops.float().unbind(1)
    rows = _weights(top, crop_height, height, resolution)
    columns = _weights(left, crop_width, width, resolution)
    columns = torch.where(flip[:, None, None] > 0, columns.flip(1), columns)
    pixels = images[indices.to(device, non_blocking=True)].float().flatten(2)
    by_row = torch.bmm(rows, pixels).view(len(indices), resolution, width, 3)
    return torch.einsum("nxw,nywc->nyxc", columns, by_row).round_().clamp_(0, 255).to(torch.uint8)


def _weights(start: Tensor, size: Tensor, stored: int, resolution: int) -> Tensor:
    """The weight of each stored pixel in each new pixel: bilinear, and antialiased where the image shrinks.

    Shapes: (N,), (N,) → (N, resolution, stored).
    """
    scale = (size / resolution)[:, None, None]
    new = torch.arange(resolution, device=start.device)[None, :, None] + 0.5
    pixel = torch.arange(stored, device=start.device)[None, None, :] + 0.5
    first = start[:, None, None]
    weights = (1 - (pixel - first - new * scale).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (pixel > first) & (pixel < first + size[:, None, None])
    return weights / weights.sum(2, keepdim=True)
