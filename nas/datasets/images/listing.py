"""Lists the images of a folder by part and class, with all that is left out and why."""

import os
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nas.datasets.images.folders import LOST, Folder, Why
from nas.datasets.images.layout import TWO_CLASSES, find_parts, opened
from nas.datasets.images.names import class_name, natural_key, shown
from nas.datasets.images.splits import PARTS, hold_out, in_hash_order, part_beside
from nas.errors import NasError

__all__ = [
    "LOST",
    "LeftOut",
    "Listing",
    "Why",
    "class_names",
    "folder_names",
    "list_images",
    "list_unlabelled",
    "listing_of",
    "shown",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file or folder that is not listed."""

    path: str
    """Under the root."""
    part: str | None
    """The part whose folder it is in, if any; a file in the folder of a part that another is held out of counts for that part."""
    label: int | None
    """The class whose folder it is in, if any."""
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a folder, by part."""

    root: Path
    classes: tuple[str, ...]
    """In the order of the labels: sorted as timm sorts, by numbers and without regard to case."""
    parts: Mapping[str, Mapping[str, int]]
    """Part → path under the root → label."""
    sizes: tuple[int, ...]
    """Number of images of each class, before a share of them is taken."""
    left_out: tuple[LeftOut, ...]

    @property
    def paths(self) -> list[str]:
        """The paths of all images under the root: train, then val, then test."""
        return [path for part in PARTS for path in self.parts[part]]


def class_names(root: Path) -> tuple[str, ...]:
    """The names of the classes, in the order of the labels.

    Raises: NasError for a layout that is none, or a class name that is no text.
    """
    return tuple(_folder_names(root, _stamp(root)))


def folder_names(root: Path) -> tuple[str, ...]:
    """The names of the training part's class folders as they are stored, perhaps decomposed, in the order of the labels.

    Raises: NasError as `class_names` does.
    """
    return tuple(_folder_names(root, _stamp(root)).values())


@lru_cache(maxsize=8)
def _folder_names(root: Path, _: object) -> Mapping[str, str]:
    """Class → its first folder, of a root as it is; a folder of 200,000 images takes a second to look through."""
    return {name: folders[0].name for name, folders in _class_folders(find_parts(root)["train"]).items()}


def _stamp(root: Path) -> tuple[tuple[str, int], ...]:
    """What changes when a folder in `root`, or in one of its folders, comes or goes."""
    try:
        with os.scandir(root) as entries:
            below = [(entry.path, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir()]
        return (str(root.absolute()), root.stat().st_mtime_ns), *sorted(below)
    except OSError:
        return ()  # the scan says what is wrong


def list_images(root: Path, *, share: float = 1.0) -> Listing:
    """Every image under `root`, in three parts.

    `root` has `train/` and `val/`, `test/` or both, each with a folder per class; or it is itself a folder with a folder per
    class. A missing part is a tenth of every class, held out of train. A `share` below 1 reduces the training part. The images of
    each part depend on their paths under `root` alone.

    Raises: NasError for another layout, or a class that is empty or missing in a part.
    """
    folders = find_parts(root)
    by_class = {part: _class_folders(folder) for part, folder in folders.items()}
    classes = tuple(by_class["train"])
    if len(classes) == 1:  # of two folders whose names are the same text
        names = ", ".join(ascii(folder.name) for folder in by_class["train"][classes[0]])
        raise NasError(f"{shown(root)} has the one class {classes[0]}, in the folders {names}; {TWO_CLASSES}")
    walks: dict[str, _Walk] = {}
    for part, folder in folders.items():
        _check_same(folder, by_class[part], classes)
        name = part_beside(part, folders)
        in_order = [by_class[part][one] for one in classes]
        walks[name] = _Walk(root, name, in_order)
        _check_filled(walks[name], in_order)
    left_out = (*_beside(root, folders), *(one for walk in walks.values() for one in walk.left_out))
    present = {part: walk.by_class for part, walk in walks.items()}
    return listing_of(root, classes, present, share=share, left_out=left_out)


def listing_of(
    root: Path,
    classes: tuple[str, ...],
    present: Mapping[str, list[list[str]]],
    *,
    share: float = 1.0,
    left_out: tuple[LeftOut, ...] = (),
) -> Listing:
    """The listing of the parts that are `present`, each a list of paths per class; the others are held out of train.

    Raises: NasError for a class with too few images to hold some out.
    """
    parts = _three_parts(dict(present))
    sizes = tuple(map(sum, zip(*(map(len, files) for files in parts.values()), strict=True)))
    if share < 1:
        parts["train"] = [files[: max(1, round(share * len(files)))] for files in map(in_hash_order, parts["train"])]
    return Listing(
        root=root,
        classes=classes,
        parts={part: {path: i for i, paths in enumerate(files) for path in sorted(paths)} for part, files in parts.items()},
        sizes=sizes,
        left_out=left_out,
    )


def list_unlabelled(root: Path) -> Listing:
    """Every image under `root`, in whatever folders, as one class of the training part.

    Raises: NasError if `root` is no folder, cannot be read, or has no image.
    """
    folder = opened(root, "give a folder of images")
    walk = _Walk(root, "train", [[folder]])
    _check_filled(walk, [[folder]])
    (paths,) = walk.by_class
    return Listing(
        root=root,
        classes=("unlabelled",),
        parts={part: dict.fromkeys(sorted(paths) if part == "train" else (), 0) for part in PARTS},
        sizes=(len(paths),),
        left_out=tuple(walk.left_out),
    )


def _class_folders(level: Folder) -> dict[str, list[Folder]]:
    """Class → its folders, in the order of the labels; a name may be there both composed and decomposed."""
    by_class: dict[str, list[Folder]] = {}
    for name, folder in level.folders.items():
        by_class.setdefault(class_name(name), []).append(folder)
    return dict(sorted(by_class.items(), key=lambda item: natural_key(item[0])))


def _check_same(level: Folder, names: Collection[str], classes: Collection[str]) -> None:
    if extra := sorted(set(names) - set(classes)):
        raise NasError(f"{shown(level.path)}/{extra[0]} is a class that the training part does not have")
    if missing := [name for name in classes if name not in names]:
        raise NasError(f"{shown(level.path)} has no folder {missing[0]}, a class of the training part")


def _beside(root: Path, folders: Mapping[str, Folder]) -> Iterator[LeftOut]:
    """What lies in the root and in the parts' folders, beside the folders that are read."""
    read = {folder.path for folder in folders.values()}
    levels = {str(root): Folder(str(root))} | {folder.path: folder for folder in folders.values()}
    for level in levels.values():
        under = "" if level.path == str(root) else f"{level.name}/"
        for name, why in level.content.left_out:
            yield LeftOut(path=under + name, part=None, label=None, why=why)
        folders_beside = [] if level.path in read else [name for name, folder in level.folders.items() if folder.path not in read]
        for name in [*level.images, *folders_beside]:
            yield LeftOut(path=under + name, part=None, label=None, why=Why.BESIDE)


class _Walk:
    """The images of a part by class; each folder and file is read once, by its own name before a link's."""

    def __init__(self, root: Path, part: str, classes: Sequence[Sequence[Folder]]) -> None:
        self.by_class: list[list[str]] = [[] for _ in classes]
        """Paths under the root."""
        self.left_out: list[LeftOut] = []
        self._part = part
        self._root = f"{root}/"
        self._folders: set[tuple[int, int]] = set()
        self._files: set[tuple[int, int, int]] = set()
        self._folder_links: deque[tuple[Folder, int]] = deque()
        self._file_links: list[tuple[str, int]] = []
        for label, folders in enumerate(classes):
            for folder in folders:
                self._queue(folder, label)
        while self._folder_links:
            self._read(*self._folder_links.popleft())
        for path, label in self._file_links:
            self._add_link(path, label)

    def _queue(self, folder: Folder, label: int) -> None:
        if folder.linked:
            self._folder_links.append((folder, label))
        else:
            self._read(folder, label)

    def _read(self, folder: Folder, label: int) -> None:
        """Add what a folder and those in it hold; links to folders wait until all others are read."""
        waiting = [folder]
        while waiting:
            one = waiting.pop()
            if self._enter(one, label):
                self._folder_links.extend((sub, label) for sub in one.folders.values() if sub.linked)
                waiting.extend(sub for sub in one.folders.values() if not sub.linked)

    def _enter(self, folder: Folder, label: int) -> bool:
        prefix = f"{folder.path}/".removeprefix(self._root)  # empty for the root itself
        try:
            device, inode = folder.key
        except OSError:
            self._leave_out(prefix.rstrip("/"), label, Why.UNREADABLE_FOLDER)
            return False
        if (device, inode) in self._folders:
            self._leave_out(prefix.rstrip("/"), label, Why.LINKED_TWICE)
            return False
        self._folders.add((device, inode))
        content = folder.content
        for name, file in content.images.items():
            self._add(f"{prefix}{name}", label, (device, file))
        self._file_links.extend((f"{prefix}{name}", label) for name in sorted(content.linked_images))
        for name, why in content.left_out:
            self._leave_out(f"{prefix}{name}", label, why)
        if content.error:
            self._leave_out(prefix.rstrip("/"), label, Why.UNREADABLE_FOLDER)
        return True

    def _add(self, path: str, label: int, key: tuple[int, int]) -> None:
        again = (*key, label) in self._files
        if again and os.stat(self._root + path).st_nlink > 1:  # noqa: PTH116 - some file systems number two files alike
            self._leave_out(path, label, Why.LINKED_TWICE)
            return
        self._files.add((*key, label))
        self.by_class[label].append(path)

    def _add_link(self, path: str, label: int) -> None:
        try:
            status = os.stat(self._root + path)  # noqa: PTH116
        except OSError:
            self._leave_out(path, label, Why.DEAD_LINK)
            return
        if (status.st_dev, status.st_ino, label) in self._files:
            self._leave_out(path, label, Why.LINKED_TWICE)
            return
        self._files.add((status.st_dev, status.st_ino, label))
        self.by_class[label].append(path)

    def _leave_out(self, path: str, label: int, why: Why) -> None:
        self.left_out.append(LeftOut(path=path, part=self._part, label=label, why=why))


def _check_filled(walk: _Walk, folders: Sequence[Sequence[Folder]]) -> None:
    """Raises: NasError if a class has no image."""
    for label, images in enumerate(walk.by_class):
        if images:
            continue
        path = shown(folders[label][0].path)
        lost = [one for one in walk.left_out if one.label == label and one.why is not Why.SYSTEM]
        counts = Counter(one.why if one.why is not Why.UNKNOWN_TYPE else _typed(one.path) for one in lost)
        held = f"; left out: {', '.join(f'{number:,} {why}' for why, number in counts.most_common(4))}" if lost else ""
        raise NasError(f"{path} has no images; put some in, or move the folder away{held}")


def _typed(path: str) -> str:
    return f"{Why.UNKNOWN_TYPE} ({os.path.splitext(path)[1] or 'no suffix'})"  # noqa: PTH122


def _three_parts(present: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """All three parts, from those that are present; each is a list of paths per class."""
    missing = [part for part in PARTS if part not in present]
    for files in present["train"]:
        if missing and len(files) <= len(missing):
            problem = f"the class of {shown(files[0])} has too few images, {len(files)}"
            reason = "since a tenth of it is held out for each missing part"
            raise NasError(f"{problem}; it needs {len(missing) + 1} or more, {reason}")
    *held_out, train = hold_out(present["train"], len(missing))
    return present | dict(zip(missing, held_out, strict=True)) | {"train": train}
