"""Any folder of images: train/, val/ and test/ of class folders, or one folder of class folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nas.datasets import Dataset, ImageData
from nas.errors import NasError
from nas.image_cache import cached_images
from nas.image_files import class_names, list_images

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)  # as timm.data.IMAGENET_DEFAULT_MEAN and _STD
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder(Dataset):
    """Images by class. Without test/, val/ is the test part; what is missing is a tenth of every class held out of the rest."""

    root: str = "images"
    """A folder with train/ and val/ (test/ too), each with a folder per class; or one with a folder per class."""
    side: int = 160
    """What the shorter side of every image is resized to, once, pixels; the middle square of it is kept."""
    share: float = 1.0
    """Share of the training images to train on, the same ones every time."""
    mirrors: bool = True
    """Whether a mirrored image still shows its class, so that training may mirror."""
    name = "image_folder"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __post_init__(self) -> None:
        check_images(self.side, self.share)
        if not self.root:
            raise NasError("dataset.root: an empty name; give the folder that the images are in")

    @property
    def classes(self) -> tuple[str, ...]:
        return class_names(Path(self.root))

    def load(self, part: str) -> ImageData:
        return load_images(Path(self.root), part, side=self.side, share=self.share)


def check_images(side: int, share: float) -> None:
    """Refuse a size or share that no dataset of images can have."""
    if not 8 <= side <= 2048:
        raise NasError(f"dataset.side: {side} is not from 8 to 2048 pixels")
    if not 0 < share <= 1:
        raise NasError(f"dataset.share: {share} is not more than 0 and at most 1")


def load_images(root: Path, part: str, *, side: int, share: float) -> ImageData:
    """One part of a folder of images, decoded once and then mapped from the cache."""
    images, labels = cached_images(list_images(root, share=share), side=side)[part]
    return ImageData(images=images, labels=labels)


DATASET: Final = ImageFolder()
