"""RandAugment's N and M for one network, MobileNetV3-Small at 128 px on Imagenette, as the paper finds them; for one GPU.

Source: Cubuk et al., RandAugment, arXiv:1909.13719, section 4: both are found by a search that trains the network itself.
"""

from dataclasses import replace
from typing import Final

from nas import Experiment, TrainSettings, objective, reference
from nas.datasets.imagenette import Imagenette
from search_spaces.compound import CompoundSpace

EXPERIMENT: Final = Experiment(
    space=CompoundSpace(base=replace(reference("mobilenetv3_small_100"), resolution=128), min_phi=0.0, max_phi=0.0),
    dataset=Imagenette(),
    objectives=(objective("val_top1_pct"),),
    train=TrainSettings(epochs=20, batch_size=256, lr=4e-3, weight_decay=0.05, augment="randaugment"),
    tune=("train.randaugment_ops=1..3", "train.randaugment_magnitude=0..15"),
    trials=30,
)
