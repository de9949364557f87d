"""Atomic writes of files and folders, and file locks."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nas.errors import NasError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file atomically: at any moment, even after a power cut, the path holds the old file or the new one.

    Raises: NasError if the disk is full or the folder cannot be written; the old file stays.
    """
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; what is written there replaces `path` when the block ends without an error.

    Raises: NasError if the file cannot be written; the old file stays.
    """
    partial = path.with_name(f".{path.name}.partial")  # a killed process leaves it; the next call overwrites it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror or error}; what was there before is kept") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary folder to write into; it replaces `target` when the block ends without an error.

    The old folder stays until then. If the process is killed during the replacement, the next call restores the old folder.
    `check` raises an error for a folder that must not be replaced; it runs before the block and after it.

    Raises: NasError if another process writes the folder, or if it cannot be written.
    """
    old, partial, lock = (target.with_name(f".{target.name}.{role}") for role in ("old", "partial", "lock"))
    busy = f"{target} is being written by another process; wait, or give another folder with --output"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        with locked(lock, busy=busy), ExitStack() as cleanup:
            cleanup.callback(lock.unlink, missing_ok=True)
            cleanup.callback(_restore, target, old, partial)
            _restore(target, old, partial)
            check(target)
            partial.mkdir()
            yield partial
            check(target)
            _replace(target, old, partial)
    except OSError as error:
        raise NasError(f"{target} cannot be written: {error.strerror or error}; give another folder with --output") from None


def _replace(target: Path, old: Path, partial: Path) -> None:
    if target.exists():
        target.rename(old)
    partial.rename(target)


def _restore(target: Path, old: Path, partial: Path) -> None:
    """Put the old folder back if no new one replaced it, and remove the temporary folders."""
    if old.exists() and not target.exists():
        old.rename(target)
    for folder in (old, partial):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(file: Path, *, busy: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when this process dies.

    Raises: NasError, with the text `busy` if another process still holds the lock after `wait_seconds`, or if the file cannot be
    created.
    """
    lock = FileLock(file, timeout=wait_seconds)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # else FileLock waits for a file that it cannot create
        lock.acquire()
    except Timeout:
        raise NasError(busy) from None
    except OSError as error:
        raise NasError(f"{file.parent} cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(file: Path) -> bool:
    """True if a process holds the lock on a file; on a network file system, also a process on another machine."""
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # other errors: no such file, or a file system without locks
        return isinstance(error, BlockingIOError)
    return False
