"""Images without labels: any folder of image files, nested or not, decoded once into a cache of its own."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.datasets.images.cache import cached_images
from nas.datasets.images.listing import LOST, list_unlabelled


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnlabelledImages:
    """The images of a folder that can be read."""

    images: NDArray[np.uint8]
    """(N, side, side, 3), memory-mapped."""
    digest: str
    """A hash of the files' contents, in the order of their names."""
    bits: int | None
    """The depth of images that are stored with more than 8 bits; None without any."""
    left_out: str
    """How many files were left out, and why; empty for none."""


def unlabelled_images(folder: Path, *, side: int) -> UnlabelledImages:
    """The images of a folder and of all folders in it, cropped to their centre square and resized to `side` pixels.

    Raises: NasError if it is no folder, cannot be read, or has no image that can be read.
    """
    listing = list_unlabelled(folder)
    cached = cached_images(listing, side=side, allow_missing=1.0)
    lost = Counter(one.why for one in listing.left_out if one.why in LOST)
    reasons = [f"{number:,} {why}" for why, number in lost.items()]
    reasons += [f"{len(cached.findings.unreadable):,} unreadable"] * bool(cached.findings.unreadable)
    return UnlabelledImages(
        images=cached.parts["train"][0],
        digest=hashlib.sha256(b"".join(map(bytes, cached.digests["train"]))).hexdigest()[:16],
        bits=cached.bits if cached.findings.deep else None,
        left_out=", ".join(reasons),
    )
