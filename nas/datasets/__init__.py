"""What networks train on: a dataset in three parts, each an array of images.

Each dataset is a file here that exports DATASET and is found by its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.datasets.images.splits import HELD_OUT, hold_out
from nas.errors import NasError, describe_error, user_code
from nas.plugins import check_type, load_plugin


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Images with their classes."""

    images: NDArray[np.uint8]
    """(N, height, width, 3), RGB."""
    labels: NDArray[np.int64]
    """(N,), from 0 to the number of classes - 1."""

    def __post_init__(self) -> None:
        if not (self.images.dtype == np.uint8 and self.images.ndim == 4 and self.images.shape[3] == 3):
            found = f"{self.images.dtype} {self.images.shape}"
            raise NasError(f"images are {found}; they must be uint8 (N, height, width, 3)")
        if not (self.labels.dtype == np.int64 and self.labels.shape == self.images.shape[:1]):
            raise NasError(f"labels are {self.labels.dtype} {self.labels.shape}; they must be int64 ({len(self.images)},)")

    def __len__(self) -> int:
        return len(self.labels)


class Dataset(ABC):
    """Images in three parts that never overlap. Implementations are frozen dataclasses whose fields say where and which.

    A search trains on `train` and ranks on `val`; `test` is read for exported networks alone.
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
    @abstractmethod
    def mean(self) -> tuple[float, float, float]:
        """Per channel, of pixels from 0 to 1; subtracted before the network."""

    @property
    @abstractmethod
    def std(self) -> tuple[float, float, float]:
        """Per channel, of pixels from 0 to 1; divided by before the network."""

    @property
    @abstractmethod
    def mirrors(self) -> bool:
        """Whether a mirrored image still shows its class, so that training may mirror."""

    @abstractmethod
    def load(self, part: str) -> ImageData:
        """One of the parts train, val, test; always the same images."""


def dataset(name: str) -> Dataset:
    """The dataset of a name, or in a Python file of one's own that exports DATASET.

    Raises: NasError if there is none.
    """
    loaded: Dataset = load_plugin("dataset", name)
    check_type("dataset", loaded, Dataset)
    return loaded


def load_part(dataset: Dataset, part: str) -> ImageData:
    """One part of a dataset, held against what it must be.

    Raises: NasError if it is empty, or has a label without a class, or the dataset raises.
    """
    name = f"dataset {dataset.name}: the {part} part"
    with user_code(name):
        data = dataset.load(part)
        check_type("load", data, ImageData)
        data = ImageData(images=np.ascontiguousarray(data.images), labels=np.ascontiguousarray(data.labels))
    if not len(data):
        raise NasError(f"{name} has no images")
    low, high, classes = int(data.labels.min()), int(data.labels.max()), len(dataset.classes)
    if low < 0 or high >= classes:
        raise NasError(f"{name} has labels from {low} to {high}; with {classes} classes they must be from 0 to {classes - 1}")
    return data


def from_torchvision(name: str, root: str, part: str) -> ImageData:
    """A part of one of torchvision's datasets, downloaded if it is not in `root`; grey images get three equal channels.

    The search validation part is held out of its training part.
    """
    with download_errors(name, root):
        from torchvision import datasets  # takes seconds, which only a process that trains should pay

        raw = getattr(datasets, name)(root, train=part != "test", download=True)
    images = np.asarray(raw.data)
    rgb = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
    return held_out_part(ImageData(images=rgb, labels=np.asarray(raw.targets, dtype=np.int64)), part)


def held_out_part(data: ImageData, part: str, *, missing: Sequence[str] = ("val",), share: float = HELD_OUT) -> ImageData:
    """`data` itself for a part that the dataset has; else the same `share` of every class, or for `train` the rest."""
    if part not in (*missing, "train"):
        return data
    by_class = [[str(i) for i in np.flatnonzero(data.labels == label)] for label in np.unique(data.labels)]
    parts = dict(zip((*missing, "train"), hold_out(by_class, len(missing), share), strict=True))
    chosen = sorted(int(i) for names in parts[part] for i in names)
    return ImageData(images=data.images[chosen], labels=data.labels[chosen])


@contextmanager
def download_errors(what: str, root: str | Path) -> Iterator[None]:
    """Where a dataset is downloaded, or read if it is there already: one sentence when that fails, and what to put where."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise NasError(
            f"{what} is not in {root}, whole and as published, and cannot be downloaded ({describe_error(error).rstrip(': ')}); "
            "put it there yourself, or say with --dataset.root where it is"
        ) from None
