"""MobileNetV3's blocks at small width on scikit-learn's handwritten digits, 32 px: top-1 against multiply-adds, on any laptop."""

from typing import Final

from nas import Experiment, TrainSettings, objective
from nas.datasets.digits import Digits
from search_spaces.mobilenetv3 import MobileNetV3Space

EXPERIMENT: Final = Experiment(
    space=MobileNetV3Space(
        width_multiple=0.35,
        head_multiple=0.125,
        skeletons=("small",),
        resolutions=(32, 24),
        conventions=("torch",),
        stem_stride=1,
    ),
    dataset=Digits(),
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    train=TrainSettings(epochs=10, batch_size=64, lr=4e-3, min_crop=0.6),
    trials=16,
    workers=2,
)
