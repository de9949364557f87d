"""Where trials under way keep their checkpoints, and where the driver takes the weights of those that ended from.

A folder, or any URI that fsspec knows.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nas.errors import NasError, users_code
from nas.files import whole_file

logger = logging.getLogger(__name__)

LAST_FILE: Final = "last.pt"
"""The latest checkpoint."""
WEIGHTS_FILE: Final = "weights.safetensors"
FILES: Final = (LAST_FILE, WEIGHTS_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFolder:
    """A trial's folder, at a place that worker and driver both reach."""

    uri: str

    @staticmethod
    def of(storage: str, trial: int) -> "TrialFolder":
        """That of a trial by its number."""
        return TrialFolder(uri=f"{storage}/trial{trial}")

    @contextmanager
    def opened(self) -> Iterator["OpenFolder"]:
        """In a worker: the folder on this machine's disk; itself if it is there, else a copy that `push` sends back."""
        fs, place = _found(self.uri)
        if isinstance(fs, LocalFileSystem):
            yield OpenFolder(path=Path(place))
            return
        with tempfile.TemporaryDirectory() as copy:
            for file in FILES:
                if fs.exists(f"{place}/{file}"):
                    fs.get_file(f"{place}/{file}", f"{copy}/{file}")
            yield OpenFolder(path=Path(copy), fs=fs, place=place)

    def take_weights(self, target: Path) -> None:
        """Put a copy of the trial's weights at `target`, whole or not at all.

        Raises: NasError if they cannot be read or written.
        """
        with users_code(f"weights of {self.uri}"), whole_file(target) as partial:
            fs, place = _found(self.uri)
            fs.get_file(f"{place}/{WEIGHTS_FILE}", str(partial))

    def remove(self) -> None:
        """Remove it, if it is there.

        Raises: NasError if that fails.
        """
        with users_code(f"storage {self.uri}"):
            fs, place = _found(self.uri)
            if isinstance(fs, LocalFileSystem):
                shutil.rmtree(place, ignore_errors=True)
            elif fs.exists(place):
                fs.rm(place, recursive=True)


@dataclass(slots=True, kw_only=True)
class OpenFolder:
    """A trial's folder on a worker's disk."""

    path: Path
    fs: Any = None
    """Of the place that it is a copy of; None if it is that place."""
    place: str = ""
    pushed: tuple[float, ...] = ()

    def push(self) -> None:
        """Send what has changed since the last time to the place that this is a copy of.

        A training is worth more than its checkpoint: what cannot be sent is told, and tried again the next time.
        """
        if self.fs is None:
            return
        files = [file for name in FILES if (file := self.path / name).is_file()]
        times = tuple(file.stat().st_mtime for file in files)
        if times == self.pushed:
            return
        try:
            with users_code(f"storage {self.place}"):
                self.fs.makedirs(self.place, exist_ok=True)
                for file in files:
                    self.fs.put_file(str(file), f"{self.place}/{file.name}")
        except NasError as error:
            logger.warning("%s", error)
        else:
            self.pushed = times


def check_storage(uri: str) -> None:
    """Refuse a place that this process cannot write to.

    Raises: NasError.
    """
    with users_code(f"storage {uri!r}, which must be a folder or a URI that fsspec knows,"):
        fs, place = _found(uri)
        fs.makedirs(place, exist_ok=True)
        fs.pipe_file(f"{place}/.written", b"")
        fs.rm_file(f"{place}/.written")


def is_local(uri: str) -> bool:
    """Whether it is a folder of each machine's own file system."""
    return isinstance(_found(uri)[0], LocalFileSystem)


def _found(uri: str) -> tuple[Any, str]:
    fs, place = fsspec.core.url_to_fs(uri)
    return fs, str(place)
