"""Imagenette: ten classes of ImageNet, 9,469 training and 3,925 test photographs; downloaded on first use.

Source: https://github.com/fastai/imagenette, version 2, through torchvision.datasets.Imagenette.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from nas.datasets import Dataset, ImageData, download_errors
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from nas.datasets.images.fingerprint import Fingerprint
from nas.datasets.images.folders import Folder
from nas.errors import NasError
from nas.files import locked

SIZES: Final = {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}  # size → its archive's folder
# Folder → class, in the order of the labels.
CLASSES: Final = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagenette(Dataset):
    """Imagenette: train 8,522 images, val 947 (a tenth of every class of `train/`), test 3,925 (the archive's `val/`).

    Raises: NasError for a field outside its range.
    """

    root: Path = Path("data")
    """A folder with train/ and val/, or the parent of the archive's folder; a missing archive is downloaded into it."""
    size: Literal["160px", "320px", "full"] = "160px"
    """Which archive: 160px, 320px or full."""
    side: int = 160
    """Side of the stored images, pixels: each image is resized once, to this shorter side, and cropped to its centre square."""
    share: float = 1.0
    """Share of the training images to use; each training uses the same images."""
    allow_missing: float = 0.1
    """Largest share of the files of a class that may be lost: unreadable, dead links, of an unknown type."""
    name = "imagenette"
    classes = tuple(CLASSES.values())
    class_folders = tuple(CLASSES)
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    mirrors = True

    def __post_init__(self) -> None:
        self._images(self.root)  # checks the other fields
        if self.size not in SIZES:
            raise NasError(f"dataset.size: {self.size!r} is not one of {', '.join(SIZES)}")

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, side, side, 3).

        Raises: NasError if the download fails, or `train/` does not have exactly the ten class folders.
        """
        folder = self._folder()
        if set(Folder(str(folder / "train")).folders) != set(CLASSES):
            raise NasError(f"{folder / 'train'} must have the ten folders {', '.join(CLASSES)}; for others use image_folder")
        return self._images(folder).load(part)

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the files that can be read, wherever they are; all three parts."""
        return self._images(self._folder()).fingerprint()

    def _images(self, root: Path) -> ImageFolder:
        return ImageFolder(root=root, side=self.side, share=self.share, allow_missing=self.allow_missing)

    def _folder(self) -> Path:
        """The folder with train/ and val/, downloaded if it is missing."""
        root, name = Path(self.root), SIZES[self.size]
        for folder in (root, root / name):
            if (folder / "train").is_dir():
                return folder
        arriving = root / f".{name}.partial"
        busy = f"{root / name} is being downloaded"
        with locked(root / f".{name}.download", busy=busy, wait_seconds=math.inf), download_errors(f"{name}.tgz", root):
            if not (root / name).exists():  # another process may have downloaded it
                from torchvision import datasets  # takes seconds; only a process that trains needs it

                shutil.rmtree(arriving, ignore_errors=True)  # left by a killed process
                datasets.Imagenette(arriving, size=self.size, download=True)
                (arriving / name).rename(root / name)
                shutil.rmtree(arriving)
        return root / name


DATASET: Final = Imagenette()
