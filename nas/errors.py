"""What goes wrong through a user's own input; the command line prints the sentence and exits with 2."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class NasError(Exception):
    """A mistake in what was given; its text is one sentence: what was given, and what is allowed."""


class ArchitectureError(NasError):
    """A value that no architecture may have."""


class SpaceError(NasError):
    """An architecture that is not a point of the search space."""


class MachineBusyError(NasError):
    """A machine that does not hold still while it is measured."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Where a user's own file runs, which may raise anything: whatever it raises becomes one sentence about `what`."""
    try:
        yield
    except NasError as error:
        raise NasError(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:
        raise NasError(f"{what} raised {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:500]


def unknown(kind: str, given: str, known: Iterable[str]) -> NasError:
    """The error for a name that does not exist, with the nearest name and every known one, or the nearest of very many."""
    names, given = sorted(known), given[:100]
    near = get_close_matches(given, names, n=8, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    told = f"known: {', '.join(names) or 'none'}"
    if len(names) > 40:
        told = (f"near it: {', '.join(near)}; " if near else "") + f"there are {len(names):,}, such as {names[0]}"
    return NasError(f"{kind} {given!r} does not exist; {hint}{told}")
