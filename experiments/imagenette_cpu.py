"""MobileNetV3's blocks at half width on a tenth of Imagenette, 64 px: photographs on a laptop, half a minute per network."""

from typing import Final

from nas import Experiment, TrainSettings, objective
from nas.datasets.imagenette import Imagenette
from search_spaces.mobilenetv3 import MobileNetV3Space

EXPERIMENT: Final = Experiment(
    space=MobileNetV3Space(
        width_multiple=0.5, head_multiple=0.25, skeletons=("small",), resolutions=(64,), conventions=("torch",), stem_stride=1
    ),
    dataset=Imagenette(side=80, share=0.1),
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    train=TrainSettings(epochs=5, batch_size=32, lr=6e-3),
    trials=12,
)
