"""Training batches, cut out of the stored images and augmented on the device, a whole batch at a time, each image its own way.

Chance is drawn on the CPU, so that it is the same on every device, and nothing here waits for a GPU. Read `train.py` next.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from timm.data.random_erasing import RandomErasing
from torch import Generator, Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as tv

from nas.predict import Preprocess, normalize_into
from nas.recipe import TrainSettings

ATTEMPTS: Final = 10  # as torchvision.transforms.RandomResizedCrop
LOG_RATIO: Final = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3, as there
AREA_SCALE: Final = 1.5  # a crop is averaged, not sampled, when it is this much longer than the network's input
CPU_CHUNK: Final = 16  # images that a CPU works on at once, so that they stay in its cache
LEVELS: Final = 30  # the highest magnitude of RandAugment and TrivialAugment
GREY: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision

# Operations of RandAugment (arXiv:1909.13719) and TrivialAugment Wide (arXiv:2103.10158), in torchvision's order.
GEOMETRIC: Final = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OPERATIONS: Final = (
    "identity",
    *GEOMETRIC,
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """What an operation does at the highest magnitude; torchvision's values."""

    shear: float
    translate: Callable[[int], float]
    """Side of the image, pixels → pixels."""
    degrees: float
    blend: float
    bits: int
    """That posterize takes away."""


