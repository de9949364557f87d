"""Lists the images of a folder by part and class."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Final

from nas.datasets.images.splits import PARTS, hold_out, in_hash_order
from nas.errors import NasError

OTHER_PARTS: Final = ("train", "training", "val", "valid", "validation", "test", "testing")  # parts' names, not classes
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a folder, by part."""

    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Mapping[str, int]]
    """Part → path under the root → label."""
    num_strays: int
    """Number of ignored files, whose names are not those of images."""

    @property
    def paths(self) -> list[str]:
        """The paths of all images under the root: train, then val, then test."""
        return [path for part in PARTS for path in self.parts[part]]


def class_names(root: Path) -> tuple[str, ...]:
    """The names of the class folders, sorted.

    Raises: NasError if `root` is not a folder, or has fewer than two class folders.
    """
    folder = _layout(root)["train"]
    classes = _class_folders(folder)
    if len(classes) < 2:
        content = f"the one class {shown(classes[0])}" if classes else "no folder of images"
        raise NasError(f"{shown(folder)} has {content}; a classifier needs a folder of images for each of two classes or more")
    return classes


def list_images(root: Path, *, share: float = 1.0) -> Listing:
    """Every image under `root`, in three parts.

    `root` has `train/` and `val/`, `test/` or both, each with a folder per class; or it is itself a folder with a folder per
    class. A missing part is a tenth of every class, held out of train. A `share` below 1 reduces the training part. The images of
    each part depend on their paths under `root` alone.

    Raises: NasError for another layout, or a class that is empty or missing in a part.
    """
    layout, classes = _layout(root), class_names(root)
    present, num_strays = {}, 0
    for part, folder in layout.items():
        present[part], strays = _files_by_class(root, folder, classes)
        num_strays += strays
    parts = _three_parts(present)
    if share < 1:
        parts["train"] = [files[: max(1, round(share * len(files)))] for files in map(in_hash_order, parts["train"])]
    return Listing(
        root=root,
        classes=classes,
        parts={part: {path: i for i, paths in enumerate(by_class) for path in sorted(paths)} for part, by_class in parts.items()},
        num_strays=num_strays,
    )


def _layout(root: Path) -> dict[str, Path]:
    """Part → its folder; a root without `train/` is the folder of the training part."""
    if not root.is_dir():
        raise NasError(
            f"{shown(root)} is not a folder; it must have train/ and val/ (test/ too), each with a folder of images per class, "
            "or be one folder with a folder of images per class"
        )
    train = root / "train"
    if not train.is_dir() or not _class_folders(train):  # `train` may be a class of vehicles
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
    """(paths under `root` of each class, number of other files)."""
    folders = _class_folders(folder)
    if extra := sorted(set(folders) - set(classes)):
        raise NasError(f"{shown(folder / extra[0])} is a class that the training part does not have")
    by_class, strays = [], 0
    for name in classes:
        if name not in folders:
            raise NasError(f"{shown(folder)} has no folder {shown(name)}, a class of the training part")
        under = (folder / name).relative_to(root).as_posix()
        inside = glob("**", root_dir=folder / name, recursive=True)  # noqa: PTH207 - rglob is slower and includes hidden files
        paths = [f"{under}/{path}" for path in inside]
        images = [path for path in paths if path.lower().endswith(SUFFIXES)]
        if not images:
            raise NasError(f"{shown(folder / name)} has no images ({', '.join(SUFFIXES)}); put some in, or remove the folder")
        by_class.append(images)
        strays += sum((root / path).is_file() for path in set(paths) - set(images))
    return by_class, strays


def _three_parts(present: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """All three parts, from those that are present; each is a list of paths per class."""
    missing = len(PARTS) - len(present)
    for files in present["train"]:
        if missing and len(files) <= missing:
            problem = f"the class of {shown(files[0])} has too few images, {len(files)}"
            raise NasError(f"{problem}; it needs {missing + 1} or more, since a tenth of it is held out for each missing part")
    *held_out, train = hold_out(present["train"], missing)
    others = [files for part, files in present.items() if part != "train"]  # a single one is the test part, val/ too
    val, test = [*held_out, *others]
    return {"train": train, "val": val, "test": test}


def shown(path: Path | str) -> str:
    """A path as printable text on one line, whatever its bytes."""
    return repr(str(path))[1:-1]
