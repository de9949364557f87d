"""Imagenette: ten classes of ImageNet, 9,469 photographs to train on and 3,925 to test; downloaded where it is not there.

Source: https://github.com/fastai/imagenette, version 2, through torchvision.datasets.Imagenette.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nas.datasets import Dataset, ImageData, download_errors
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from nas.errors import NasError
from nas.files import locked

SIZES: Final = {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}  # size → its archive's folder
# As the source names the folders, in their order.
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
    """The archive's `val` is the test part; a tenth of every class of `train`, 947 images, is the search validation part."""

    root: str = "data"
    """A folder with train/ and val/, or one that the archive's folder is in, or is downloaded to."""
    size: str = "160px"
    """Which archive: 160px, 320px or full."""
    side: int = 160
    """What the shorter side of every image is resized to, once, pixels; the middle square of it is kept."""
    share: float = 1.0
    """Share of the training images to train on, the same ones every time."""
    name = "imagenette"
    classes = tuple(CLASSES.values())
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    mirrors = True

    def __post_init__(self) -> None:
        self._images(Path(self.root))  # which checks the other fields
        if self.size not in SIZES:
            raise NasError(f"dataset.size: {self.size!r} is not one of {', '.join(SIZES)}")

    def load(self, part: str) -> ImageData:
        folder = self._folder()
        found = {path.name for path in folder.glob("train/*/")}
        if found != set(CLASSES):
            raise NasError(f"{folder / 'train'} must have the ten folders {', '.join(CLASSES)}; for others use image_folder")
        return self._images(folder).load(part)

    def _images(self, root: Path) -> ImageFolder:
        return ImageFolder(root=str(root), side=self.side, share=self.share)

    def _folder(self) -> Path:
        """Where train/ and val/ are, downloaded if they are not there."""
        root, name = Path(self.root), SIZES[self.size]
        for folder in (root, root / name):
            if (folder / "train").is_dir():
                return folder
        arriving = root / f".{name}.partial"
        busy = f"{root / name} is being downloaded"
        with locked(root / f".{name}.download", busy=busy, wait_seconds=math.inf), download_errors(f"{name}.tgz", root):
            if not (root / name).exists():  # else another process was faster
                from torchvision import datasets  # takes seconds, which only a process that trains should pay

                shutil.rmtree(arriving, ignore_errors=True)  # what one that was killed has left
                datasets.Imagenette(arriving, size=self.size, download=True)
                (arriving / name).rename(root / name)
                shutil.rmtree(arriving)
        return root / name


DATASET: Final = Imagenette()
