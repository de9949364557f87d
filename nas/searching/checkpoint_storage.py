"""The storage of running trials: a folder, or any URI that fsspec supports.

Workers write their checkpoints there, and the driver reads the final weights from there.
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

WEIGHTS_FILE: Final = "weights.safetensors"  # in a trial's folder; an export has model.safetensors instead
FILES: Final = (LAST_FILE, WEIGHTS_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFolder:
    """A trial's folder in a storage that worker and driver both reach."""

    uri: str

    @staticmethod
    def of(storage: str, trial: int) -> "TrialFolder":
        """The folder of a trial by its number."""
        return TrialFolder(uri=f"{storage}/trial{trial}")

    @contextmanager
    def opened(self) -> Iterator[tuple[Path, Callable[[], None]]]:
        """(local folder, upload), for a worker: the folder itself, or a copy whose changes `upload` writes to the storage.

        A failed upload is logged and tried again at the next call, since a lost checkpoint is no reason to end the training.
        """
        fs, path = _file_system(self.uri)
        if isinstance(fs, LocalFileSystem):
            yield Path(path), lambda: None
            return
        uploaded: dict[Path, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            copies = [Path(folder, file) for file in FILES]
            for copy in copies:
                if fs.exists(f"{path}/{copy.name}"):
                    fs.get_file(f"{path}/{copy.name}", str(copy))

            def upload() -> None:
                times = {copy: copy.stat().st_mtime for copy in copies if copy.is_file()}
                try:
                    with user_code(f"storage {path}"):
                        for copy, time in times.items() - uploaded.items():
                            fs.makedirs(path, exist_ok=True)
                            fs.put_file(str(copy), f"{path}/{copy.name}")
                            uploaded[copy] = time
                except NasError as error:
                    logger.warning("%s", error)

            yield Path(folder), upload

    def has_weights(self) -> bool:
        """Whether the trial's weights are here.

        Raises: NasError if the storage cannot be read.
        """
        with user_code(f"weights of {self.uri}"):
            fs, path = _file_system(self.uri)
            return bool(fs.exists(f"{path}/{WEIGHTS_FILE}"))

    def take_weights(self, target: Path) -> None:
        """Copy the trial's weights to `target`, atomically.

        Raises: NasError if they cannot be read or written.
        """
        with user_code(f"weights of {self.uri}"), atomic_file(target) as partial:
            fs, path = _file_system(self.uri)
            fs.get_file(f"{path}/{WEIGHTS_FILE}", str(partial))

    def remove(self) -> None:
        """Remove the folder if it exists.

        Raises: NasError if it cannot be removed.
        """
        with user_code(f"storage {self.uri}"):
            fs, path = _file_system(self.uri)
            if isinstance(fs, LocalFileSystem):
                shutil.rmtree(path, ignore_errors=True)
            elif fs.exists(path):
                fs.rm(path, recursive=True)


def check_storage(uri: str) -> None:
    """Check that this process can write to a storage.

    Raises: NasError if it cannot.
    """
    with user_code(f"storage {uri!r}, which must be a folder or a URI that fsspec supports,"):
        fs, path = _file_system(uri)
        fs.makedirs(path, exist_ok=True)
        fs.pipe_file(f"{path}/.written", b"")
        fs.rm_file(f"{path}/.written")


def is_local(uri: str) -> bool:
    """True if it is a folder of the local file system."""
    return isinstance(_file_system(uri)[0], LocalFileSystem)


def _file_system(uri: str) -> tuple[Any, str]:
    fs, path = fsspec.core.url_to_fs(uri)
    return fs, str(path)
