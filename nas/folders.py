"""Folders that are written whole or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nas.errors import NasError


@contextmanager
def whole_folder(target: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `target` when the block ends without an error.

    What is there stays until then, also when it is killed: it comes back with the next call. `check` refuses, by raising, what
    must not be replaced; it is asked before the block and after it.

    Raises: NasError for a folder that another process writes, or that cannot be written.
    """
    locked = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        locked.touch()  # a lock waits for a place that cannot be written as for one that is held
        with FileLock(locked, timeout=0), _beside(target, locked) as (partial, earlier):
            check(target)
            partial.mkdir()
            yield partial
            check(target)
            if target.exists():
                target.rename(earlier)
            partial.rename(target)
            shutil.rmtree(earlier, ignore_errors=True)
    except Timeout:
        raise NasError(f"{target} is being written by another process; wait, or give another folder with --output") from None
    except OSError as error:
        raise NasError(f"{target} cannot be written: {error.strerror or error}; give another folder with --output") from None


@contextmanager
def _beside(target: Path, locked: Path) -> Iterator[tuple[Path, Path]]:
    """Where the new folder is written, and where the earlier one waits; both are gone before and after."""
    partial, earlier = (target.with_name(f".{target.name}.{state}") for state in ("partial", "earlier"))
    _put_back(earlier, target)
    for left in (earlier, partial):
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield partial, earlier
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(earlier, target)
        locked.unlink(missing_ok=True)


def _put_back(earlier: Path, target: Path) -> None:
    if earlier.exists() and not target.exists():
        earlier.rename(target)
