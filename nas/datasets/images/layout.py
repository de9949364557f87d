"""Finds the parts and classes of a folder of images by the shape of its tree; a tree that may mean something else is refused."""

import errno
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from nas.datasets.images.folders import Folder, Why
from nas.datasets.images.names import IMAGE_WORDS, LABEL_WORDS, MAY_BE_CLASSES, grouping, part_of, parts_among, shown, words
from nas.datasets.images.splits import PARTS
from nas.errors import NasError

MAX_LOOSE: Final = 3  # images beside class folders that are left out, such as a logo; more may be a class
MAX_DEPTH: Final = 4  # folders within folders that the search for repeated names looks through
NAMED: Final = 5  # folders that a line of the tree names
ARRANGEMENTS: Final = (
    "train/ and val/ (test/ too), each with a folder of images per class, or be one folder with a folder of images per class"
)
TWO_CLASSES: Final = "a classifier needs a folder of images for each of two classes or more"


def find_parts(root: Path) -> dict[str, Folder]:
    """Part → its folder, which has a folder per class; a folder of classes is the training part.

    Parts are train/ with val/, test/ or both, in any letter case.
    Raises: NasError with the tree and what to give or arrange, for any other layout.
    """
    return _parts_of(opened(root, f"it must have {ARRANGEMENTS}"))


def opened(root: Path, demand: str) -> Folder:
    """The folder at `root`; `demand` says what it must be.

    Raises: NasError if it is no folder, or cannot be read.
    """
    folder = Folder(str(root))
    if not folder.content.error:
        return folder
    if folder.content.error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        kind = "is a link that leads to no folder" if root.is_symlink() else "is not a folder"
        kind = "is a file, not a folder" if root.is_file() else kind
        raise NasError(f"{shown(root)} {kind}; {demand}")
    raise _unreadable(folder, folder.content.error)


def _unreadable(folder: Folder, error: OSError) -> NasError:
    return NasError(f"{shown(folder.path)} cannot be read: {error.strerror}; allow this user to read it, or move it away")


def _parts_of(top: Folder) -> dict[str, Folder]:
    named = [(name.casefold(), folder) for name, folder in top.folders.items() if name.casefold() in PARTS]
    parts = dict(named)
    if len(parts) < len(named):
        raise _refusal(top, "has two folders of the same part; put their images into one")
    if "train" not in parts or len(parts) == 1:
        _check_classes(top)
        _check_loose(top)
        return {"train": top}
    parts = {part: parts[part] for part in PARTS if part in parts}
    for folder in parts.values():
        if not folder.image_folders:
            raise _unlabelled(top, folder)
    others = {name: part_of(name) for name, folder in top.image_folders.items() if folder not in parts.values()}
    for name, part in others.items():
        if part in PARTS and part not in parts:
            remedy = f"rename it to {part}, or move it away"
            raise _refusal(top, f"has the folder {shown(name)}; the names of the parts are train/, val/ and test/: {remedy}")
    for folder in parts.values():
        if folder is parts["train"] or not set(folder.image_folders) & set(parts["train"].image_folders):
            _check_classes(folder, within=top)
        _check_loose(folder)
    return parts


def _unlabelled(top: Folder, folder: Folder) -> NasError:
    if folder.content.error:
        return _unreadable(folder, folder.content.error)
    number, name = len(folder.images), shown(folder.name)
    labelled = [one for part, one in top.folders.items() if part.casefold() == "train" and one.image_folders]
    if number and labelled:
        remedy = f"move it out of {shown(top.path)} if it has no labels"
        rest = [one for part, one in top.image_folders.items() if part.casefold() in PARTS and one is not folder]
        if not any(one.image_folders for one in rest if one not in labelled):
            remedy += f"; without it, give --dataset.root {shown(labelled[0].path)}"
        return _refusal(top, f"has images without classes in {name}/ ({number:,}); {remedy}")
    content = f"{number:,} images and no folder of images" if number else "no folder of images"
    return _refusal(top, f"has {content} in {name}/; {_per_class(folder)}")


def _check_classes(level: Folder, *, within: Folder | None = None) -> None:
    """Check that the sub-folders of a folder are classes; `within` is the root if the folder is a part.

    Raises: NasError if they are, or may be, something else.
    """
    for folder in level.folders.values():
        if folder.content.error:
            raise _unreadable(folder, folder.content.error)
    folders = level.image_folders
    if not folders:
        raise _no_folders(level)
    if len(folders) == 1:
        raise _lone(level, *folders.values(), within=within)
    if parts := _parts_beside(folders):
        raise _misnamed(level, parts)
    _check_targets(level)
    _check_containers(level)
    _check_groups(level)


