"""Errors that a user can correct: each is one sentence, which the command line prints before it exits with code 2."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Final

# A full disk or quota, a file that is too large for the disk, a disk that has become read-only, and one that fails.
DISK_FAULTS: Final = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)))


class NasError(Exception):
    """A user's mistake. The text is one sentence: the value, what is allowed, and where."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ArchitectureError(NasError):
    """An architecture with a value that is not allowed."""


class SpaceError(NasError):
    """An architecture outside the search space."""


class MachineBusyError(NasError):
    """A machine that is too busy to measure times on."""


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn an error of the user's own code inside the block into a NasError that begins with `what`."""
    try:
        yield
    except NasError as error:
        raise NasError(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:
        raise NasError(f"{what} raised {describe_error(error)}") from error


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn an import that fails inside the block into a NasError; `extra` is the extra of this package that installs it."""
    try:
        yield
    except ImportError as error:
        raise NasError(f"{error}; install it with pip install 'frontier-nas[{extra}]'") from None


def describe_error(error: BaseException) -> str:
    """The type of an exception and the first line of its text, at most 500 characters."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:500]


def is_disk_fault(text: str) -> bool:
    """Whether an error's text is that of a disk that cannot be written or read, in whatever the error was wrapped."""
    return any(fault in text for fault in DISK_FAULTS)


def unknown_name(kind: str, name: str, names: Iterable[str]) -> NasError:
    """The error for a name that does not exist. It suggests the nearest name, and lists up to 40 names, or else those near it."""
    options, name = sorted(names), name[:100]
    matches = get_close_matches(name, options, n=8, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    listed = f"known: {', '.join(options) or 'none'}"
    if len(options) > 40:
        listed = (f"near it: {', '.join(matches)}; " if matches else "") + f"there are {len(options):,}, such as {options[0]}"
    return NasError(f"{kind} {name!r} does not exist; {hint}{listed}")
