"""Atomic writes of files and folders, and file locks."""

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from nas.errors import NasError

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05  # between two tries to take a lock
UNSUPPORTED: Final = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # by the file system


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file atomically: at any moment, even after a power cut, the path holds the old file or the new one.

    Raises: NasError if the disk is full or the folder cannot be written; the old file stays.
    """
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        sync(file.fileno())


def sync(descriptor: int) -> None:
    """Wait until a file is on the disk, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


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
        with suppress(OSError):  # it is not there, or cannot be
            partial.unlink()


@contextmanager
def atomic_folder(target: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary folder to write into; it replaces `target` when the block ends without an error.

    The old folder stays until then. If the process is killed during the replacement, the next call restores the old folder.
    `check` raises an error for a folder that must not be replaced; it runs before the block and after it.

    Raises: NasError if another process writes the folder, or if it cannot be written.
    """
    old, partial, lock = (target.with_name(f".{target.name}.{role}") for role in ("old", "partial", "lock"))
    busy = f"{target} is being written by another process; wait, or give another folder"
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
        advice = "run the same command again once it can, or give another folder"
        raise NasError(f"{target} cannot be written: {error.strerror or error}; {advice}") from None


def _replace(target: Path, old: Path, partial: Path) -> None:
    if target.exists():
        try:
            target.rename(old)
        except OSError as error:
            if error.errno != errno.EXDEV:  # a folder of a container's image cannot be renamed
                raise
            shutil.move(target, old)
    partial.rename(target)


def _restore(target: Path, old: Path, partial: Path) -> None:
    """Put the old folder back if no new one replaced it, and remove the temporary folders."""
    if old.exists() and not target.exists():
        old.rename(target)
    for folder in (old, partial):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(file: Path, *, busy: str, wait_seconds: float = 0.0, courtesy: bool = False) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when this process dies.

    Where the file system has no locks, a warning says so and the block runs without one. So it does with a lock of mere
    `courtesy`, which makes no work wrong, whatever is wrong with its file.

    Raises: NasError, with the text `busy` if another process still holds the lock after `wait_seconds`, or if the file cannot be
    created.
    """
    deadline, descriptor = time.monotonic() + wait_seconds, None
    try:
        while (descriptor := _try_lock(file, read_only=courtesy)) is None:
            if time.monotonic() >= deadline:
                raise NasError(busy)
            time.sleep(POLL_SECONDS)
    except OSError as error:
        if not courtesy and error.errno not in UNSUPPORTED:
            raise NasError(f"{file.parent} cannot be written: {error.strerror or error}") from None
        logger.warning("%s cannot be locked (%s), so another process may use it at the same time", file, error.strerror or error)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _try_lock(file: Path, *, read_only: bool) -> int | None:
    """The descriptor of a file that is now locked; None if another process holds the lock, or removes the file.

    `read_only` accepts a file that cannot be written, such as another user's: only network file systems cannot lock it.
    """
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        if not read_only:
            raise
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    taken = False
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            taken = status.st_nlink > 0 or os.path.samestat(status, file.stat())
    finally:
        if not taken:
            os.close(descriptor)
    return descriptor if taken else None


def is_locked(file: Path) -> bool:
    """True if a process holds the lock on a file; on a network file system, also a process on another machine."""
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # other errors: no such file, or a file system without locks
        return isinstance(error, BlockingIOError)
    return False