STRENGTHS: Final = {
    "randaugment": Strength(shear=0.3, translate=lambda side: side * 150 / 331, degrees=30, blend=0.9, bits=4),
    "trivial": Strength(shear=0.99, translate=lambda side: 32, degrees=135, blend=0.99, bits=6),  # noqa: ARG005
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What chance decided for each image of a batch; all on the CPU."""

    boxes: Tensor
    """(N, 4): top, left, height and width of the crop, pixels."""
    mirrored: Tensor
    """(N,) bool."""
    jitter: Tensor
    """(N, 3): factors of brightness, contrast and saturation."""
    operations: Tensor
    """(rounds, N): positions in OPERATIONS."""
    magnitudes: Tensor
    """(rounds, N): from -1 to 1."""

    def __getitem__(self, chosen: slice) -> "Draws":
        return Draws(
            boxes=self.boxes[chosen],
            mirrored=self.mirrored[chosen],
            jitter=self.jitter[chosen],
            operations=self.operations[:, chosen],
            magnitudes=self.magnitudes[:, chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crops of stored images, mirrored, augmented as the settings say, and normalised."""

    preprocess: Preprocess
    settings: TrainSettings
    mirrors: bool

    def draw(self, num: int, stored: tuple[int, int], generator: Generator) -> Draws:
        """Chance for `num` images that are stored at (height, width) pixels."""
        settings = self.settings
        rounds = {"none": 0, "randaugment": settings.randaugment_ops, "trivial": 1}[settings.augment]
        level = torch.full((rounds, num), settings.randaugment_magnitude)
        if settings.augment == "trivial":
            level = torch.randint(0, LEVELS + 1, (rounds, num), generator=generator)
        sign = torch.randint(0, 2, (rounds, num), generator=generator) * 2 - 1
        return Draws(
            boxes=random_boxes(num, *stored, min_area=settings.min_crop, generator=generator),
            mirrored=(torch.rand(num, generator=generator) < 0.5) & self.mirrors,
            jitter=1 + settings.color_jitter * (2 * torch.rand(num, 3, generator=generator) - 1),
            operations=torch.randint(0, len(OPERATIONS), (rounds, num), generator=generator),
            magnitudes=sign * level / LEVELS,
        )

    def __call__(self, images: Tensor, chosen: Tensor, draws: Draws) -> Tensor:
        """The chosen images as what the network reads in training.

        Shapes: uint8 (all, height, width, 3), int64 (N,) on the CPU → float32 (N, 3, resolution, resolution), channels_last.
        """
        on_cpu, side = images.device.type == "cpu", self.preprocess.resolution
        x = torch.empty(len(chosen), side, side, 3, device=images.device)
        bias, factor = self.preprocess.scale(side, images.device)
        cut, at_once = (cut_on_cpu, CPU_CHUNK) if on_cpu else (cut_on_gpu, len(chosen))
        for start in range(0, len(chosen), at_once):
            part = slice(start, min(start + at_once, len(chosen)))
            drawn = draws[part]
            pixels = cut(images, chosen[part], drawn.boxes, drawn.mirrored, resolution=side)
            if len(draws.operations) or self.settings.color_jitter:
                pixels = self._change(pixels, drawn)
            normalize_into(x[part], pixels, bias, factor)
        x = x.permute(0, 3, 1, 2)  # a permuted NHWC array is channels_last
        if self.settings.erasing:
            x = RandomErasing(self.settings.erasing, mode="pixel", device=x.device.type)(x)
        return x

    def _change(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Colours and operations. Shapes: uint8 → float32 from 0 to 255, both (N, resolution, resolution, 3)."""
        x = pixels.permute(0, 3, 1, 2).float().contiguous()  # by channel, which is three times as fast here
        if self.settings.color_jitter:
            x = jitter_colors(x, draws.jitter.to(x.device, non_blocking=True))
        for operations, magnitudes in zip(draws.operations, draws.magnitudes, strict=True):
            x = operate(x, operations, magnitudes, STRENGTHS[self.settings.augment])
        return x.permute(0, 2, 3, 1)


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


def cut_on_cpu(images: Tensor, chosen: Tensor, boxes: Tensor, mirrored: Tensor, *, resolution: int) -> Tensor:
    """Each image's box, resized and mirrored, by OpenCV, which does this fastest on a CPU.

    Shapes: uint8 (all, height, width, 3) → uint8 (N, resolution, resolution, 3).
    """
    import cv2  # a process that trains on a GPU does without

    stored, size, long = images.numpy(), (resolution, resolution), AREA_SCALE * resolution
    cut = torch.empty(len(chosen), resolution, resolution, 3, dtype=torch.uint8)
    out, unmirrored = cut.numpy(), np.empty((resolution, resolution, 3), np.uint8)
    plan = zip(out, chosen.tolist(), boxes.tolist(), mirrored.tolist(), strict=True)
    try:
        for to, at, (top, left, height, width), mirror in plan:
            box = stored[at, top : top + height, left : left + width]
            way = cv2.INTER_AREA if height > long or width > long else cv2.INTER_LINEAR
            cv2.resize(box, size, dst=unmirrored if mirror else to, interpolation=way)
            if mirror:
                cv2.flip(unmirrored, 1, dst=to)
    except cv2.error as error:  # with boxes inside the image, only memory can be missing
        raise MemoryError(str(error)) from error
    return cut


def cut_on_gpu(images: Tensor, chosen: Tensor, boxes: Tensor, mirrored: Tensor, *, resolution: int) -> Tensor:
    """Each image's box, resized and mirrored, as two matrix products a batch; right on any device, fast on a GPU.

    Shapes: uint8 (all, height, width, 3) → uint8 (N, resolution, resolution, 3).
    """
    device = images.device
    _, height, width, _ = images.shape
    top, left, box_height, box_width = boxes.to(device, non_blocking=True).float().unbind(1)
    rows = _weights(top, box_height, height, resolution)
    columns = _weights(left, box_width, width, resolution)
    columns = torch.where(mirrored.to(device, non_blocking=True)[:, None, None], columns.flip(1), columns)
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


def jitter_colors(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, then saturation, each by its image's factor; 1 changes nothing.

    Shapes: (N, 3, height, width) from 0 to 255, (N, 3).
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    return _saturate(_contrast(_brighten(x, brightness), contrast), saturation)


def operate(x: Tensor, operations: Tensor, magnitudes: Tensor, strength: Strength) -> Tensor:
    """One operation on each image.

    Shapes: (N, 3, side, side) from 0 to 255, (N,) positions in OPERATIONS, (N,) from -1 to 1; both on the CPU.
    """
    is_geometric = torch.isin(operations, torch.tensor([OPERATIONS.index(name) for name in GEOMETRIC]))
    chosen = is_geometric.nonzero()[:, 0]
    out = x.clone(memory_format=torch.preserve_format)
    if len(chosen):
        theta = _affine(operations[chosen], magnitudes[chosen], x.shape[-1], strength)
        at = chosen.to(x.device, non_blocking=True)
        out[at] = _warp(x[at], theta.to(x.device, non_blocking=True))
    for name, operation in COLOR_OPERATIONS.items():
        chosen = (operations == OPERATIONS.index(name)).nonzero()[:, 0]
        if len(chosen):
            at, magnitude = chosen.to(x.device, non_blocking=True), magnitudes[chosen].to(x.device, non_blocking=True)
            out[at] = operation(x[at], magnitude[:, None, None, None], strength)
    return out


def _affine(operations: Tensor, magnitudes: Tensor, side: int, strength: Strength) -> Tensor:
    """The map from new to old places, in the coordinates from -1 to 1 of torch's affine_grid.

    Shapes: (N,), (N,) → (N, 2, 3).
    """
    theta = torch.eye(2, 3).repeat(len(operations), 1, 1)
    kind = {name: operations == OPERATIONS.index(name) for name in GEOMETRIC}
    shear = magnitudes * strength.shear
    pixels = (magnitudes * strength.translate(side)).trunc()
    angle = torch.deg2rad(magnitudes * strength.degrees)
    theta[:, 0, 1] = torch.where(kind["shear_x"], shear, torch.where(kind["rotate"], -angle.sin(), 0.0))
    theta[:, 1, 0] = torch.where(kind["shear_y"], shear, torch.where(kind["rotate"], angle.sin(), 0.0))
    theta[:, 0, 0] = theta[:, 1, 1] = torch.where(kind["rotate"], angle.cos(), 1.0)
    # A shear leaves the first row or column in its place; -1 is where the image begins.
    theta[:, 0, 2] = torch.where(kind["shear_x"], shear, torch.where(kind["translate_x"], -2 * pixels / side, 0.0))
    theta[:, 1, 2] = torch.where(kind["shear_y"], shear, torch.where(kind["translate_y"], -2 * pixels / side, 0.0))
    return theta


def _warp(x: Tensor, theta: Tensor) -> Tensor:
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(GREY).to(x.device, non_blocking=True)[:, None, None]).sum(1, keepdim=True)


def _blend(other: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """0 is `other`, 1 is `x`, and more is beyond it."""
    return (other + (x - other) * factor).clamp_(0, 255)


def _brighten(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp_(0, 255)


def _saturate(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(x), x, factor)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(x).mean((2, 3), keepdim=True), x, factor)


def _sharpen(x: Tensor, factor: Tensor) -> Tensor:
    if min(x.shape[-2:]) < 3:
        return x
    kernel = torch.ones(3, 1, 3, 3, device=x.device)
    kernel[:, :, 1, 1] = 5
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = functional.conv2d(x, kernel / 13, groups=3)
    return _blend(smooth, x, factor)


COLOR_OPERATIONS: Final[dict[str, Callable[[Tensor, Tensor, Strength], Tensor]]] = {  # x, magnitude, strength
    "brightness": lambda x, m, s: _brighten(x, 1 + m * s.blend),
    "color": lambda x, m, s: _saturate(x, 1 + m * s.blend),
    "contrast": lambda x, m, s: _contrast(x, 1 + m * s.blend),
    "sharpness": lambda x, m, s: _sharpen(x, 1 + m * s.blend),
    "posterize": lambda x, m, s: x - x % 2.0 ** (m.abs() * s.bits).round(),
    "solarize": lambda x, m, _: torch.where(x >= 255 * (1 - m.abs()), 255 - x, x),
    "autocontrast": lambda x, _m, _s: tv.autocontrast(x / 255) * 255,
    "equalize": lambda x, _m, _s: tv.equalize(x.round().to(torch.uint8)).float(),
}
