"""Training batches: cut out of the stored images a whole batch at a time, each image its own way, where they are trained on.

Searches do no more. Colours and operations, which only a full training may ask for, are torchvision's, an image at a time.
Crops are drawn on the CPU, so that they are the same on every device.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from nas.training.predict import Preprocess, normalize_into
from nas.training.settings import TrainSettings

ATTEMPTS: Final = 10  # as torchvision.transforms.RandomResizedCrop
LOG_RATIO: Final = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3, as there
AREA_SCALE: Final = 1.5  # a crop is averaged, not sampled, when it is this much longer than the network's input
CPU_CHUNK: Final = 16  # images that a CPU works on at once, so that they stay in its cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crops of stored images, mirrored, augmented as the settings say, and normalised."""

    preprocess: Preprocess
    settings: TrainSettings
    mirrors: bool

    def draw(self, num: int, stored: tuple[int, int], generator: Generator) -> Tensor:
        """Crops of `num` images that are stored at (height, width) pixels, on the CPU.

        Shapes: (num, 5) int64: top, left, height, width, and 1 for an image to mirror.
        """
        boxes = random_boxes(num, *stored, min_area=self.settings.min_crop, generator=generator)
        chance = torch.rand(4, num, generator=generator)  # three rows are not needed, but keep a seed's training what it was
        return torch.cat((boxes, ((chance[:1] < 0.5) & self.mirrors).T.long()), 1)

    def __call__(self, images: Tensor, chosen: Tensor, crops: Tensor) -> Tensor:
        """The chosen images as what the network reads in training; torch's global generator decides on colours and operations.

        Shapes: uint8 (all, height, width, 3), int64 (N,) on the CPU → float32 (N, 3, resolution, resolution), channels_last.
        """
        on_cpu, side = images.device.type == "cpu", self.preprocess.resolution
        x = torch.empty(len(chosen), side, side, 3, device=images.device)
        bias, factor = self.preprocess.scale(side, images.device)
        cut, at_once = (cut_on_cpu, CPU_CHUNK) if on_cpu else (cut_on_gpu, len(chosen))
        change = _transform(self.settings)
        for start in range(0, len(chosen), at_once):
            part = slice(start, min(start + at_once, len(chosen)))
            pixels = cut(images, chosen[part], crops[part], resolution=side)
            if change is not None:
                pixels = torch.stack([change(image) for image in pixels.permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)
            normalize_into(x[part], pixels, bias, factor)
        x = x.permute(0, 3, 1, 2)  # a permuted NHWC array is channels_last
        if self.settings.erasing:
            erase = v2.RandomErasing(self.settings.erasing, value="random", inplace=True)
            for image in x:
                erase(image)
        return x


def _transform(settings: TrainSettings) -> v2.Transform | None:
    """What changes the bytes of one image; None where nothing does."""
    transforms: list[v2.Transform] = []
    if settings.color_jitter:
        transforms.append(v2.ColorJitter(*[settings.color_jitter] * 3))  # of brightness, contrast and saturation
    if settings.augment == "randaugment":
        transforms.append(v2.RandAugment(settings.randaugment_ops, settings.randaugment_magnitude))
    if settings.augment == "trivial":
        transforms.append(v2.TrivialAugmentWide())
    return v2.Compose(transforms) if transforms else None


def random_boxes(num: int, height: int, width: int, *, min_area: float, generator: Generator) -> Tensor:
    """Crops as torchvision's RandomResizedCrop draws them: area from `min_area` of the image to all, aspect from 3:4 to 4:3.

    Shapes: (num, 4) int64: top, left, height, width.
    """
    area, log_ratio, across, down = torch.rand(4, num, ATTEMPTS, generator=generator, dtype=torch.float64)
    area, ratio = height * width * (min_area + (1 - min_area) * area), torch.exp(LOG_RATIO * (2 * log_ratio - 1))
    w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)  # the first attempt that fits
    w, h, across, down, fits = (attempts.gather(1, first)[:, 0] for attempts in (w, h, across, down, fits))
    whole_w, whole_h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    w, h = torch.where(fits, w, whole_w), torch.where(fits, h, whole_h)  # none fits: the middle, as large as the ratio allows
    left = torch.where(fits, (across * (width - w + 1)).long(), (width - w) // 2)
    top = torch.where(fits, (down * (height - h + 1)).long(), (height - h) // 2)
    return torch.stack((top, left, h, w), 1)


def cut_on_cpu(images: Tensor, chosen: Tensor, crops: Tensor, *, resolution: int) -> Tensor:
    """Each image's box, resized and mirrored, by OpenCV, which does this fastest on a CPU.

    Shapes: uint8 (all, height, width, 3) → uint8 (N, resolution, resolution, 3).
    """
    import cv2  # a process that trains on a GPU does without

    stored, size, long = images.numpy(), (resolution, resolution), AREA_SCALE * resolution
    cut = torch.empty(len(chosen), resolution, resolution, 3, dtype=torch.uint8)
    out, unmirrored = cut.numpy(), np.empty((resolution, resolution, 3), np.uint8)
    try:
        for to, at, (top, left, height, width, mirror) in zip(out, chosen.tolist(), crops.tolist(), strict=True):
            box = stored[at, top : top + height, left : left + width]
            way = cv2.INTER_AREA if height > long or width > long else cv2.INTER_LINEAR
            cv2.resize(box, size, dst=unmirrored if mirror else to, interpolation=way)
            if mirror:
                cv2.flip(unmirrored, 1, dst=to)
    except cv2.error as error:  # with boxes inside the image, only memory can be missing
        raise MemoryError(str(error)) from error
    return cut


def cut_on_gpu(images: Tensor, chosen: Tensor, crops: Tensor, *, resolution: int) -> Tensor:
    """Each image's box, resized and mirrored, as two matrix products a batch; right on any device, fast on a GPU.

    Shapes: uint8 (all, height, width, 3) → uint8 (N, resolution, resolution, 3).
    """
    device = images.device
    _, height, width, _ = images.shape
    crops = crops.to(device, non_blocking=True)
    top, left, box_height, box_width, mirrored = crops.float().unbind(1)
    rows = _weights(top, box_height, height, resolution)
    columns = _weights(left, box_width, width, resolution)
    columns = torch.where(mirrored[:, None, None] > 0, columns.flip(1), columns)
    pixels = images[chosen.to(device, non_blocking=True)].float().flatten(2)
    by_row = torch.bmm(rows, pixels).view(len(chosen), resolution, width, 3)
    return torch.einsum("nxw,nywc->nyxc", columns, by_row).round_().clamp_(0, 255).to(torch.uint8)


def _weights(start: Tensor, size: Tensor, stored: int, resolution: int) -> Tensor:
    """How much each stored pixel counts in each new one: bilinear, widened where the image shrinks (antialiasing).

    Shapes: (N,), (N,) → (N, resolution, stored).
    """
    scale = (size / resolution)[:, None, None]
    new = torch.arange(resolution, device=start.device)[None, :, None] + 0.5
    pixel = torch.arange(stored, device=start.device)[None, None, :] + 0.5
    first = start[:, None, None]
    weights = (1 - (pixel - first - new * scale).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (pixel > first) & (pixel < first + size[:, None, None])
    return weights / weights.sum(2, keepdim=True)
