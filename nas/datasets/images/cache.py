"""The image cache: each image is decoded once into an array on disk, which every process maps into its memory.

A cache is a folder that may be removed at any time: `images.u8` has the pixels of train, val and test, `damaged.json` the files
that could not be read. The folder's name ends in a hash of the files' paths, sizes and times, so a change makes a new cache.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from nas.datasets.images.decode import decode
from nas.datasets.images.listing import Listing, shown
from nas.datasets.images.splits import PARTS
from nas.errors import NasError, user_code
from nas.files import atomic_file, locked, sync, write_atomically
from nas.paths import user_folder

logger = logging.getLogger(__name__)

SCHEMA: Final = 2
MAX_DAMAGED: Final = 0.01  # largest share of unreadable files that is accepted
FILE_ERRORS: Final = (None, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP)  # of one file; others stop the decoding
FILES_AT_ONCE: Final = 256  # decoded before they are written; bounds the memory
PIXELS_FILE: Final = "images.u8"
DAMAGED_FILE: Final = "damaged.json"
LOCK_FILE: Final = "lock"
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def cache_folder() -> Path:
    """The folder of this user's caches: $XDG_CACHE_HOME/frontier-nas, or ~/.cache/frontier-nas."""
    return user_folder("XDG_CACHE_HOME", ".cache")


def cached_images(listing: Listing, *, side: int) -> dict[str, Part]:
    """Part → (images, labels), read from the cache; decoded into it first if needed.

    Decoding uses every core and shows its progress. One process decodes, others wait for it. A damaged cache is decoded again.
    Up to 1 % of unreadable files are logged and left out.

    Shapes: uint8 (N, side, side, 3), memory-mapped; int64 (N,).
    Raises: NasError if more files cannot be read, or if the cache cannot be written.
    """
    folder = cache_folder() / _name(listing, side)
    if (cached := _opened(folder, listing, side)) is not None:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise NasError(f"the image cache {folder} cannot be used: {reason}; set XDG_CACHE_HOME to another folder") from None
    with locked(folder / LOCK_FILE, busy=f"{folder} is being made by another process", wait_seconds=math.inf):
        if _opened(folder, listing, side) is None:
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
            digest.update(os.fsencode(f"\n{part} {label} {path} {_stamp(f'{root}/{path}')}"))
    return f"{re.sub(r'[^A-Za-z0-9]', '_', root.name)}-{side}px-{digest.hexdigest()[:16]}"


def _stamp(path: str) -> str:
    try:
        stat = os.stat(path)  # noqa: PTH116 - a Path of each of 10,000 files takes 0.1 s
    except OSError:
        return "unreadable"
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _opened(folder: Path, listing: Listing, side: int) -> dict[str, Part] | None:
    """The parts of an existing cache; None if it is missing or damaged."""
    try:
        damaged = dict(json.loads((folder / DAMAGED_FILE).read_bytes()))
        labels = {part: [label for path, label in listing.parts[part].items() if path not in damaged] for part in PARTS}
        shape = (sum(map(len, labels.values())), side, side, 3)
        images = np.asarray(np.memmap(folder / PIXELS_FILE, dtype=np.uint8, mode="c", shape=shape))
    except (OSError, ValueError, TypeError):
        return None
    ends = np.cumsum(list(map(len, labels.values())))
    pixels = np.split(images, ends[:-1])
    return {part: (pixels[i], np.array(labels[part], np.int64)) for i, part in enumerate(PARTS)}


def _make(folder: Path, listing: Listing, side: int) -> None:
    """Decode every image of a listing into a cache; an error leaves no files."""
    if (folder / DAMAGED_FILE).exists():
        logger.warning("image cache %s is damaged and is made again", folder)
    logger.info("decoding %d images of %s to %d px, once", len(listing.paths), shown(listing.root), side)
    logger.info("%d classes: %s", len(listing.classes), shown(", ".join(listing.classes[:20])))
    counts = [len(listing.parts[part]) for part in PARTS]
    logger.info("%d images to train on, %d to rank on, %d to test on; %d other files are ignored", *counts, len(listing.left_out))
    started = time.perf_counter()
    with atomic_file(folder / PIXELS_FILE) as file:
        damaged = _write_pixels(file, listing, side)
        write_atomically(folder / DAMAGED_FILE, json.dumps(damaged, indent=2) + "\n")
    size_mb = len(listing.paths) * side * side * 3 / 1e6
    logger.info("decoded in %.1f s, %.0f MB in %s", time.perf_counter() - started, size_mb, folder)


def _write_pixels(file: Path, listing: Listing, side: int) -> dict[str, str]:
    """Write the pixels of every image; gives the files that cannot be read, each with its error."""
    from rich.console import Console
    from rich.progress import track

    free, hidden, console = shutil.disk_usage(file.parent).free / 1e6, not sys.stderr.isatty(), Console(stderr=True)
    images = _decode_all(listing, side)
    decoded = track(images, "decoding", len(listing.paths), console=console, transient=True, disable=hidden)
    try:
        with file.open("wb") as pixels:
            errors = [_append(pixels, result) for result in decoded]
            pixels.flush()
            sync(pixels.fileno())  # so that after a power cut a file of the right size is complete
    except OSError as error:
        needed = len(listing.paths) * side * side * 3 / 1e6
        raise NasError(
            f"the image cache {file.parent} cannot be written: {error.strerror}; it needs {needed:,.0f} MB, and {free:,.0f} MB "
            "are free: free some, or set XDG_CACHE_HOME to a folder on another disk"
        ) from None
    damaged = {path: error for path, error in zip(listing.paths, errors, strict=True) if error is not None}
    if damaged:
        _check_damaged(listing, damaged)
    return damaged


def _append(pixels: BinaryIO, result: NDArray[np.uint8] | str) -> str | None:
    """Write one image; gives the error of its file, if any."""
    if isinstance(result, str):
        return result
    pixels.write(result.tobytes())
    return None


def _decode_all(listing: Listing, side: int) -> Iterator[NDArray[np.uint8] | str]:
    """Every image of a listing in order, or the error of its file; decoded on every core."""
    files = [listing.root / path for path in listing.paths]
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes
        for start in range(0, len(files), FILES_AT_ONCE):
            yield from pool.map(partial(_decode, side), files[start : start + FILES_AT_ONCE])


def _decode(side: int, file: Path) -> NDArray[np.uint8] | str:
    try:
        with user_code("Pillow"):  # Pillow may raise anything on a damaged file
            return decode(file, side)
    except NasError as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno not in FILE_ERRORS):
            raise cause from None
        return str(error)


def _check_damaged(listing: Listing, damaged: dict[str, str]) -> None:
    """Log the files that cannot be read.

    Raises: NasError if they are more than 1 %.
    """
    named = "; ".join([f"{shown(path)} ({error})" for path, error in damaged.items()][:5] + ["..."] * (len(damaged) > 5))
    counted = f"{len(damaged):,} of {len(listing.paths):,} image files under {shown(listing.root)} cannot be read"
    if len(damaged) > MAX_DAMAGED * len(listing.paths):
        raise NasError(f"{counted}, and at most {MAX_DAMAGED:.0%} may be left out; repair or remove them: {named}")
    logger.warning("%s and are left out: %s", counted, named)
