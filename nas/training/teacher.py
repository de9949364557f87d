"""A teacher: a trained network whose logits a student learns beside the labels (knowledge distillation, arXiv:1503.02531).

It sees the very images that the student sees, cropped, augmented and mixed alike (a consistent teacher, arXiv:2106.05237).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nas.datasets import Dataset, ImageData
from nas.errors import NasError
from nas.models.export_folder import read_export, with_weights
from nas.models.network import TIMM, WEIGHTS_FILE, export_folder, find_network
from nas.models.pretrained import pretrained_classes, pretrained_config, pretrained_model
from nas.models.zoo import references
from nas.training.predict import Preprocess, predict

OTHERS: Final = "give another teacher: an export's folder, a published network's name or timm:NAME"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A trained network that never changes: it stays in eval mode and gets no gradients."""

    name: str
    """The id of the network and a digest of its weights, its classes and its preprocessing, wherever its folder is."""
    network: nn.Module
    preprocess: Preprocess
    """How the network's own input is made; a student's may be another."""
    outputs: Tensor
    """For each class of the dataset, the index of the network's logit: int64 (classes,)."""

    @torch.no_grad()
    def logits(self, x: Tensor, preprocess: Preprocess) -> Tensor:
        """The logits of the dataset's classes for a student's input `x`, which `preprocess` made.

        Shapes: (N, 3, resolution, resolution) → (N, classes).
        """
        own, side = self.preprocess, self.preprocess.resolution
        mean, std, own_mean, own_std = (
            torch.tensor(values)[:, None, None].to(x.device, non_blocking=True)
            for values in (preprocess.mean, preprocess.std, own.mean, own.std)
        )
        views = x * (std / own_std) + (mean - own_mean) / own_std
        if x.shape[-1] != side:
            views = functional.interpolate(views, (side, side), mode="bilinear", antialias=True, align_corners=False)
        logits: Tensor = self.network(views.contiguous(memory_format=torch.channels_last))
        return logits[:, self.outputs]

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability of each class of the dataset among all that the network has, for whole images without augmentation.

        Shapes: uint8 (N, height, width, 3) → (N, classes), whose rows add up to 1 or less.
        """
        data = ImageData(images=images, labels=np.zeros(len(images), np.int64))
        logits = predict(self.network, data, self.preprocess)
        return logits.softmax(1)[:, self.outputs.cpu()].numpy()


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The divergence of the student's probabilities from the teacher's at a temperature, nat; mean of the images.

    The factor temperature² keeps the gradients as large as those of the loss on the labels. Source: arXiv:1503.02531, section 2.

    Shapes: (N, classes), (N, classes) → ().
    """
    student_log, teacher_log = ((logits.float() / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


def load_teacher(name: str, dataset: Dataset, device: torch.device) -> Teacher:
    """The teacher that a setting names: an export's folder, a published network or one of timm's, whose weights timm downloads.

    Raises: NasError if there is no such network, its weights are missing or damaged, or it lacks a class of the dataset.
    """
    try:
        folder = export_folder(name)
        if folder is None:
            teacher = _from_timm(name, dataset)
        else:
            network, classes, card = read_export(folder)
            how = Preprocess(resolution=network.resolution, **{key: tuple(card["preprocess"][key]) for key in ("mean", "std")})
            outputs = _outputs(name, classes, dataset, advice="give a teacher that was trained on these classes")
            teacher = _frozen(network.id, with_weights(network, len(classes), folder / WEIGHTS_FILE), how, outputs)
    except NasError as error:
        raise NasError(f"train.teacher: {error}") from None
    teacher.network.to(device)
    return Teacher(name=teacher.name, network=teacher.network, preprocess=teacher.preprocess, outputs=teacher.outputs.to(device))


def _from_timm(name: str, dataset: Dataset) -> Teacher:
    if name not in references() and not name.startswith(TIMM):
        if "/" in name and not Path(name).exists():
            raise NasError(f"there is no folder {name}; put it back, or {OTHERS}")
        find_network(name)  # raises if there is no such file
        raise NasError(f"{name} is an architecture without weights; {OTHERS}")
    network = find_network(name)
    config = pretrained_config(network, instead=OTHERS)
    advice = f"train it on these images first, with `nas train {name} --weights pretrained`, and give the folder that this writes"
    outputs = _outputs(name, pretrained_classes(config), dataset, advice=advice)
    how = Preprocess(resolution=network.resolution, mean=tuple(config.mean), std=tuple(config.std))
    return _frozen(network.id, pretrained_model(network, instead=OTHERS), how, outputs)


def _outputs(name: str, classes: list[str], dataset: Dataset, *, advice: str) -> Tensor:
    """For each class of the dataset, the index of the teacher's; ImageNet's are named as the folders of their images.

    Raises: NasError for a class that the teacher lacks.
    """
    index = {one: i for i, one in enumerate(classes)}
    names = next((names for names in (dataset.classes, dataset.class_folders) if index.keys() >= {*names}), None)
    if names is None:
        lacking = next(one for one in dataset.classes if one not in index)
        has = f"{len(classes):,} classes, such as {classes[0]}" if classes else "classes that are not known"
        raise NasError(f"{name} has {has}, and lacks {lacking}, a class of dataset {dataset.name}; {advice}")
    return torch.tensor([index[one] for one in names])


def _frozen(network_id: str, network: nn.Module, preprocess: Preprocess, outputs: Tensor) -> Teacher:
    digest: Any = hashlib.sha256(repr((preprocess, outputs.tolist())).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    network.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    name = f"{network_id} ({digest.hexdigest()[:16]})"
    return Teacher(name=name, network=network, preprocess=preprocess, outputs=outputs)
