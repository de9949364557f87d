"""MobileNetV3's choices on Imagenette at 96 to 160 px: top-1 against multiply-adds, at most 60 M of them; for one GPU."""

from typing import Final

from nas import Experiment, Limit, TrainSettings, objective
from nas.datasets.imagenette import Imagenette
from search_spaces.mobilenetv3 import MobileNetV3Space

EXPERIMENT: Final = Experiment(
    space=MobileNetV3Space(resolutions=(160, 128, 96), conventions=("torch",)),
    dataset=Imagenette(),
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    limits=(Limit(objective=objective("macs_m"), high=60.0),),
    train=TrainSettings(epochs=20, batch_size=256, lr=4e-3, weight_decay=0.05, start_resolution=0.75),
    trials=100,
)
