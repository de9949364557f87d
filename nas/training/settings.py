"""The settings of a training and its report, as plain values; the loop is in `loop.py`."""

import math
from dataclasses import dataclass
from typing import Final

from nas.errors import NasError

# Allowed intervals of settings; `[` and `]` include the bound, `(` and `)` exclude it.
INTERVALS: Final = (
    (("epochs", "batch_size", "lr"), 0, math.inf, "()"),
    (("weight_decay", "mixup", "cutmix"), 0, math.inf, "[)"),
    (("warmup_share", "label_smoothing", "drop_rate", "drop_path_rate", "ema_decay"), 0, 1, "[)"),
    (("min_crop", "start_resolution"), 0, 1, "(]"),
    (("color_jitter", "erasing"), 0, 1, "[]"),
    (("randaugment_ops",), 1, 14, "[]"),
    (("randaugment_magnitude",), 0, 30, "[]"),
)
LAST_FILE: Final = "last.pt"  # the checkpoint of a training's last epoch
CHOICES: Final = {
    "augment": ("none", "randaugment", "trivial"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The settings of a training, the same for every network of a run.

    Raises: NasError for a value that is not allowed.
    """

    epochs: int = 10
    """Passes over the training part."""
    batch_size: int = 128
    """Images per step."""
    optimizer: str = "nadamw"
    """One of timm's optimizers (timm.optim.list_optimizers())."""
    lr: float = 2e-3
    """Learning rate at the end of the warm-up; it then falls to 0 along a cosine."""
    weight_decay: float = 0.02
    """Weight decay; norms and biases have none."""
    warmup_share: float = 0.1
    """Share of the training's steps in which the learning rate grows linearly, from almost 0."""
    label_smoothing: float = 0.1
    """Part of the target probability that moves from the true class to all classes equally."""
    drop_rate: float = 0.0
    """Rate of dropout before the classifier."""
    drop_path_rate: float = 0.0
    """Rate of stochastic depth: of n blocks, block i, counted from 0, is dropped with probability rate * i / n."""
    min_crop: float = 0.35
    """Smallest area of a training crop, as a share of the image's area; 1 keeps a square image whole."""
    color_jitter: float = 0.0
    """Largest random relative change of brightness, contrast and saturation, per image; 0 for none."""
    augment: str = "none"
    """none, randaugment or trivial (TrivialAugment)."""
    randaugment_ops: int = 2
    """RandAugment's N: operations per image."""
    randaugment_magnitude: int = 9
    """RandAugment's M: strength of the operations, 0 to 30."""
    erasing: float = 0.0
    """Probability of random erasing, per image."""
    mixup: float = 0.0
    """Alpha of mixup, which blends pairs of images and their classes; 0 for none."""
    cutmix: float = 0.0
    """Alpha of CutMix, which pastes a rectangle of another image; 0 for none. With mixup too, each batch gets one of the two."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights, 0 for none. If there is one, it is validated and saved."""
    start_resolution: float = 1.0
    """Resolution of the first epoch as a share of the network's, growing linearly to 1 in the last epoch."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto picks the fastest for the device."""

    def __post_init__(self) -> None:
        for names, low, high, interval in INTERVALS:
            for name in names:
                _check_interval(name, getattr(self, name), low, high, interval)
        if self.augment != "randaugment" and (self.randaugment_ops, self.randaugment_magnitude) != (2, 9):
            raise NasError(f"train.randaugment_ops and train.randaugment_magnitude do nothing with train.augment {self.augment}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise NasError(f"train.{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")


def _check_interval(name: str, value: float, low: float, high: float, interval: str) -> None:
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[1] == ")" else value <= high
    if not (above and below):
        raise NasError(f"train.{name}: {value!r} is not in {interval[0]}{low}, {high}{interval[1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Results of one epoch, a pass over the training part."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean cross-entropy over the epoch's steps and all processes, with label smoothing, mixup and CutMix."""
    val_top1_pct: float
    """Top-1 on the val part after the epoch, percent."""
    val_images: int
    """Number of images of the val part."""
    seconds: float
    """Time of training and validation, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The report of one network's training."""

    history: tuple[Epoch, ...]
    """Empty for a network that was scored by shared weights."""
    val_top1_pct: float
    """Top-1 of the last epoch's network on the val part, percent."""
    val_loss: float
    """Mean cross-entropy of that network on the val part, nat."""
    fingerprint: str
    """Fingerprint of the classes that it predicts there."""
    device: str
    """Model name of the device."""
    precision: str
    """float32, bfloat16 or float16."""

    @property
    def seconds(self) -> float:
        """Time of training and validation, seconds; epochs before a resume count too."""
        return sum(epoch.seconds for epoch in self.history)
