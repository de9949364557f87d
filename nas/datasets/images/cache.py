"""The image cache: each image is decoded once into an array on disk, which every process maps into its memory.

A cache is a folder that may be removed at any time: `images.u8` has the pixels of train, val and test, `index.json` what is
in the files. The folder's name ends in a hash of the files' paths, sizes and times, so a change makes a new cache.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nas.datasets.images.account import Findings, check
from nas.datasets.images.filling import DIGEST_BYTES, fill
from nas.datasets.images.listing import Listing, shown
from nas.datasets.images.splits import PARTS
from nas.errors import NasError
from nas.files import atomic_file, locked, sync, write_atomically
from nas.paths import user_folder

logger = logging.getLogger(__name__)

SCHEMA: Final = 3
PIXELS_FILE: Final = "images.u8"
INDEX_FILE: Final = "index.json"
LOCK_FILE: Final = "lock"
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedImages:
    """The images of a listing that can be read."""

    listing: Listing
    parts: Mapping[str, Part]
    """Part → (images, labels): uint8 (N, side, side, 3), memory-mapped; int64 (N,)."""
    digests: Mapping[str, NDArray[np.uint8]]
    """Part → BLAKE2b of the bytes of each image's file, in the order of the images: (N, 16)."""
    findings: Findings

    @property
    def bits(self) -> int:
        """The depth of the dataset's deep images; 8 without any."""
        return self.findings.bits


def cache_folder() -> Path:
    """The folder of this user's caches: $XDG_CACHE_HOME/frontier-nas, or ~/.cache/frontier-nas."""
    return user_folder("XDG_CACHE_HOME", ".cache")


def cached_images(listing: Listing, *, side: int, allow_missing: float = 0.1) -> CachedImages:
    """The images of a listing, read from the cache; decoded into it first if needed.

    Decoding uses every core and shows its progress. One process decodes, others wait for it. A damaged cache is decoded again.

    Raises: NasError if more than the share `allow_missing` of a class's files is lost, or if the cache cannot be written.
    """
    folder = cache_folder() / _name(listing, side)
    cached = _opened(folder, listing, side) or _made(folder, listing, side)
    check(listing, cached.findings, allow_missing)
    return cached


def _made(folder: Path, listing: Listing, side: int) -> CachedImages:
    """The images of a cache that this process makes, or another one while this one waits."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise NasError(f"the image cache {folder} cannot be used: {reason}; set XDG_CACHE_HOME to another folder") from None
    with locked(folder / LOCK_FILE, busy=f"{folder} is being made by another process", wait_seconds=math.inf):
        cached = _opened(folder, listing, side)
        if cached is None:
            _make(folder, listing, side)
            cached = _opened(folder, listing, side)
    assert cached is not None, folder
    return cached


def _name(listing: Listing, side: int) -> str:
    """The cache's folder name, with a hash of the files' paths, sizes and times instead of their contents, which is fast."""
    root = listing.root.resolve()
    digest = hashlib.sha256(os.fsencode(f"{SCHEMA} {side} {root}"))
    for part in PARTS:
        for path, label in listing.parts[part].items():
            digest.update(os.fsencode(f"\n{part} {label} {path} {stamp_of_file(f'{root}/{path}')}"))
    return f"{re.sub(r'[^A-Za-z0-9]', '_', root.name)}-{side}px-{digest.hexdigest()[:16]}"


def stamp_of_file(path: str) -> str:
    """What changes when a file does: its size and times."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - a Path of each of 10,000 files takes 0.1 s
    except OSError:
        return "unreadable"
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _opened(folder: Path, listing: Listing, side: int) -> CachedImages | None:
    """The images of an existing cache; None if it is missing or damaged."""
    try:
        index = json.loads((folder / INDEX_FILE).read_bytes())
        findings = Findings.from_json(index["findings"])
        digests = np.frombuffer(bytes.fromhex(index["digests"]), np.uint8).reshape(-1, DIGEST_BYTES)
        labels = [np.array(findings.labels_read(listing.parts[part]), np.int64) for part in PARTS]
        images = _mapped(folder / PIXELS_FILE, (sum(map(len, labels)), side, side, 3))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if len(digests) != len(images):
        return None
    ends = np.cumsum(list(map(len, labels)))[:-1]
    return CachedImages(
        listing=listing,
        parts=dict(zip(PARTS, zip(np.split(images, ends), labels, strict=True), strict=True)),
        digests=dict(zip(PARTS, np.split(digests, ends), strict=True)),
        findings=findings,
    )


def _mapped(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if not shape[0]:  # which cannot be mapped
        return np.zeros(shape, np.uint8)
    return np.asarray(np.memmap(file, dtype=np.uint8, mode="c", shape=shape))


def _make(folder: Path, listing: Listing, side: int) -> None:
    """Decode every image of a listing into a cache; an error leaves no files."""
    if (folder / INDEX_FILE).exists():
        logger.warning("image cache %s is damaged and is made again", folder)
    logger.info("decoding %d images of %s to %d px, once", len(listing.paths), shown(listing.root), side)
    started, free = time.perf_counter(), shutil.disk_usage(folder).free / 1e6
    with atomic_file(folder / PIXELS_FILE) as file:
        try:
            with file.open("wb") as stream:
                contents = fill(stream, listing, side)
                stream.flush()
                sync(stream.fileno())  # so that after a power cut a file of the right size is complete
        except OSError as error:
            needed = len(listing.paths) * side * side * 3 / 1e6
            raise NasError(
                f"the image cache {folder} cannot be written: {error.strerror}; it needs {needed:,.0f} MB, and {free:,.0f} MB "
                "are free: free some, or set XDG_CACHE_HOME to a folder on another disk"
            ) from None
        write_atomically(folder / INDEX_FILE, contents.to_json(listing))
    size_mb = len(contents.digests) * side * side * 3 / 1e6
    logger.info("decoded in %.1f s, %.0f MB in %s", time.perf_counter() - started, size_mb, folder)
