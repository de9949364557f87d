"""The images that a run was searched on: where they are, and whether they are still the same."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.datasets.images.fingerprint import Fingerprint
from nas.errors import NasError
from nas.paths import places


def fingerprint_of(described: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint in a run's experiment.json; None if the run trained nothing."""
    record = described["dataset"]["fingerprint"]
    return None if record is None else Fingerprint(**record)


def changed_images(described: Mapping[str, Any], now: Fingerprint | None, parts: Iterable[str] | None = None) -> str:
    """How these images differ from a run's, in words; empty if they do not, or if one side is not known."""
    before = fingerprint_of(described)
    return "" if before is None or now is None else before.difference(now, parts)


def check_same_images(
    what: str, described: Mapping[str, Any], now: Fingerprint | None, parts: Iterable[str] | None = None, *, advice: str
) -> None:
    """Check that these images are those of a run, in all parts or in some.

    Raises: NasError if they are not.
    """
    if changed := changed_images(described, now, parts):
        raise NasError(f"{what}: the images have changed since it began: {changed}; {advice}")


def gone_images(run: Path, described: Mapping[str, Any]) -> str:
    """A sentence if a run's images are gone from their place: how to give another one; else an empty text."""
    if fingerprint_of(described) is None:
        return ""
    for name, paths in places(described["dataset"]["fields"]).items():
        if gone := [path for path in paths if not Path(path).exists()]:
            return (
                f"{run}: its images are gone from {gone[0]}; put them back, or name their new place with "
                f"`nas resume {run} --dataset.{name.replace('_', '-')} PATH`"
            )
    return ""


@contextmanager
def explaining_gone(run: Path, described: Mapping[str, Any]) -> Iterator[None]:
    """Says that a run's images are gone, where that is why the block raises a NasError."""
    try:
        yield
    except NasError:
        if gone := gone_images(run, described):
            raise NasError(gone) from None
        raise


def dataset_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference between two described datasets but their places, in words; empty if there is none."""
    paths = places(before["fields"]).keys() & places(now["fields"]).keys()
    there, here = ({**one, **(one["fields"] or {})} for one in (before, now))
    for name in dict.fromkeys((*there, *here)):
        if name in (*paths, "fields", "module", "file", "fingerprint") or there.get(name) == here.get(name):
            continue
        if name != "classes":
            return f"its dataset.{name} is {there.get(name)!r}, and here it is {here.get(name)!r}"
        sides = {"gone": (there, here), "new": (here, there)}
        lists = {what: [one for one in some[name] if one not in others[name]] for what, (some, others) in sides.items()}
        said = [f"{what}: {', '.join(map(str, listed[:3]))}" for what, listed in lists.items() if listed]
        return f"its classes have changed ({'; '.join(said) or 'their order'})"
    return ""


def moved_images(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Field → (paths before, paths now), of the described datasets' fields that are other paths now."""
    old, new = ({name: ", ".join(paths) for name, paths in places(one["fields"]).items()} for one in (before, now))
    return {f"dataset.{name}": (old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]}
