"""Files and folders that are whole or not there, logs of one line an event, and locks: the one place that knows how."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas.errors import NasError


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that at any moment, even after a power cut, its place holds the old or the new one.

    Raises: NasError if the disk is full or the folder cannot be written; the old file stays.
    """
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the place of `path` when the block ends without an error.

    Raises: NasError if it cannot be written; what was in the place stays.
    """
    partial = path.with_name(f".{path.name}.partial")  # the next call overwrites what a killed one left
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror or error}; what was there before is kept") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `target` when the block ends without an error.

    The old folder stays until then, also if the process is killed: the next call puts it back. `check` raises for a folder that
    must not be replaced; it runs before the block and after it.

    Raises: NasError for a folder that another process writes, or that cannot be written.
    """
    partial, earlier, lock = (target.with_name(f".{target.name}.{state}") for state in ("partial", "earlier", "lock"))
    busy = f"{target} is being written by another process; wait, or give another folder with --output"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        with locked(lock, busy=busy), ExitStack() as at_the_end:
            at_the_end.callback(lock.unlink, missing_ok=True)
            at_the_end.callback(_settle, target, partial, earlier)
            _settle(target, partial, earlier)
            check(target)
            partial.mkdir()
            yield partial
            check(target)
            if target.exists():
                target.rename(earlier)
            partial.rename(target)
    except OSError as error:
        raise NasError(f"{target} cannot be written: {error.strerror or error}; give another folder with --output") from None


def _settle(target: Path, partial: Path, earlier: Path) -> None:
    """Put back the old folder where no new one has taken its place, and remove what else lies beside it."""
    if earlier.exists() and not target.exists():
        earlier.rename(target)
    for left in (earlier, partial):
        shutil.rmtree(left, ignore_errors=True)


def append_line(file: Path, record: Mapping[str, Any]) -> None:
    """Add one line of JSON to a log: whole, or not at all.

    Raises: NasError if the disk is full or the folder is gone.
    """
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()
    try:
        with file.open("ab") as log:
            log.write(line)
    except OSError as error:
        mend_lines(file)  # a full disk takes a part of it
        raise NasError(f"{file} cannot be written: {error.strerror}; what had ended before is kept") from None


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a log; a torn last line, whose writer was killed or still writes, is left out.

    Raises: NasError if another line is damaged.
    """
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            if number == len(lines):
                return
            raise NasError(f"{file}: line {number} is damaged; restore the file from a copy, or remove that line") from None
        yield record


def mend_lines(file: Path) -> None:
    """Cut a torn last line off a log, so that others can follow it.

    Raises: NasError if the file cannot be used.
    """
    try:
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    except OSError as error:
        raise NasError(f"{file} cannot be used: {error.strerror}") from None


@contextmanager
def locked(file: Path, *, busy: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when this process dies.

    Raises: NasError with the sentence `busy` if another process holds it after so many seconds, or if it cannot be written.
    """
    lock = FileLock(file, timeout=wait_seconds)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # else a lock waits for a place that cannot be written as for one that is held
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
    """Whether a process holds the lock on a file, on this machine or where the file system passes on its locks."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # else there is no such file, or the file system has no locks
        return isinstance(error, BlockingIOError)
    return False
