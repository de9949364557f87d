"""The account of a folder of images: what was read, what was left out and why, and what in the images is odd."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from nas.datasets.images.listing import LOST, Listing, Why, shown
from nas.datasets.images.splits import PARTS
from nas.errors import NasError

logger = logging.getLogger(__name__)

FEW_RANKED: Final = 100  # images to rank on: below it, one image is more than a percentage point
FEW_LEVELS: Final = 32  # of 256: below it, an image has lost more than three of its eight bits
NUM_EXAMPLES: Final = 3
NUM_CLASSES: Final = 20  # named in the account
Left = Mapping[Why, Sequence[tuple[int | None, str]]]  # reason → (label, file) of everything that is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Images with the same bytes in two parts."""

    parts: tuple[str, str]
    number: int
    example: tuple[str, str]
    """A path of each part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What decoding found in the files of a listing."""

    unreadable: Mapping[str, str]
    """Path → why the file cannot be read."""
    plain: tuple[str, ...]
    """The paths of images of which every pixel is the same."""
    copies: tuple[Copies, ...]
    levels: int
    """Number of different values, 1 to 256, that the pixels of all images have."""
    deep: int
    """Number of images with more than 8 bits."""
    bits: int
    """Their depth: they are scaled from 0 to 2**bits - 1."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Findings":
        """The findings of which `values` are the fields.

        Raises: TypeError, ValueError or AttributeError for values that are none.
        """
        copies = tuple(Copies(**pair) for pair in values["copies"])
        return cls(**{**values, "unreadable": dict(values["unreadable"]), "plain": tuple(values["plain"]), "copies": copies})

    def labels_read(self, files: Mapping[str, int]) -> list[int]:
        """The labels of the files that could be read."""
        return [label for path, label in files.items() if path not in self.unreadable]


def check(listing: Listing, findings: Findings, allow_missing: float) -> None:
    """Stop for a class of which too much is lost.

    Raises: NasError if more than the share `allow_missing` of a class's files is lost, or every image of a class is plain; an
    `allow_missing` of 1 accepts both.
    """
    left, plain = _left_out(listing, findings), _labelled(listing, findings.plain)
    listed = Counter(label for files in listing.parts.values() for label in files.values())
    damaged, plains = Counter(label for label, _ in _labelled(listing, findings.unreadable)), Counter(label for label, _ in plain)
    for label, name in enumerate(listing.classes if allow_missing < 1 else ()):
        lost = {why: [file for file in files if file[0] == label] for why, files in left.items() if why in LOST}
        number = sum(map(len, lost.values()))
        size = listing.sizes[label] + number - damaged[label]
        estimate = number - damaged[label] + damaged[label] * listing.sizes[label] / listed[label]  # of all, not of a share
        if estimate > allow_missing * size or lost.get(Why.UNREADABLE_FOLDER):
            raise NasError(
                f"{number:,} of the {size:,} files of class {shown(name)} are lost, and at most {allow_missing:.0%} may be; "
                f"repair or remove them, or allow more with --dataset.allow-missing: {_reasons(listing, lost)}"
            )
        if plains[label] == listed[label] - damaged[label] > 0:
            example = next(file for one, file in plain if one == label)
            scaled = f", with values from 0 to {_top(findings)}," if findings.deep else ""
            raise NasError(
                f"every image of class {shown(name)}{scaled} is one plain colour, such as {shown(example)}; check how they were "
                "saved, or accept them with --dataset.allow-missing 1"
            )


def tell(listing: Listing, findings: Findings) -> None:
    """Log the account: what was read and what was left out in a line each, then a warning for whatever else is odd."""
    read = {part: findings.labels_read(listing.parts[part]) for part in PARTS}
    counts = Counter(label for labels in read.values() for label in labels)
    named = [f"{shown(name)} {counts[label]:,}" for label, name in enumerate(listing.classes[:NUM_CLASSES])]
    classes = ", ".join(named + ["..."] * (len(listing.classes) > NUM_CLASSES))
    parts = ", ".join(f"{len(read[part]):,} to {use} on" for part, use in zip(PARTS, ("train", "rank", "test"), strict=True))
    logger.info("read %s images of %d classes (%s): %s", f"{counts.total():,}", len(listing.classes), classes, parts)
    left = _left_out(listing, findings)
    if left:
        level = logging.WARNING if LOST & set(left) else logging.INFO
        logger.log(level, "left out: %s", _reasons(listing, left))
    if findings.deep:
        others = counts.total() - findings.deep
        mixed = f"; {_images(others)} of 8 bits, with values from 0 to 255" if others else ""
        level = logging.WARNING if others else logging.INFO
        logger.log(level, "%s deeper than 8 bits, with values from 0 to %s%s", _images(findings.deep), _top(findings), mixed)
    for warning in _warnings(listing, findings):
        logger.warning(warning)


def _warnings(listing: Listing, findings: Findings) -> Iterator[str]:
    for copies in findings.copies:
        (one, other), (path, copy) = copies.parts, copies.example
        yield (
            f"{_images(copies.number)} in the {other} part and, byte for byte, in the {one} part, which makes accuracies too "
            f"high; keep one of each: {shown(copy)} is {shown(path)}"
        )
    for part in PARTS:
        files = listing.parts[part]
        for label in sorted(set(files.values()) - set(findings.labels_read(files))):
            yield f"no image of class {shown(listing.classes[label])} can be read in the {part} part, which lacks the class"
    num_ranked = len(findings.labels_read(listing.parts["val"]))
    if 0 < num_ranked < FEW_RANKED:
        yield f"networks are ranked on {num_ranked} images: one of them is {100 / num_ranked:.1f} percentage points of the top-1"
    if findings.plain:
        examples = _examples([shown(file) for _, file in _labelled(listing, findings.plain)])
        yield f"{_images(len(findings.plain))} one plain colour: {examples}"
    if findings.levels < FEW_LEVELS:
        yield (
            f"the pixels of all images have {findings.levels} different values of 256; if they should have more, check how the "
            "images were saved (of colours with 16 bits, the upper 8 are read)"
        )


def _left_out(listing: Listing, findings: Findings) -> Left:
    """All that is left out, by reason."""
    left: defaultdict[Why, list[tuple[int | None, str]]] = defaultdict(list)
    for one in listing.left_out:
        left[one.why].append((one.label, shown(one.path)))
    for label, path in _labelled(listing, findings.unreadable):
        left[Why.UNREADABLE].append((label, f"{shown(path)} ({findings.unreadable[path]})"))
    return left


def _reasons(listing: Listing, left: Left) -> str:
    """Each reason with its number of files, by class; files that are lost are named."""
    texts = []
    for why, files in left.items():
        if not files:
            continue
        counts = Counter(shown(listing.classes[label]) for label, _ in files if label is not None)
        details = ", ".join(f"{name} {number:,}" for name, number in counts.most_common(NUM_EXAMPLES))
        details += ", ..." * (len(counts) > NUM_EXAMPLES)
        if why in LOST or why is Why.BESIDE:
            details += f"{': ' * bool(details)}{_examples([file for _, file in files])}"
        suffixes = _suffixes([file for _, file in files]) if why is Why.UNKNOWN_TYPE else ""
        texts.append(f"{len(files):,} {why}{suffixes}" + f" ({details})" * bool(details))
    return "; ".join(texts)


def _suffixes(files: Sequence[str]) -> str:
    counts = Counter(PurePath(file).suffix or "no suffix" for file in files)
    return ", " + ", ".join(suffix for suffix, _ in counts.most_common(NUM_EXAMPLES))


def _labelled(listing: Listing, paths: Collection[str]) -> list[tuple[int, str]]:
    """(label, path) of those of `paths` that are in the listing, which all are unless the cache is of another time."""
    files = [listing.parts[part] for part in PARTS]
    return [(part[path], path) for path in paths for part in files if path in part]


def _top(findings: Findings) -> str:
    """The largest value of deep images."""
    return f"{2**findings.bits - 1:,}"


def _images(number: int) -> str:
    return f"{number:,} image{' is' if number == 1 else 's are'}"


def _examples(files: Sequence[str]) -> str:
    return "; ".join([*files[:NUM_EXAMPLES], *["..."] * (len(files) > NUM_EXAMPLES)])
