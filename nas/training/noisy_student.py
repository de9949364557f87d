"""Noisy Student (arXiv:1911.04252): a teacher labels further images, and a student trains on these and the labelled ones.

The noise on the student is what the settings of its training say. Read next: `loop.py`, which trains on both.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.datasets import Dataset, ImageData, load_part, pixels_digest
from nas.datasets.images.splits import PARTS
from nas.datasets.images.unlabelled import UnlabelledImages, unlabelled_images
from nas.errors import NasError
from nas.training.teacher import Teacher

logger = logging.getLogger(__name__)

MIN_CONFIDENCE: Final = 0.3  # of the teacher in an image's class (section 3.1)
MOST_PER_CLASS: Final = 130_000  # images of each class that are used (section 3.1)
LABELLED_AT_ONCE: Final = 4096  # images in memory while the teacher labels them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PseudoLabelled:
    """Images of a folder that a teacher has labelled, to train on beside a dataset's own."""

    folder: Path
    side: int
    """Side of the stored images, pixels."""
    digest: str
    """A hash of all images of the folder, picked or not."""
    picked: NDArray[np.intp]
    """The places in the folder of the images that are used."""
    probabilities: NDArray[np.float32]
    """The label of each picked image, the teacher's probabilities of the dataset's classes: (picked, classes)."""
    rows: NDArray[np.intp]
    """For each time that an epoch shows an image: its place in `picked`."""
    teacher: str
    """The teacher's name."""
    min_confidence: float
    """The least probability of its class with which an image was picked."""

    @property
    def record(self) -> dict[str, Any]:
        """What a card and the identity of a checkpoint say of it."""
        numbers = {"pseudo_labelled": len(self.picked), "pseudo_labelled_an_epoch": len(self.rows)}
        return {"min_confidence": self.min_confidence, "unlabelled": self.digest, **numbers}

    def load(self) -> NDArray[np.uint8]:
        """The picked images: (picked, side, side, 3).

        Raises: NasError if the folder has other images by now.
        """
        now = unlabelled_images(self.folder, side=self.side)
        if now.digest != self.digest:
            raise NasError(f"unlabelled: the images in {self.folder} have changed; begin again")
        return now.images[self.picked]


