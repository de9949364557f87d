"""A user's own images: train/, val/ and test/ with a folder per class, or one folder with a folder per class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nas.datasets import Dataset, ImageData
from nas.datasets.images.account import tell
from nas.datasets.images.cache import CachedImages, cached_images
from nas.datasets.images.fingerprint import Fingerprint
from nas.datasets.images.listing import class_names, folder_names, list_images
from nas.errors import NasError

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)  # as timm.data.IMAGENET_DEFAULT_MEAN and _STD
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder(Dataset):
    """Images in a folder per class. Without test/, val/ becomes the test part. A missing part is a tenth of each class of train.

    Raises: NasError for a field outside its range.
    """

    root: Path = Path("images")
    """A folder with train/ and one or both of val/ and test/, each with a folder per class; or a folder of the class folders."""
    side: int = 160
    """Side of the stored images, pixels: each image is resized once, to this shorter side, and cropped to its centre square."""
    share: float = 1.0
    """Share of the training images to use; each training uses the same images."""
    allow_missing: float = 0.1
    """Largest share of the files of a class that may be lost: unreadable, dead links, of an unknown type."""
    mirrors: bool = True
    """True if a mirrored image still shows its class, so that training may flip images horizontally."""
    name = "image_folder"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 8 <= self.side <= 2048:
            raise NasError(f"dataset.side: {self.side} is not from 8 to 2048 pixels")
        if not 0 < self.share <= 1:
            raise NasError(f"dataset.share: {self.share} is not more than 0 and at most 1")
        if not 0 <= self.allow_missing <= 1:
            raise NasError(f"dataset.allow-missing: {self.allow_missing} is not from 0 to 1")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, sorted as timm sorts: by numbers and without regard to case."""
        return class_names(Path(self.root))

    @property
    def class_folders(self) -> tuple[str, ...]:
        """The names of the folders as they are stored, which other programs compare: macOS stores é as two characters."""
        return folder_names(Path(self.root))

    @property
    def bits(self) -> int:
        """Depth of the images that have more than 8 bits, by their largest value: 8, 10, 12, 14, 16; 1 for floats from 0 to 1."""
        return self._cached().bits

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, side, side, 3), decoded on first use.

        Raises: NasError for another layout, or too many unreadable files.
        """
        return part_of_images(self._cached(), part)

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the files that can be read, wherever they are; all three parts.

        Every search, export and training takes it once, when it starts: so it also logs an account of all files.
        """
        return fingerprint_of_files(self._cached())

    def _cached(self) -> CachedImages:
        listing = list_images(Path(self.root), share=self.share)
        return cached_images(listing, side=self.side, allow_missing=self.allow_missing)


def part_of_images(cached: CachedImages, part: str) -> ImageData:
    """The images of a part, with the files that they were decoded from."""
    images, labels = cached.parts[part]
    unreadable, root = cached.findings.unreadable, cached.listing.root
    files = [root / path for path in cached.listing.parts[part] if path not in unreadable]
    return ImageData(images=images, labels=labels, files=files)


def fingerprint_of_files(cached: CachedImages) -> Fingerprint:
    """The fingerprint of the files that can be read; logs an account of all files."""
    tell(cached.listing, cached.findings)
    digests = {part: (map(bytes, cached.digests[part]), labels) for part, (_, labels) in cached.parts.items()}
    return Fingerprint.of(digests, cached.listing.classes)


DATASET: Final = ImageFolder()
