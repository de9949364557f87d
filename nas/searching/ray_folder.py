"""Ray's temporary folder: a short one of our own, of which nothing stays."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nas.errors import NasError

PREFIX: Final = "nas-ray-"
LOCK: Final = "lock"  # held while the folder's session lives; the system releases it when its process dies
# Bytes of the folder's path: a socket's path has at most 107, and Ray adds /session_DATE_TIME_PROCESS/sockets/plasma_store.1.
MAX_BYTES: Final = 40


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder for Ray's files, removed at the end; those that killed processes left are removed first.

    It is in the temporary folder of the system where that of the user has too long a name.

    Raises: NasError if there is no folder for it.
    """
    places = [place for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm") if _is_usable(place)]  # noqa: S108
    if not places:
        raise NasError("Ray needs a temporary folder of at most 24 letters, and /tmp cannot be written; give one with TMPDIR")
    _remove_left_over(Path(places[0]))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=places[0]))
    with (folder / LOCK).open("wb") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_usable(place: str) -> bool:
    short = len(os.fsencode(place)) + len(f"/{PREFIX}12345678") <= MAX_BYTES
    return short and os.access(place, os.W_OK | os.X_OK)


def _remove_left_over(place: Path) -> None:
    """Remove the folders of processes that have died."""
    for lock in place.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open("rb") as stream:  # it is in use, or another user's
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
