"""Images of the Hugging Face hub, or of a folder that the package `datasets` reads: Parquet files, or images with a table.

On first use every image is written to a file of its own in this user's cache, as it is encoded. From there on the images are read as
those of image_folder are, without `datasets`.
"""

import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nas.datasets import Dataset, ImageData
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from nas.datasets.images.cache import CachedImages, cache_folder, cached_images
from nas.datasets.images.fingerprint import Fingerprint
from nas.datasets.images.folders import IMAGE_SUFFIXES
from nas.datasets.images.layout import TWO_CLASSES
from nas.datasets.images.listing import divided
from nas.datasets.images.names import natural_key, part_of, shown
from nas.errors import NasError
from nas.files import locked, write_atomically
from nas.paths import BEGINNINGS, Name, absolute

logger = logging.getLogger(__name__)

SCHEMA: Final = 1
INDEX_FILE: Final = "index.json"
SIGNATURES: Final = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}  # first bytes → suffix by which timm's reader goes
NUM_NAMED: Final = 20  # columns, splits or configurations that a sentence names
LABEL: Final = "label"  # the usual name of the column of labels that are plain texts or numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The images of a dataset, in files of their own."""

    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, list[list[str]]]
    """Part → the paths under the root of each class's images; one or more of train, val and test."""
    left_out: tuple[str, ...]
    """A sentence about each split, class or row that is not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFace(Dataset):
    """Images of the hub or of a folder that `datasets` reads. Its splits become the parts that folders of these names would be.

    Raises: NasError for a field outside its range.
    """

    path: str = ""
    """A dataset of the Hugging Face hub, such as food101 or OWNER/NAME; or a folder of Parquet files or of images."""
    config: Name = Name("")
    """The configuration, of a dataset that has several."""
    revision: Name = Name("")
    """The branch, tag or commit on the hub; by default the newest one when the images are first read."""
    image: Name = Name("")
    """The column of the images; by default the one of type Image."""
    label: Name = Name("")
    """The column of the classes; by default the one of type ClassLabel, else the one called label."""
    side: int = 160
    """Side of the stored images, pixels: each image is resized once, to this shorter side, and cropped to its centre square."""
    share: float = 1.0
    """Share of the training images to use; each training uses the same images."""
    allow_missing: float = 0.1
    """Largest share of the images of a class that may be unreadable."""
    mirrors: bool = True
    """True if a mirrored image still shows its class, so that training may flip images horizontally."""
    name = "huggingface"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __post_init__(self) -> None:
        ImageFolder(side=self.side, share=self.share, allow_missing=self.allow_missing)  # checks them

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the training part has, in the order of ClassLabel; plain labels are sorted."""
        return self._stored().classes

    @property
    def bits(self) -> int:
        """Depth of the images that have more than 8 bits, by their largest value: 8, 10, 12, 14, 16; 1 for floats from 0 to 1."""
        return self._cached(self._stored()).bits

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, side, side, 3), downloaded and decoded on first use.

        Raises: NasError if there is no such dataset, it is no dataset of labelled images, or too many cannot be read.
        """
        return self._cached(self._stored()).part(part)

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the images that can be read, wherever they are; all three parts. It logs an account of them."""
        stored = self._stored()
        fingerprint = self._cached(stored).fingerprint()
        for sentence in stored.left_out:
            logger.info("%s", sentence)
        return fingerprint

    def _cached(self, stored: Stored) -> CachedImages:
        listing = divided(stored.root, stored.classes, stored.parts, share=self.share)
        return cached_images(listing, side=self.side, allow_missing=self.allow_missing)

    def _stored(self) -> Stored:
        """The files of the images, written by one process on first use, while others wait."""
        if not self.path:
            raise NasError("dataset.path is missing; give a dataset of the Hugging Face hub, such as food101, or a folder")
        folder = cache_folder() / self._key()
        if stored := _opened(folder):
            return stored
        lock, arriving = (folder.with_name(f".{folder.name}.{role}") for role in ("lock", "partial"))
        with locked(lock, busy=f"{folder} is being written by another process", wait_seconds=math.inf):
            if stored := _opened(folder):  # another process has written it
                return stored
            splits = self._read()
            for left in (folder, arriving):  # damaged, or of a killed process
                shutil.rmtree(left, ignore_errors=True)
            with _disk_errors(folder):
                arriving.mkdir(parents=True)
                self._write(splits, arriving)
                arriving.rename(folder)
        stored = _opened(folder)
        assert stored is not None, folder
        return stored

    def _key(self) -> str:
        """The name of the folder of the files: a hash of what is read, and of a local folder's files, sizes and times."""
        chosen = [SCHEMA, self.path, self.config, self.revision, self.image, self.label]
        if self.path.startswith((*BEGINNINGS, "/")) or Path(self.path).exists():
            root = absolute(self.path)
            if not root.is_dir():
                raise NasError(f"dataset.path: {shown(root)} is not a folder; give one, or the name of a dataset of the hub")
            stamps = [(path.relative_to(root), path.stat()) for path in sorted(root.rglob("*")) if path.is_file()]
            chosen += [str(root), *((str(path), stamp.st_size, stamp.st_mtime_ns) for path, stamp in stamps)]
        digest = hashlib.sha256(repr(chosen).encode(errors="surrogateescape")).hexdigest()[:16]
        return f"{re.sub(r'[^A-Za-z0-9]', '_', Path(self.path).name)}-{digest}"

    def _read(self) -> dict[str, Any]:
        """Split → its table, from `datasets`."""
        try:
            import datasets
        except ImportError:
            raise NasError(
                "dataset huggingface reads with the package datasets, which is missing; pip install 'frontier-nas[huggingface]'"
            ) from None
        with _reading_errors(self.path):
            return dict(datasets.load_dataset(self.path, self.config or None, revision=self.revision or None))

    def _write(self, splits: Mapping[str, Any], folder: Path) -> None:
        """Write the images of some splits as files, and the index of them."""
        by_part, left_out = parts_of(splits, shown(self.path))
        features = by_part["train"].features
        image, label = image_column(features, self.image), label_column(features, self.label)
        labelled = {part: labels for part, table in by_part.items() if (labels := [one for one in table.unique(label) if _is_label(one)])}
        left_out += [f"left out: the {part} part, as it has no labels" for part in by_part.keys() - labelled.keys()]
        classes = class_of_label(features[label], labelled, shown(self.path))
        parts = {}
        for part in labelled:
            parts[part], missing = write_part(by_part[part], (image, label), list(classes), folder / part)
            left_out += [f"left out: {missing:,} rows of the {part} part without a label"] * bool(missing)
        index = {"classes": list(classes.values()), "parts": parts, "left_out": left_out}
        write_atomically(folder / INDEX_FILE, json.dumps(index))


DATASET: Final = HuggingFace()
