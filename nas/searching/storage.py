"""Where trials under way keep their checkpoints, and where the driver takes the weights of those that ended from.

A folder, or any URI that fsspec knows.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nas.errors import NasError, user_code
from nas.files import atomic_file
from nas.training.settings import LAST_FILE

logger = logging.getLogger(__name__)

WEIGHTS_FILE: Final = "weights.safetensors"  # of a checkpoint, which is no export: that has model.safetensors
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
    def opened(self) -> Iterator[tuple[Path, Callable[[], None]]]:
        """In a worker: (the folder on this machine's disk, what sends its changes to the place that it is a copy of).

        A training is worth more than its checkpoint: what cannot be sent is logged, and sent the next time.
        """
        fs, place = _found(self.uri)
        if isinstance(fs, LocalFileSystem):
            yield Path(place), lambda: None
            return
        sent: dict[Path, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            copies = [Path(folder, file) for file in FILES]
            for copy in copies:
                if fs.exists(f"{place}/{copy.name}"):
                    fs.get_file(f"{place}/{copy.name}", str(copy))

            def push() -> None:
                times = {copy: copy.stat().st_mtime for copy in copies if copy.is_file()}
                try:
                    with user_code(f"storage {place}"):
                        for copy, time in times.items() - sent.items():
                            fs.makedirs(place, exist_ok=True)
                            fs.put_file(str(copy), f"{place}/{copy.name}")
                            sent[copy] = time
                except NasError as error:
                    logger.warning("%s", error)

            yield Path(folder), push

    def take_weights(self, target: Path) -> None:
        """Put a copy of the trial's weights at `target`, whole or not at all.

        Raises: NasError if they cannot be read or written.
        """
        with user_code(f"weights of {self.uri}"), atomic_file(target) as partial:
            fs, place = _found(self.uri)
            fs.get_file(f"{place}/{WEIGHTS_FILE}", str(partial))

    def remove(self) -> None:
        """Remove it, if it is there.

        Raises: NasError if that fails.
        """
        with user_code(f"storage {self.uri}"):
            fs, place = _found(self.uri)
            if isinstance(fs, LocalFileSystem):
                shutil.rmtree(place, ignore_errors=True)
            elif fs.exists(place):
                fs.rm(place, recursive=True)


def check_storage(uri: str) -> None:
    """Refuse a place that this process cannot write to.

    Raises: NasError.
    """
    with user_code(f"storage {uri!r}, which must be a folder or a URI that fsspec knows,"):
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
