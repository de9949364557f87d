"""Trains shared weights: in each step one drawn network, which computes with slices of them."""

import math
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
from nas.training.settings import Epoch, TrainReport, TrainSettings

WEIGHTS_FILE: Final = "weights.safetensors"
EPOCHS_FACTOR: Final = 12  # epochs of shared weights, as a multiple of those of a network alone
OPTIMIZER: Final = "lamb"  # its step is a share of each tensor's norm, which suits tensors that are used in slices
LR: Final = 1.1e-3  # for one image a step; it grows with the root of the batch size, as in LAMB's paper (arXiv:1904.00962)
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
    """Those of `shared_settings`."""
    seed: int
    folder: Path
    """Where the checkpoint and, at the end, the weights are written."""
    images: str = ""
    """Key of the images' fingerprint; a training resumes only on the same images."""


def shared_settings(settings: TrainSettings, epochs: int | None = None, *, processes: int = 1) -> TrainSettings:
    """The settings of shared weights for networks that are trained alone with `settings`: those, with an optimizer of their own.

    `epochs` is by default EPOCHS_FACTOR times as many. Each of the `processes` gives its network a whole batch in each step.
    Dropout, stochastic depth and a moving average are left out: drawing networks regularises as much.
    """
    batch_size = processes * settings.batch_size
    return replace(
        settings,
        epochs=EPOCHS_FACTOR * settings.epochs if epochs is None else epochs,
        batch_size=batch_size,
        optimizer=OPTIMIZER,
        lr=LR * math.sqrt(batch_size),
        drop_rate=0.0,
        drop_path_rate=0.0,
        ema_decay=0.0,
    )


def train_shared(
    training: SharedTraining,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train shared weights from new ones or from the checkpoint in the folder, and write them there; the checkpoint stays.

    The epochs' top-1 is that of one random network of the space, by the statistics of each batch. In a
    torch.distributed process group every process draws networks of its own.

    Raises: what `train` raises; NasError if no random network meets the limits.
    """
    num_classes, space = len(training.dataset.classes), training.space
    draws = make_draws(space, training.feasible, seed=training.seed, examples=training.examples)
    torch.manual_seed(training.seed)
    validated = space.decode(draws.pool[0])
    shared = SharedNetwork(whole_shapes(space, num_classes), num_classes, validated=validated)

    def before_step(step: int, steps: int, rank: int) -> int:
        shared.become(architecture := draws.draw(step, steps, rank))
        return architecture.resolution

    report = train(
        shared.to(pick_device()),
        TrainSetup(
            dataset=training.dataset,
            settings=training.settings,
            resolution=validated.resolution,
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
    return report
