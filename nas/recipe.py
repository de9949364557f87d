"""How a network is trained, and what a trial ends as, in plain values; the loop itself is in `train.py`."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from nas.errors import NasError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The training recipe: the same for every network of a run."""

    epochs: int = 10
    """Passes over the training part."""
    batch_size: int = 128
    """Images a step."""
    optimizer: str = "nadamw"
    """One of timm's optimizers (timm.optim.list_optimizers())."""
    lr: float = 2e-3
    """Learning rate at the end of the warm-up; it then falls to 0 as a cosine."""
    weight_decay: float = 0.02
    """Of weights; norms and biases have none."""
    warmup_share: float = 0.1
    """Share of the training in which the learning rate grows linearly from 0."""
    label_smoothing: float = 0.1
    """Probability taken from the true class and spread over all."""
    drop_rate: float = 0.0
    """Dropout before the classifier."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last block; it grows to it linearly from 0."""
    min_crop: float = 0.35
    """Smallest share of an image's area that a training crop keeps; 1 keeps all."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto takes what the device is fast at."""

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "min_crop": self.min_crop}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise NasError(f"train.{name}: {value!r} is not greater than 0")
        shares = {
            "label_smoothing": self.label_smoothing,
            "drop_rate": self.drop_rate,
            "drop_path_rate": self.drop_path_rate,
            "warmup_share": self.warmup_share,
        }
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise NasError(f"train.{name}: {value!r} is not from 0 to less than 1")
        if self.min_crop > 1:
            raise NasError(f"train.min_crop: {self.min_crop!r} is more than 1, the whole image")
        if not 0 <= self.weight_decay < math.inf:
            raise NasError(f"train.weight_decay: {self.weight_decay!r} is not 0 or more")
        if self.precision not in PRECISIONS:
            raise NasError(f"train.precision: {self.precision!r} is not one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training part."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean cross-entropy of the epoch's steps, label smoothing included."""
    val_top1_pct: float
    """Of the search validation part, after the epoch."""
    seconds: float
    """Of training and validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What came of training one network."""

    history: tuple[Epoch, ...]
    val_correct: int
    """Images of the search validation part that the last epoch's network classifies right."""
    val_images: int
    seconds: float
    fingerprint: str
    """Of the classes that the last epoch's network predicts for every image of the search validation part."""
    device: str
    precision: str

    @property
    def val_top1_pct(self) -> float:
        """Top-1 of the last epoch's network on the search validation part, percent."""
        return 100.0 * self.val_correct / self.val_images


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trained, or failed, trial ended as."""

    status: str
    """done or failed."""
    reason: str | None = None
    """Of a failure: oom, nan, crash or interrupted."""
    error: str | None = None
    """The failure in one sentence."""
    values: dict[str, float] = field(default_factory=dict)
    """Objective name → value, of those that need training."""
    history: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    fingerprint: str | None = None
    """Of the classes predicted for every image of the search validation part."""
    device: str = ""
    precision: str = ""
    peak_memory_mb: float | None = None
    """Of the GPU's memory, where there is one; 10^6 bytes."""

    def to_record(self) -> dict[str, Any]:
        """Plain values, as they cross a process and stand in the trial log."""
        return asdict(self)
