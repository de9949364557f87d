"""The fingerprint of a dataset's images: it shows whether other sessions, exports and runs read the same ones."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

KEY_DIGITS: Final = 32  # hexadecimal ones of SHA-256, which is faster than BLAKE2 on CPUs with instructions for it
MAX_NAMED: Final = 3  # classes that a sentence names


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """How many images of each class a part has, and which ones, in any order."""

    counts: Mapping[str, Mapping[str, int]]
    """Part → class → number of images."""
    keys: Mapping[str, Mapping[str, str]]
    """Part → class → hash of the images' contents."""

    @property
    def key(self) -> str:
        """A hash of all the images."""
        return hashlib.sha256(repr(self.keys).encode()).hexdigest()[:KEY_DIGITS]

    @staticmethod
    def of(parts: Mapping[str, tuple[Iterable[bytes], Iterable[int]]], classes: Sequence[str]) -> "Fingerprint":
        """The fingerprint of parts, each the digests of its images and their labels."""
        hashed = {part: _by_class(digests, labels, classes) for part, (digests, labels) in parts.items()}
        return Fingerprint(
            counts={part: counts for part, (counts, _) in hashed.items()}, keys={part: keys for part, (_, keys) in hashed.items()}
        )

    def difference(self, now: "Fingerprint", parts: Iterable[str] | None = None) -> str:
        """What differs now, in words, in the parts that both have; empty if nothing does."""
        counts, contents = [], []
        for part in [part for part in (parts or self.counts) if part in self.counts and part in now.counts]:
            for name in dict.fromkeys((*self.counts[part], *now.counts[part])):
                had, has = (one.counts[part].get(name, 0) for one in (self, now))
                if had != has:
                    counts.append(f"{part}/{name} has {has:,}, had {had:,}")
                elif self.keys[part].get(name) != now.keys[part].get(name):
                    contents.append(f"{part}/{name}")
        return "; ".join([_listed(counts)] * bool(counts) + [f"other contents in {_listed(contents)}"] * bool(contents))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more classes" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _by_class(digests: Iterable[bytes], labels: Iterable[int], classes: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """(class → number of images, class → hash of their digests in any order)."""
    by_class: dict[str, list[bytes]] = {name: [] for name in classes}
    for digest, label in zip(digests, labels, strict=True):
        by_class[classes[label]].append(digest)
    keys = {name: hashlib.sha256(b"".join(sorted(of_class))).hexdigest()[:KEY_DIGITS] for name, of_class in by_class.items()}
    return {name: len(of_class) for name, of_class in by_class.items()}, keys