def pseudo_labels(dataset: Dataset, folder: Path, teacher: Teacher, *, min_confidence: float) -> PseudoLabelled:
    """The images of a folder as a teacher labels them, without augmentation; those of the dataset itself are left out.

    Raises: NasError if images cannot be read, or none of them is left.
    """
    unlabelled, new = read_unlabelled(dataset, folder)
    chunks = np.array_split(new, -(-len(new) // LABELLED_AT_ONCE))
    probabilities = np.concatenate([teacher.probabilities(unlabelled.images[chunk]) for chunk in chunks])
    rows = select(probabilities, min_confidence=min_confidence)
    if not len(rows):
        highest = probabilities.max()
        raise NasError(
            f"unlabelled: the teacher is nowhere as confident as min-confidence {min_confidence:g}, and at most {highest:.2f}; "
            "lower it, or give a better teacher"
        )
    used, rows = np.unique(rows, return_inverse=True)
    labels = probabilities[used]
    picked = PseudoLabelled(
        folder=folder,
        side=unlabelled.images.shape[1],
        digest=unlabelled.digest,
        picked=new[used],
        probabilities=labels / np.maximum(labels.sum(1, keepdims=True), np.finfo(np.float32).tiny),
        rows=rows,
        teacher=teacher.name,
        min_confidence=min_confidence,
    )
    _log_counts(picked, dataset, num_images=len(unlabelled.images), num_new=len(new))
    return picked


def read_unlabelled(dataset: Dataset, folder: Path) -> tuple[UnlabelledImages, NDArray[np.intp]]:
    """(The images of a folder in the size of a dataset's, the places of those that are not the dataset's own).

    Raises: NasError if they cannot be read, cannot have that size or depth, or are all the dataset's own.
    """
    _, height, width, _ = load_part(dataset, "val").images.shape
    if height != width:
        raise NasError(f"unlabelled: dataset {dataset.name} has images of {height} x {width} pixels; they must be square")
    try:
        unlabelled = unlabelled_images(folder, side=height)
    except NasError as error:
        raise NasError(f"unlabelled: {error}") from None
    if not len(unlabelled.images):
        raise NasError(f"unlabelled: no image in {folder} can be read; give a folder of images")
    if unlabelled.bits not in (None, dataset.bits):
        raise NasError(
            f"unlabelled: the images in {folder} have {unlabelled.bits} bits and those of dataset {dataset.name} {dataset.bits}; "
            "give images of the same depth"
        )
    new = _new_images(dataset, unlabelled.images)
    if not len(new):
        raise NasError(f"unlabelled: every image in {folder} is one of dataset {dataset.name}; give a folder of other images")
    return unlabelled, new


def _new_images(dataset: Dataset, images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The places of the images whose pixels are those of no image of the dataset, in any part."""
    labelled = {pixels_digest(image) for part in PARTS for image in load_part(dataset, part).images}
    return np.array([i for i, image in enumerate(images) if pixels_digest(image) not in labelled], np.intp)


def select(probabilities: NDArray[np.float32], *, min_confidence: float) -> NDArray[np.intp]:
    """The rows of confident images, as many of each class: the most confident of a large class, those of a small one repeated.

    A class counts as many as the confident images of all classes in the mean, and at most MOST_PER_CLASS, the paper's number for
    ImageNet. A class without a confident image has none.

    Shapes: (N, classes) → (chosen,), indices of rows, class by class.
    """
    labels, confidence = probabilities.argmax(1), probabilities.max(1)
    confident = np.flatnonzero(confidence >= min_confidence)
    ranked = confident[np.argsort(-confidence[confident], kind="stable")]
    by_class = [ranked[labels[ranked] == label] for label in range(probabilities.shape[1])]
    quota = min(MOST_PER_CLASS, max(1, round(len(confident) / len(by_class))))
    return np.concatenate([np.resize(rows, quota) for rows in by_class if len(rows)] or [confident])


def with_pseudo_labelled(part: ImageData, more: PseudoLabelled | None) -> tuple[NDArray[np.uint8], Tensor, Tensor | None, Tensor]:
    """(Images, labels, targets, rows) of a training part and of the images that a teacher has labelled, if there are any.

    Targets are the probabilities of the classes, None where a teacher labels nothing; rows are what an epoch shows.
    Shapes: uint8 (N, height, width, 3), (N,), (N, classes), (shown,).
    Raises: NasError if the folder has other images by now.
    """
    labels = torch.from_numpy(part.labels)
    if more is None:
        return part.images, labels, None, torch.arange(len(part))
    soft = torch.from_numpy(more.probabilities)
    targets = torch.cat((functional.one_hot(labels, soft.shape[1]).to(soft.dtype), soft))
    rows = torch.cat((torch.arange(len(part)), len(part) + torch.from_numpy(more.rows)))
    return np.concatenate((part.images, more.load())), torch.cat((labels, soft.argmax(1))), targets, rows


def _log_counts(picked: PseudoLabelled, dataset: Dataset, *, num_images: int, num_new: int) -> None:
    """Log how many images of each class there are."""
    labels = picked.probabilities.argmax(1)
    counts = np.bincount(labels, minlength=len(dataset.classes))
    line = "unlabelled: %d images, %d of the dataset's left out, %d confident and picked; an epoch shows %d"
    logger.info(line, num_images, num_images - num_new, len(picked.picked), len(picked.rows))
    few = [f"{name} ({number:,})" for name, number in zip(dataset.classes, counts, strict=True) if number < counts.mean() / 2]
    if few:
        logger.warning("unlabelled: the teacher labels few images as %s", ", ".join(few[:5]) + ", ..." * (len(few) > 5))
