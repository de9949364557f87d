"""How a network is trained, and what came of it, in plain values; the loop itself is in `loop.py`."""

import math
from dataclasses import dataclass
from typing import Final

from nas.errors import NasError

# What the settings may be: a bracket takes the bound in, a parenthesis leaves it out.
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
    """The training recipe: the same for every network of a run."""

    epochs: int = 10
    """Passes over the training part."""
    batch_size: int = 128
    """Images a step."""
    optimizer: str = "nadamw"
    """One of timm's optimizers (timm.optim.list_optimizers())."""
    lr: float = 2e-3
    """Learning rate at the end of the warm-up; it then falls to 0 along a cosine."""
    weight_decay: float = 0.02
    """Decay of the weights a step; norms and biases have none."""
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
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation go from 1, each image its own way; 0 leaves the colours."""
    augment: str = "none"
    """none, randaugment or trivial (TrivialAugment)."""
    randaugment_ops: int = 2
    """Operations that RandAugment does on an image, its N."""
    randaugment_magnitude: int = 9
    """How strongly, from 0 to 30, its M."""
    erasing: float = 0.0
    """Share of the images in which a rectangle is erased."""
    mixup: float = 0.0
    """Alpha of mixup: pairs of images, and their classes, are blended; 0 is without."""
    cutmix: float = 0.0
    """Alpha of CutMix: a rectangle comes from another image; with both, each batch has one of them."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights, which is then what is validated and kept; 0 is without."""
    start_resolution: float = 1.0
    """Resolution of the first epoch, as a share of the network's; it grows to it linearly, by the last epoch."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16; auto takes what the device is fast at."""

    def __post_init__(self) -> None:
        for names, low, high, interval in INTERVALS:
            for name in names:
                value = getattr(self, name)
                open_low, open_high = interval[0] == "(", interval[1] == ")"
                if not (low <= value <= high) or (open_low and value == low) or (open_high and value == high):
                    raise NasError(f"train.{name}: {value!r} is not in {interval[0]}{low}, {high}{interval[1]}")
        if self.augment != "randaugment" and (self.randaugment_ops, self.randaugment_magnitude) != (2, 9):
            raise NasError(f"train.randaugment_ops and train.randaugment_magnitude do nothing with train.augment {self.augment}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise NasError(f"train.{name}: {getattr(self, name)!r} is not one of {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training part."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean cross-entropy of the epoch's steps over all processes, label smoothing and mixing included."""
    val_top1_pct: float
    """Top-1 on the search validation part after the epoch, percent."""
    val_images: int
    """Images of that part."""
    seconds: float
    """Time of training and validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What came of training one network."""

    history: tuple[Epoch, ...]
    fingerprint: str
    """Tells whether every image of the search validation part keeps the class that the last epoch's network predicts."""
    device: str
    precision: str

    @property
    def seconds(self) -> float:
        """Time of training and validation, that before a kill too."""
        return sum(epoch.seconds for epoch in self.history)

    @property
    def val_top1_pct(self) -> float:
        """Top-1 of the last epoch's network on the search validation part, percent."""
        return self.history[-1].val_top1_pct