def _check_targets(level: Folder) -> None:
    """Raises: NasError for a folder of images and one of their masks or other labels."""
    said = {name: set(words(name)) for name in level.image_folders}
    pictures = [name for name, its in said.items() if its and its <= IMAGE_WORDS]
    targets = [name for name, its in said.items() if its & LABEL_WORDS and its <= LABEL_WORDS | IMAGE_WORDS]
    if pictures and targets and len(said) == len(pictures) + len(targets):
        raise _refusal(level, f"has {shown(pictures[0])} and their {shown(targets[0])}, not classes; {_per_class(level)}")


def _check_loose(level: Folder) -> None:
    if len(level.images) > MAX_LOOSE:
        remedy = "move each into the folder of its class, or all of them away"
        raise _refusal(level, f"has {len(level.images):,} images beside its class folders; {remedy}")


def _no_folders(level: Folder) -> NasError:
    if level.images:
        return _refusal(level, f"has {len(level.images):,} images and no folder of images; {_per_class(level)}")
    return _refusal(level, f"has no folder of images{_other_files(level)}; it must have {ARRANGEMENTS}")


def _other_files(level: Folder) -> str:
    """What there is in place of images, such as `, but other files: 20 .heic`, in the folder and its sub-folders."""
    contents = [level.content, *(folder.content for folder in level.folders.values())]
    names = [name for content in contents for name, why in content.left_out if why is not Why.SYSTEM]
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names).most_common(3)
    return f", but other files: {', '.join(f'{number:,} {suffix}' for suffix, number in counts)}" if counts else ""


def _per_class(level: Folder) -> str:
    return f"put the images of each class into a folder of its own, {shown(level.path)}/CLASS"


def _lone(level: Folder, folder: Folder, *, within: Folder | None) -> NasError:
    """The refusal of a folder in which one folder alone has images."""
    path, name = shown(level.path), shown(folder.name)
    if not folder.image_folders:
        if part_of(folder.name) or set(words(folder.name)) <= IMAGE_WORDS:
            return _refusal(level, f"has images without classes, in {name}/; {_per_class(level)}")
        if within is not None and level.name.casefold() != "train":
            part = shown(level.name)
            remedy = f"move {part}/ away if it has no labels, or put the images of each class into its folder, {path}/CLASS"
            return _refusal(within, f"has images of no class of train/ in {part}/{name}; {remedy}")
        return _refusal(level, f"has the one class {name}{_other_files(level)}; {TWO_CLASSES}")
    if within is not None:
        wrapper = f"{path}/{name}"
        return _refusal(within, f"has a folder around the classes, {wrapper}; move the folders in {wrapper} up into {path}")
    if folder.name.casefold() == "train" and len(folder.image_folders) > 1:
        return _refusal(level, f"has train/ but neither val/ nor test/; add one, or give --dataset.root {path}/{name}")
    _parts_of(folder)  # its own refusal says more, if it is none to give
    return _refusal(level, f"has one folder around the images; give --dataset.root {path}/{name}")


def _parts_beside(folders: dict[str, Folder]) -> dict[str, str]:
    """Name → part, of folders that are parts and no classes; train may be a class of vehicles, valid the opposite of invalid."""
    parts = parts_among(folders)
    if len(parts) != 1 or words(next(iter(parts))) not in MAY_BE_CLASSES:
        return parts
    (name,) = parts
    below, others = set(folders[name].image_folders), {other: folder for other, folder in folders.items() if other != name}
    deep = any(folder.image_folders for folder in others.values())
    is_part = bool(below) and (below <= set(others) or (len(others) == 1 and not deep))
    return parts if is_part else {}


def _misnamed(level: Folder, parts: dict[str, str]) -> NasError:
    names = list(map(shown, parts))
    if len(parts) > 1:
        remedy = f"arrange them as {_arrangement(level, parts)}, with the images of each class in its folder"
        return _refusal(level, f"has {_listed(names)}, which look like parts and no classes; {remedy}")
    if set(parts.values()) == {"train"} and len(level.folders[next(iter(parts))].image_folders) > 1:
        remedy = f"give --dataset.root {shown(level.path)}/{names[0]}, or arrange {_arrangement(level, {'': 'val'})}"
    else:
        remedy = f"arrange {_arrangement(level, parts)}, move it away if it has no labels, or rename it if it is a class"
    return _refusal(level, f"has {names[0]}, which looks like a part and no class; {remedy}")


