"""Datasets: images in three parts (train, val, test), each an array with labels.

Each file here exports DATASET; the file's name is the dataset's name.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.datasets.images.fingerprint import Fingerprint
from nas.datasets.images.splits import HELD_OUT, hold_out
from nas.errors import NasError, describe_error, user_code
from nas.plugins import check_type, load_plugin


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Images with their classes.

    Raises: NasError for arrays of another type or shape.
    """

    images: NDArray[np.uint8]
    """(N, height, width, 3), RGB."""
    labels: NDArray[np.int64]
    """(N,), from 0 to the number of classes - 1."""
    files: Sequence[Path] | None = None
    """The file of each image, which the `images.py` of an export opens as this very image; None if there are none."""

    def __post_init__(self) -> None:
        if not (self.images.dtype == np.uint8 and self.images.ndim == 4 and self.images.shape[3] == 3):
            raise NasError(f"images are {self.images.dtype} {self.images.shape}; they must be uint8 (N, height, width, 3)")
        if not (self.labels.dtype == np.int64 and self.labels.shape == self.images.shape[:1]):
            raise NasError(f"labels are {self.labels.dtype} {self.labels.shape}; they must be int64 ({len(self.images)},)")
        if self.files is not None and len(self.files) != len(self.images):
            raise NasError(f"{len(self.files)} files are of {len(self.images)} images; each must have one, or files be None")

    def __len__(self) -> int:
        return len(self.labels)


class Dataset(ABC):
    """Images in three disjoint parts. Implementations are frozen dataclasses whose fields say where the images are.

    A search trains on `train` and ranks on `val`. Only exported networks are tested on `test`.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the dataset's file."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The name of every class, in the order of the labels."""

    @property
    def class_folders(self) -> tuple[str, ...]:
        """The name of the folder of each class's image files, in the order of the labels: the class's own, unless overridden."""
        return self.classes

    @property
    @abstractmethod
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel, for pixel values from 0 to 1; preprocessing subtracts it from the image."""

    @property
    @abstractmethod
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each channel, for pixel values from 0 to 1; preprocessing divides by it."""

    @property
    @abstractmethod
    def mirrors(self) -> bool:
        """True if a mirrored image still shows its class, so that training may flip images horizontally."""

    @property
    def bits(self) -> int:
        """Depth of the images that have more than 8 bits: their values go from 0 to 2**bits - 1; 8 if there are none.

        `load` gives 8 bits, scaled alike. Whoever reads the image files scales by this number: with 12, by 255/4095.
        """
        return 8

    @abstractmethod
    def load(self, part: str) -> ImageData:
        """The images of a part: train, val or test. Every call gives the same images."""

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the images, by default of the pixels that a search reads, which loads the train and the val part.

        Raises: NasError if they cannot be read.
        """
        parts = {part: load_part(self, part) for part in ("train", "val")}
        digests = {part: (map(pixels_digest, data.images), data.labels) for part, data in parts.items()}
        return Fingerprint.of(digests, tuple(self.classes))


def dataset(name: str) -> Dataset:
    """The dataset with this name, or the one that a user's Python file exports as DATASET.

    Raises: NasError for an unknown name, or a file without a DATASET.
    """
    loaded: Dataset = load_plugin("dataset", name)
    check_type("dataset", loaded, Dataset)
    return loaded


def pixels_digest(image: NDArray[np.uint8]) -> bytes:
    """A hash of an image's pixels."""
    return hashlib.sha256(image.data).digest()


def load_part(dataset: Dataset, part: str) -> ImageData:
    """One part of a dataset, checked.

    Raises: NasError if the part is empty, a label has no class, or the dataset's own code raises.
    """
    name = f"dataset {dataset.name}: the {part} part"
    with user_code(name):
        data = dataset.load(part)
        check_type("load", data, ImageData)
        data = replace(data, images=np.ascontiguousarray(data.images), labels=np.ascontiguousarray(data.labels))
    if not len(data):
        raise NasError(f"{name} has no images")
    low, high, classes = int(data.labels.min()), int(data.labels.max()), len(dataset.classes)
    if low < 0 or high >= classes:
        raise NasError(f"{name} has labels from {low} to {high}; with {classes} classes they must be from 0 to {classes - 1}")
    return data


def from_torchvision(name: str, root: Path, part: str) -> ImageData:
    """A part of a torchvision dataset, downloaded if it is not in `root`; grey images get three equal channels.

    The val part is held out of torchvision's training part.
    Raises: NasError if the download fails.
    """
    with download_errors(name, root):
        from torchvision import datasets  # takes seconds; only a process that trains needs it

        raw = getattr(datasets, name)(root, train=part != "test", download=True)
    images = np.asarray(raw.data)
    rgb = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
    return held_out_part(ImageData(images=rgb, labels=np.asarray(raw.targets, dtype=np.int64)), part)


def held_out_part(data: ImageData, part: str, *, missing: Sequence[str] = ("val",), share: float = HELD_OUT) -> ImageData:
    """One part of `data`: a `missing` part is a `share` of every class, `train` is the rest, any other part is all of `data`."""
    if part not in (*missing, "train"):
        return data
    by_class = [[str(i) for i in np.flatnonzero(data.labels == label)] for label in np.unique(data.labels)]
    parts = dict(zip((*missing, "train"), hold_out(by_class, len(missing), share), strict=True))
    indices = sorted(int(i) for names in parts[part] for i in names)
    return ImageData(images=data.images[indices], labels=data.labels[indices])


@contextmanager
def download_errors(what: str, root: str | Path) -> Iterator[None]:
    """Turns an error inside the block, which downloads or reads a dataset, into a NasError that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise NasError(
            f"{what} is not in {root}, whole and as published, and cannot be downloaded ({describe_error(error).rstrip(': ')}); "
            "put it there yourself, or say with --dataset.root where it is"
        ) from None
