"""MnasNet's block choices on Imagenette at 128 px: top-1 against multiply-adds, at most 100 M of them; for one GPU."""

from typing import Final

from nas import Experiment, Limit, TrainSettings, objective
from nas.datasets.imagenette import Imagenette
from search_spaces.mnasnet import MnasNetSpace

EXPERIMENT: Final = Experiment(
    space=MnasNetSpace(resolution=128),
    dataset=Imagenette(),
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    limits=(Limit(objective=objective("macs_m"), high=100.0),),
    train=TrainSettings(epochs=20, batch_size=256, lr=4e-3, weight_decay=0.05, start_resolution=0.75),
    trials=100,
)