def _arrangement(level: Folder, parts: Mapping[str, str]) -> str:
    return ", ".join(f"{shown(level.path)}/{part}/CLASS" for part in PARTS if part in {"train", *parts.values()})


def _check_containers(level: Folder) -> None:
    """Check that no sub-folder is a second folder of the same classes.

    Raises: NasError if one is.
    """
    classes = set(level.folders)
    for name, folder in level.folders.items():
        inside = set(folder.image_folders) - {name}
        if inside and inside <= classes and not folder.images:
            twice, remedy = _listed(list(map(shown, sorted(inside)))), "move its images into the folders of their classes"
            raise _refusal(level, f"has {twice} twice: as classes, and in {shown(name)}/; {remedy}")


def _check_groups(level: Folder) -> None:
    """Check that the classes are not one level deeper.

    If the same names recur in each sub-folder, the level whose names look more like numbers, dates, places or cameras has the
    groups; if neither does, nobody can say. Different names in each sub-folder are those of classes only if the sub-folders' own
    look like groups.
    Raises: NasError if the sub-folders are groups or parts of the classes, or may be.
    """
    outer, inner = _repeated(level)
    stands_for = parts_among(inner)
    if len(set(stands_for.values())) > 1:
        names = _listed(list(map(shown, stands_for)))
        within = [folder.image_folders for folder in level.image_folders.values()]
        if any(below[part].image_folders for below in within for part in stands_for if part in below):  # fold1/train/CLASS
            whole = f"each of {_listed(list(map(shown, outer)))}; give one, such as --dataset.root"
            raise _refusal(level, f"has the parts {names} in {whole} {shown(level.path)}/{shown(outer[0])}")
        raise _refusal(level, f"has the parts {names} in each class; arrange them as {_arrangement(level, stands_for)}")
    recur = bool(inner)
    if not recur:
        outer, inner = list(level.image_folders), _only_below(level)
    above, below = grouping(outer), grouping(inner)
    if below > above or not inner or (below == above and not recur):
        return
    root, first, second = shown(level.path), shown(outer[0]), shown(inner[0])
    problem = f"has folders named {_listed(list(map(shown, inner)))} in {'each of ' * recur}{_listed(list(map(shown, outer)))}"
    if above == 2:
        remedy = f"so these are no classes; move the images of {root}/{first}/{second} to {root}/{second}/{first}, and so on"
    else:
        remedy = (
            f"and either may be the classes; put the images of a class into one folder: {root}/{second}/{first} if {second} is a "
            f"class, {root}/{first} without folders in it if {first} is one"
        )
    raise _refusal(level, f"{problem}, {remedy}")


def _only_below(level: Folder) -> list[str]:
    """The names of the folders in the sub-folders, if no image lies above them and some sub-folder has several; else none."""
    outer = level.image_folders
    if any(folder.images for folder in outer.values()):
        return []
    inner = [name for folder in outer.values() for name in folder.image_folders]
    return inner if len(inner) > len(outer) else []


def _repeated(level: Folder) -> tuple[list[str], list[str]]:
    """(names of sub-folders, names that recur in them), if most of what lies in most sub-folders recurs in others; else empty."""
    outer = dict(level.image_folders)
    below = {name: folder.image_folders for name, folder in outer.items()}
    for _ in range(MAX_DEPTH):
        holding = {name: folders for name, folders in below.items() if folders}
        counts = Counter(inner for folders in holding.values() for inner in folders)
        recurring = [inner for inner, number in counts.items() if number > 1]
        pairs = sum(counts[inner] for inner in recurring)
        if 2 * len(holding) < len(outer) or 2 * pairs <= sum(counts.values()):
            return [], []
        if len(counts) > 1:
            return list(holding), sorted(recurring)
        below = {name: folder.image_folders for name, folders in holding.items() for folder in folders.values()}  # cat/images
    return [], []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" … ({len(names):,})" if len(names) > NAMED else "")


def _refusal(top: Folder, problem: str) -> NasError:
    """An error whose first line says what is wrong and what to do; the others show the tree, a level each."""
    lines, level = [f"{shown(top.path)} {problem}"], top
    for depth in range(3):
        folders = level.image_folders or level.folders
        names = f": {_listed(list(map(shown, folders)))}" if folders else ""
        files = len(level.images)
        counted = f"{files:,} image{'' if files == 1 else 's'}, {len(folders):,} folder{'' if len(folders) == 1 else 's'}{names}"
        lines.append(f"  {'  ' * depth}{shown(level.name or level.path)}/  {counted}")
        if not folders:
            break
        level = next(iter(folders.values()))
    return NasError("\n".join(lines))
