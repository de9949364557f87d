"""Trains shared weights: in each step one drawn network, which computes with slices of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import distributed

from nas.datasets import Dataset
from nas.spaces import Params, SearchSpace
from nas.supernet.drawing import Feasible, make_draws
from nas.supernet.network import SharedNetwork
from nas.supernet.whole import whole_shapes
from nas.training.checkpoint import Checkpoints, save_weights
from nas.training.device import pick_device
from nas.training.loop import TrainSetup, train
from nas.training.settings import LAST_FILE, Epoch, TrainReport, TrainSettings

WEIGHTS_FILE: Final = "weights.safetensors"
EPOCHS_FACTOR: Final = 12  # epochs of shared weights, as a multiple of those of a network alone
CHECKPOINT_SHARE: Final = 0.05  # largest share of the time for writing checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTraining:
    """A training of the shared weights of a space."""

    space: SearchSpace
    feasible: Feasible
    """Parameters → True if the network meets the limits; others are never drawn."""
    examples: Sequence[Params] = ()
    """Feasible points, for limits that random points hardly ever meet."""
    dataset: Dataset
    settings: TrainSettings
    """Its `epochs` are those of the shared weights. Dropout and stochastic depth are not used: drawing networks does as much."""
    seed: int
    folder: Path
    """Where the checkpoint and, at the end, the weights are written."""
    images: str = ""
    """Key of the images' fingerprint; a training resumes only on the same images."""


def train_shared(
    training: SharedTraining,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train shared weights from new ones or from the checkpoint in the folder, and write them there; the checkpoint goes.

    The epochs' top-1 is that of one network in the middle of the space, by the statistics of each batch. In a
    torch.distributed process group every process draws networks of its own.

    Raises: what `train` raises; NasError if no random network meets the limits.
    """
    num_classes, space = len(training.dataset.classes), training.space
    draws = make_draws(space, training.feasible, seed=training.seed, examples=training.examples)
    torch.manual_seed(training.seed)
    shared = SharedNetwork(whole_shapes(space, num_classes), num_classes, validated=(middle := draws.middle()))

    def before_step(step: int, rank: int) -> int:
        shared.become(architecture := draws.draw(step, rank))
        return architecture.resolution

    report = train(
        shared.to(pick_device()),
        TrainSetup(
            dataset=training.dataset,
            settings=replace(training.settings, drop_rate=0.0, drop_path_rate=0.0),
            resolution=middle.resolution,
            seed=training.seed,
        ),
        checkpoints=Checkpoints(
            folder=training.folder,
            keep_best=False,
            max_share=CHECKPOINT_SHARE,
            initial_weights=f"shared weights of {space!r}",
            images=training.images,
        ),
        on_epoch=on_epoch,
        on_step=on_step,
        before_step=before_step,
    )
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        save_weights(shared, training.folder / WEIGHTS_FILE)
        (training.folder / LAST_FILE).unlink(missing_ok=True)
    return report
