"""Paths that users give: made absolute, so that they mean the same in every folder and process."""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from nas.errors import NasError

logger = logging.getLogger(__name__)
T = TypeVar("T")
NAME: Final = "frontier-nas"  # of folders for this project's files
NoPath = Annotated[str, "never a path"]  # a text in a user's field that is the name of something else
BEGINNINGS: Final = ("~", "./", "../")  # of a text that can only be a path
PARTS: Final = ("train", "val", "test")  # in a user's field more often the part of a dataset than a folder beside


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path, with the home folder for `~`. Links stay as they are, but those that a `..` may follow.

    Raises: NasError if the home folder is not known, or the working folder is gone.
    """
    try:
        whole = Path(path).expanduser().absolute()
    except RuntimeError:
        raise NasError(f"{path}: no home folder is known for ~; give the whole path") from None
    except FileNotFoundError:
        raise NasError(f"{path}: the working folder is gone; give the whole path, or change to another folder") from None
    return whole.resolve() if ".." in whole.parts else whole  # what `..` means depends on links


def user_folder(variable: str, below_home: str) -> Path:
    """The folder of this user's files: below the folder of an environment variable, or below the home folder.

    Where the variable is not set and the home folder cannot be written, a warning says that a temporary folder takes its place.
    """
    if os.environ.get(variable):
        return absolute(os.environ[variable]) / NAME
    folder = absolute("~") / below_home / NAME
    there = existing_part(folder)
    return folder if there == folder or os.access(there, os.W_OK) else _temporary_folder(there, variable)


def existing_part(folder: Path) -> Path:
    """The folder, or the nearest one around it that exists, as far as this user can tell."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - Path's own may raise


@cache
def _temporary_folder(instead_of: Path, variable: str) -> Path:
    folder = Path(tempfile.gettempdir(), f"{NAME}-{os.getuid()}")
    logger.warning("%s cannot be written: %s takes its place; %s sets another folder", instead_of, folder, variable)
    return folder / variable.lower()


def expanded(word: str) -> str:
    """A word of a command, with the home folder for the `~` of `~/folder` or `--option=~/folder`, as a shell does it."""
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value == "~" or value.startswith("~/") else word  # noqa: PTH111


def with_absolute_paths(value: T) -> T:
    """A dataclass instance with the paths in its fields made absolute; any other value as it is.

    A path is a `Path`, or a text in a field that is annotated as one. Any other text is one if it begins with ~, ./ or ../, or if
    there is such a file or folder; never a text of a `Literal` or a `NoPath`, or the name of a part.
    """
    if not is_dataclass(value) or isinstance(value, type):
        return value
    before = {field.name: (getattr(value, field.name), field.type) for field in fields(value) if field.init}
    after = {name: _absolute_field(one, kind) for name, (one, kind) in before.items()}
    changed = {name: one for name, one in after.items() if one is not before[name][0]}
    return replace(value, **changed) if changed else value


def _absolute_field(value: Any, kind: Any) -> Any:
    """The value of a field with this annotation; the very same object if nothing changes."""
    if isinstance(value, list | tuple):
        parts = [_absolute_field(part, kind) for part in value]
        unchanged = all(one is other for one, other in zip(parts, value, strict=True))
        return value if unchanged or hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Path) or (isinstance(value, str) and "Path" in str(kind)):
        whole = absolute(value)
        return value if isinstance(value, Path) and whole == value else whole
    if not isinstance(value, str) or value in PARTS or any(word in str(kind) for word in ("Literal", "never a path")):
        return value
    is_path = value.startswith(BEGINNINGS) or os.path.exists(value)  # noqa: PTH110 - False for any text
    return str(absolute(value)) if is_path and str(absolute(value)) != value else value


def is_place(value: Any) -> bool:
    """Whether a value, or its description in JSON, is one or several absolute paths."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(is_place, value))
    text = value["path"] if isinstance(value, dict) and set(value) == {"path"} else value
    return isinstance(text, str | Path) and Path(text).is_absolute()


def places(described: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """Field → its absolute paths, of the described fields that have some."""
    fields_of = {name: value for name, value in (described or {}).items() if is_place(value)}
    each = {name: value if isinstance(value, list | tuple) else [value] for name, value in fields_of.items()}
    return {name: tuple(one["path"] if isinstance(one, dict) else str(one) for one in value) for name, value in each.items()}
