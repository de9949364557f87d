"""The one training loop, read top to bottom: settings, data, model, optimizer, loop.

Imports no Ray: a network trains in any process. Read `evaluate.py` next for how a trial uses it.
"""

import hashlib
import time
from dataclasses import dataclass
from typing import Final

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from nas.datasets import Dataset, ImageData, load_part
from nas.errors import unknown
from nas.recipe import Epoch, TrainReport, TrainSettings

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EVAL_BATCH: Final = 256
EVAL_PIXELS: Final = 2**24  # of one batch, which keeps the memory of large images in bounds


class DivergedError(ArithmeticError):
    """The loss was not a number; the text says in which epoch."""


def pick_device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The device's model, as results report it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu: {torch.cpu.get_capabilities().get('cpu_name', 'unknown')}, {torch.get_num_threads()} thread(s)"


def pick_precision(wanted: str, device: torch.device) -> str:
    """The precision to compute in: `wanted`, or for `auto` what the device is fast at.

    A GPU is fast at bfloat16 from compute capability 8.0 on, at float16 before. A CPU is fast at bfloat16 only with AMX tiles:
    with AVX512-BF16 alone, MobileNetV3-Small trained 2.2 times slower than in float32 (AMD EPYC, one thread, 32 and 128 px).
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16", False) else "float32"


def check_settings(settings: TrainSettings) -> None:
    """Refuse what only the libraries that train can judge.

    Raises: NasError for an optimizer that timm does not have.
    """
    if settings.optimizer not in list_optimizers():
        raise unknown("optimizer", settings.optimizer, list_optimizers())


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
        x = self.normalize(images)
        if x.shape[-2:] == (self.resolution, self.resolution):
            return x
        size = (self.resolution, self.resolution)
        resized = functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return resized.contiguous(memory_format=torch.channels_last)

    def crop(self, images: Tensor, min_area: float, generator: torch.Generator, *, mirrors: bool) -> Tensor:
        """A crop of each image at a place of its own, of `min_area` to all of its area, resized to the resolution.

        Shapes: uint8 (N, height, width, 3) → float32 (N, 3, resolution, resolution), channels_last.
        """
        num, device = len(images), images.device
        area, across, down, flip = torch.rand(4, num, generator=generator).to(device)
        side = (min_area + (1 - min_area) * area).sqrt()  # of the crop, as a share of the image's
        theta = torch.zeros(num, 2, 3, device=device)
        theta[:, 0, 0] = torch.where((flip < 0.5) & mirrors, -side, side)
        theta[:, 1, 1] = side
        theta[:, 0, 2] = (1 - side) * (2 * across - 1)
        theta[:, 1, 2] = (1 - side) * (2 * down - 1)
        x = self.normalize(images)
        grid = functional.affine_grid(theta, [num, 3, self.resolution, self.resolution], align_corners=False)
        cut = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return cut.contiguous(memory_format=torch.channels_last)

    def normalize(self, images: Tensor) -> Tensor:
        """Shapes: uint8 (N, height, width, 3) → float32 (N, 3, height, width), channels_last."""
        mean = torch.tensor(self.mean, device=images.device) * 255
        std = torch.tensor(self.std, device=images.device) * 255
        return ((images - mean) / std).permute(0, 3, 1, 2)  # a permuted NHWC array is channels_last already


def train(
    model: nn.Module, dataset: Dataset, settings: TrainSettings, *, resolution: int, device: torch.device, seed: int
) -> TrainReport:
    """Train `model` in place on the dataset's training part; its top-1 is taken on the search validation part.

    On a CPU the same seed and number of threads give the same weights, given the same initial ones. Leaves the model in
    eval mode. Raises: DivergedError when the loss is not finite.
    """
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout and stochastic depth draw from the global generator

    images, labels = _on_device(load_part(dataset, "train"), device)
    held_out = load_part(dataset, "val")
    preprocess = Preprocess(resolution=resolution, mean=dataset.mean, std=dataset.std)

    model.to(device).to(memory_format=torch.channels_last)
    precision = pick_precision(settings.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")  # float16 gradients underflow unscaled
    batch_size = min(settings.batch_size, len(labels))
    steps = len(labels) // batch_size  # the incomplete last batch is left out: the next epoch has another order
    optimizer = create_optimizer_v2(model, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = _schedule(optimizer, settings, steps)

    history: list[Epoch] = []
    update = 0
    for epoch in range(1, settings.epochs + 1):
        epoch_started = time.perf_counter()
        model.train()
        total_loss = torch.zeros((), device=device)
        order = torch.randperm(len(labels), generator=generator).to(device)
        for chosen in order[: steps * batch_size].split(batch_size):
            x = preprocess.crop(images[chosen], settings.min_crop, generator, mirrors=dataset.mirrors)
            schedule.step_update(update)
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32"):
                loss = functional.cross_entropy(model(x), labels[chosen], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total_loss += loss.detach()
            update += 1
        train_loss = float(total_loss) / steps  # the epoch's one synchronisation before validation
        if not train_loss < float("inf"):
            raise DivergedError(
                f"the loss was {train_loss} in epoch {epoch}; a lower learning rate than {settings.lr:g} may help"
            )
        logits = predict(model, held_out, preprocess)
        correct = num_correct(logits, held_out)
        top1, seconds = 100.0 * correct / len(held_out), round(time.perf_counter() - epoch_started, 3)
        history.append(Epoch(epoch=epoch, train_loss=train_loss, val_top1_pct=top1, seconds=seconds))
    return TrainReport(
        history=tuple(history),
        val_correct=correct,
        val_images=len(held_out),
        fingerprint=fingerprint(logits),
        seconds=time.perf_counter() - started,
        device=device_name(device),
        precision=precision,
    )


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> CosineLRScheduler:
    """Linear warm-up to the learning rate, then a cosine to 0, by update; `steps` of them make an epoch."""
    total = settings.epochs * steps
    warmup = min(round(settings.warmup_share * total), total - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        warmup_t=warmup,
        warmup_lr_init=settings.lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )


@torch.inference_mode()
def predict(model: nn.Module, data: ImageData, preprocess: Preprocess) -> Tensor:
    """The logits of every image in float32, whatever precision it trained in, so that a reloaded network gives the same.

    Leaves the model in eval mode and channels_last. Shapes: (N, classes), on the CPU.
    """
    model.eval().to(memory_format=torch.channels_last)
    device = next(model.parameters()).device
    images, _ = _on_device(data, device)
    batch = max(1, min(EVAL_BATCH, EVAL_PIXELS // preprocess.resolution**2))
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        return torch.cat([model(preprocess(part)).float().cpu() for part in images.split(batch)])


def num_correct(logits: Tensor, data: ImageData) -> int:
    """How many images the logits put into their class."""
    return int((logits.argmax(1) == torch.from_numpy(data.labels)).sum())


def fingerprint(logits: Tensor) -> str:
    """16 hexadecimal digits that are equal when, and in practice only when, every image is put into the same class."""
    return hashlib.sha256(logits.argmax(1).numpy().tobytes()).hexdigest()[:16]


def _on_device(data: ImageData, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
