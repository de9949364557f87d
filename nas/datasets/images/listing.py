"""Images in folders: which there are, the part each belongs to, and a file as pixels."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nas.datasets.images.splits import PARTS, hold_out, in_hash_order
from nas.errors import NasError

OTHER_PARTS: Final = ("train", "training", "val", "valid", "validation", "test", "testing")  # folders that are no classes
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a folder, by part."""

    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Mapping[str, int]]
    """Part → path under the root → class."""
    num_strays: int
    """Files that are no images by their name; they are left out."""

    @property
    def paths(self) -> list[str]:
        """Those of train, val and test, in this order."""
        return [path for part in PARTS for path in self.parts[part]]


def class_names(root: Path) -> tuple[str, ...]:
    """The folders of classes, sorted.

    Raises: NasError if `root` is not a folder, or has fewer than two of them.
    """
    folder = _layout(root)["train"]
    classes = _class_folders(folder)
    if len(classes) < 2:
        found = f"the one class {shown(classes[0])}" if classes else "no folder of images"
        raise NasError(f"{shown(folder)} has {found}; a classifier needs a folder of images for each of two classes or more")
    return classes


def list_images(root: Path, *, share: float = 1.0) -> Listing:
    """Every image under `root`, in three parts.

    `root` has `train/` and `val/`, `test/`, or both, each with a folder per class; or it is itself a folder of classes. What is
    missing is held out, a tenth of every class: the search validation part out of train, or both other parts out of all. Which
    images those are depends on their paths under `root` alone. Of the training part only a `share` is kept, chosen alike.

    Raises: NasError for another layout, and a class that is empty or missing in one part.
    """
    layout, classes = _layout(root), class_names(root)
    found, num_strays = {}, 0
    for part, folder in layout.items():
        found[part], strays = _files_by_class(root, folder, classes)
        num_strays += strays
    parts = _in_three(found)
    if share < 1:
        parts["train"] = [files[: max(1, round(share * len(files)))] for files in map(in_hash_order, parts["train"])]
    return Listing(
        root=root,
        classes=classes,
        parts={part: {path: i for i, paths in enumerate(by_class) for path in sorted(paths)} for part, by_class in parts.items()},
        num_strays=num_strays,
    )


def _layout(root: Path) -> dict[str, Path]:
    """Part → its folder; a root without `train/` is the training part, of which the others are held out."""
    if not root.is_dir():
        raise NasError(
            f"{shown(root)} is not a folder; it must have train/ and val/ (test/ too), each with a folder of images per class, "
            "or be one folder with a folder of images per class"
        )
    train = root / "train"
    if not train.is_dir() or not _class_folders(train):  # `train` may be a class, of vehicles
        others = [name for name in _class_folders(root) if name.lower() in OTHER_PARTS and _class_folders(root / name)]
        if others:
            raise NasError(f"{shown(root)} has the folder {shown(others[0])}; the names of the parts are train/, val/ and test/")
        return {"train": root}
    layout = {part: root / part for part in PARTS if (root / part).is_dir()}
    if len(layout) == 1:
        raise NasError(f"{shown(root)} has train/ but neither val/ nor test/; add one, or give {shown(train)} as root")
    return layout


def _class_folders(folder: Path) -> tuple[str, ...]:
    folders = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return tuple(sorted(name for name in folders if not name.startswith((".", "__MACOSX"))))


def _files_by_class(root: Path, folder: Path, classes: Sequence[str]) -> tuple[list[list[str]], int]:
    """(paths under `root` of each class, how many files are no images)."""
    folders = _class_folders(folder)
    if unknown := sorted(set(folders) - set(classes)):
        raise NasError(f"{shown(folder / unknown[0])} is a class that the training part does not have")
    by_class, strays = [], 0
    for name in classes:
        if name not in folders:
            raise NasError(f"{shown(folder)} has no folder {shown(name)}, a class of the training part")
        under = (folder / name).relative_to(root).as_posix()
        inside = glob("**", root_dir=folder / name, recursive=True)  # noqa: PTH207 - rglob is slower, and gives what is hidden
        paths = [f"{under}/{path}" for path in inside]
        images = [path for path in paths if path.lower().endswith(SUFFIXES)]
        if not images:
            raise NasError(f"{shown(folder / name)} has no images ({', '.join(SUFFIXES)}); put some in, or remove the folder")
        by_class.append(images)
        strays += sum((root / path).is_file() for path in set(paths) - set(images))
    return by_class, strays


def _in_three(found: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """The three parts, out of those that the dataset brings; each is a list of paths per class."""
    missing = len(PARTS) - len(found)
    for files in found["train"]:
        if missing and len(files) <= missing:
            what = f"the class of {shown(files[0])} has too few images, {len(files)}"
            raise NasError(f"{what}; it needs {missing + 1} or more, since a tenth of it is held out for each missing part")
    *held_out, train = hold_out(found["train"], missing)
    brought = [files for part, files in found.items() if part != "train"]  # one alone is the test part, whatever its name
    val, test = [*held_out, *brought]
    return {"train": train, "val": val, "test": test}


def shown(path: Path | str) -> str:
    """A path on one line that can be printed, whatever bytes it is made of."""
    return repr(str(path))[1:-1]


def decode(path: Path, side: int) -> NDArray[np.uint8]:
    """One file's image as it is meant to be seen, its shorter side resized to `side`, the middle square of it.

    Turned as its EXIF data say; grey, CMYK, palette and 16-bit images become RGB; of an animation the first frame; what is
    transparent takes the colour it is stored with, as in torchvision and timm. Raises whatever a damaged file makes Pillow raise.

    Shapes: (side, side, 3).
    """
    with Image.open(path) as opened:
        opened.draft("RGB", (side, side))  # a JPEG is decoded at a half, quarter or eighth of its size where that is enough
        image = _rgb(ImageOps.exif_transpose(opened))
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more, which convert() would clip to white
        values: NDArray[Any] = np.asarray(image, dtype=np.float32)
        top = 65535 if image.mode.startswith("I") else max(float(values.max()), 1e-9)
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns of transparency that is lost on the direct way
    return image.convert("RGB")
