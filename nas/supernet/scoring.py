"""Scores networks by shared weights: each network with its slices, and BatchNorm statistics of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nas.datasets import Dataset, ImageData, load_part
from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.build import build
from nas.supernet.network import SharedNetwork
from nas.training.device import device_name
from nas.training.predict import Preprocess, evenly_spaced, fingerprint, mean_loss, num_correct, predict
from nas.training.settings import TrainReport

CALIBRATION_IMAGES: Final = 512  # of the training part, for BatchNorm's statistics
CALIBRATION_BATCH: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Shared weights with the images that they score networks on; made once for many networks."""

    shared: SharedNetwork
    calibration: ImageData
    """Training images, evenly spaced, on which BatchNorm's statistics are gathered."""
    held_out: ImageData
    """The search validation part."""
    preprocess: Callable[[int], Preprocess]
    """Resolution → preprocessing."""

    def score(self, architecture: Architecture) -> tuple[nn.Module, TrainReport]:
        """The network with its slice and statistics of its own, in eval mode; and what it is worth on the validation part.

        Raises: NasError for a network that does not fit into the shared weights.
        """
        model = self.network(architecture)
        logits = predict(model, self.held_out, self.preprocess(architecture.resolution))
        device = next(model.parameters()).device
        return model, TrainReport(
            history=(),
            val_top1_pct=100.0 * num_correct(logits, self.held_out) / len(self.held_out),
            val_loss=mean_loss(logits, self.held_out),
            fingerprint=fingerprint(logits),
            device=device_name(device),
            precision="float32",
        )

    def network(self, architecture: Architecture) -> nn.Module:
        """timm's module of the network with its slice and BatchNorm statistics of its own, in eval mode."""
        self.shared.become(architecture)  # which checks that it fits
        device = next(self.shared.parameters()).device
        model = build(architecture, self.shared.num_classes)
        slices = {name: part.detach().clone() for name, part in self.shared.slices_of(architecture).items()}
        model.load_state_dict(slices, strict=False, assign=True)
        model.to(device).to(memory_format=torch.channels_last)
        gather_statistics(model, self.calibration, self.preprocess(architecture.resolution))
        return model


def make_scorer(shared: SharedNetwork, dataset: Dataset) -> Scorer:
    """A scorer on a dataset's own parts.

    Raises: NasError if they cannot be read.
    """
    training = load_part(dataset, "train")
    indices = evenly_spaced(training, CALIBRATION_IMAGES)
    return Scorer(
        shared=shared,
        calibration=ImageData(images=training.images[indices], labels=training.labels[indices]),
        held_out=load_part(dataset, "val"),
        preprocess=lambda resolution: Preprocess(resolution=resolution, mean=dataset.mean, std=dataset.std),
    )


@torch.no_grad()
def gather_statistics(model: nn.Module, data: ImageData, preprocess: Preprocess) -> None:
    """Set BatchNorm's running statistics to the means over the batches of `data`; leaves the model in eval mode."""
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    device = next(model.parameters()).device
    whole = len(data) // CALIBRATION_BATCH * CALIBRATION_BATCH or len(data)  # equal batches, as each counts the same
    for images in torch.from_numpy(data.images[:whole]).split(CALIBRATION_BATCH):
        model(preprocess(images.to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def read_shared(file: Path, num_classes: int) -> SharedNetwork:
    """The shared weights in a file, on the CPU.

    Raises: NasError if it cannot be read.
    """
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise NasError(f"shared weights {file} cannot be read: {str(error).partition(chr(10))[0]}") from None
    shared = SharedNetwork({name: tuple(tensor.shape) for name, tensor in state.items()}, num_classes)
    shared.load_state_dict(state)
    return shared.to(memory_format=torch.channels_last)
