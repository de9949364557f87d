"""The settings of a training and its report, as plain values; the loop is in `loop.py`."""

import math
from dataclasses import dataclass, replace
from typing import Final

from nas.errors import NasError
from nas.models.network import absolute_name

# Allowed intervals of settings; `[` and `]` include the bound, `(` and `)` exclude it.
INTERVALS: Final = (
    (("epochs", "batch_size", "lr", "teacher_temperature"), 0, math.inf, "()"),
    (("weight_decay", "mixup", "cutmix"), 0, math.inf, "[)"),
    (("warmup_share", "label_smoothing", "drop_rate", "drop_path_rate", "ema_decay"), 0, 1, "[)"),
    (("min_crop", "start_resolution"), 0, 1, "(]"),
    (("color_jitter", "erasing", "teacher_share"), 0, 1, "[]"),
    (("randaugment_ops",), 1, 14, "[]"),
    (("randaugment_magnitude",), 0, 30, "[]"),
)
LAST_FILE: Final = "last.pt"  # the checkpoint of a training's last epoch
CHOICES: Final = {
    "augment": ("none", "randaugment", "trivial"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}
RANDAUGMENT: Final = "randaugment"
RANDAUGMENT_SETTINGS: Final = ("randaugment_ops", "randaugment_magnitude")
NO_TEACHER: Final = "none"
TEACHER_SETTINGS: Final = ("teacher_temperature", "teacher_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The settings of a training, the same for every network of a run.

    Source of the teacher's temperature and share: arXiv:1503.02531, section 4, the best temperature of 1, 2, 5 and 10, and a
    weight of 0.5 on the labels.

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
    teacher: str = NO_TEACHER
    """A trained network to learn from: an export's folder, a published network's name, timm:NAME, or none."""
    teacher_temperature: float = 2.0
    """Temperature at which the two networks' logits are compared: the higher, the more the less likely classes count."""
    teacher_share: float = 0.5
    """Share of the loss that compares with the teacher, 0 to 1; the rest is the loss on the labels."""

    def __post_init__(self) -> None:
        for names, low, high, interval in INTERVALS:
            for name in names:
                _check_interval(name, getattr(self, name), low, high, interval)
        if self.augment != RANDAUGMENT and (self.randaugment_ops, self.randaugment_magnitude) != (2, 9):
            raise NasError(f"train.randaugment_ops and train.randaugment_magnitude do nothing with train.augment {self.augment}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise NasError(f"train.{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")

    @property
    def is_taught(self) -> bool:
        """Whether a teacher has a share of the loss."""
        return self.teacher != NO_TEACHER and self.teacher_share > 0

    def resolved(self) -> "TrainSettings":
        """The settings with the absolute path of the teacher's folder, so that they mean the same in every folder and process."""
        return self if self.teacher == NO_TEACHER else replace(self, teacher=absolute_name(self.teacher))


def idle_settings(augment: str, teacher: str) -> tuple[str, ...]:
    """The names of the settings that have no effect with this augmentation and this teacher."""
    of_augment = () if augment == RANDAUGMENT else RANDAUGMENT_SETTINGS
    return of_augment if teacher != NO_TEACHER else (*of_augment, *TEACHER_SETTINGS)


def without_teacher(settings: TrainSettings) -> TrainSettings:
    """The same settings, for a training that has no teacher."""
    defaults = {name: getattr(TrainSettings(), name) for name in TEACHER_SETTINGS}
    return replace(settings, teacher=NO_TEACHER, **defaults)


def check_teacher_settings(settings: TrainSettings) -> None:
    """Check that a teacher and its settings have an effect.

    Raises: NasError for settings without a teacher, or a teacher without a share of the loss.
    """
    if settings.teacher == NO_TEACHER and settings != without_teacher(settings):
        raise NasError("train.teacher_temperature and train.teacher_share do nothing without a teacher; give --train.teacher too")
    if settings.teacher != NO_TEACHER and settings.teacher_share == 0:
        raise NasError(f"train.teacher: {settings.teacher} does nothing with train.teacher_share 0; give a higher share")


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
    """Mean loss over the epoch's steps and all processes: cross-entropy with label smoothing, mixup and CutMix; with a teacher,
    its share is the divergence from the teacher."""
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
