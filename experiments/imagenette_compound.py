"""Compound scaling of EfficientNet-B0 on Imagenette: top-1 against multiply-adds, at most 600 M of them; for one GPU."""

from typing import Final

from nas import Experiment, Limit, TrainSettings, objective
from nas.datasets.imagenette import Imagenette
from search_spaces.compound import CompoundSpace

EXPERIMENT: Final = Experiment(
    space=CompoundSpace(min_phi=-3.0, max_phi=1.0),
    dataset=Imagenette(size="320px", side=256),  # resolutions go from 96 to 320 px
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    limits=(Limit(objective=objective("macs_m"), high=600.0),),
    train=TrainSettings(epochs=20, batch_size=128, weight_decay=0.05, drop_rate=0.2, drop_path_rate=0.1, start_resolution=0.75),
    trials=60,
)
