"""Images decoded once, into arrays on disk that every process of a machine maps into its memory.

A cache is a folder: `images.u8` holds the pixels, `index.npz` the labels, the parts and checksums, `cache.json` where it all came
from. Its name is the hash of the images' contents and the settings, so copying or touching the files does not decode them again.
Read `nas/datasets/` next.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, TypeVar
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from nas.errors import NasError, users_code
from nas.image_files import PARTS, Listing, decode, name_bytes, shown

logger = logging.getLogger(__name__)

SCHEMA: Final = 1
MAX_DAMAGED: Final = 0.01  # share of the files that may be unreadable before the dataset is refused
DAMAGE: Final = (None, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP)  # what is wrong with a file; other errors pass
CHUNK: Final = 2**20  # bytes that share a checksum; the file's size is a multiple of it
PIXELS_FILE: Final = "images.u8"
INDEX_FILE: Final = "index.npz"
ABOUT_FILE: Final = "cache.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedImages:
    """The images of a dataset, decoded."""

    images: NDArray[np.uint8]
    """(N, side, side, 3), mapped from the disk: train, then val, then test."""
    labels: NDArray[np.int64]
    """(N,)."""
    counts: tuple[int, ...]
    """Images of train, val and test."""

    def part(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(images, labels) of one part; nothing is copied."""
        at = PARTS.index(name)
        chosen = slice(sum(self.counts[:at]), sum(self.counts[: at + 1]))
        return self.images[chosen], self.labels[chosen]


def cache_folder() -> Path:
    """Where this user's caches lie: frontier-nas under $XDG_CACHE_HOME, or under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frontier-nas"


def cached_images(listing: Listing, *, side: int) -> CachedImages:
    """The images of a listing with their shorter side resized to `side`, from the cache, or decoded into it now.

    Decoding uses every core and shows its progress. One process of a machine decodes, and others that want the same wait for it.
    A cache that is damaged is made anew.

    Raises: NasError if more than one file in a hundred cannot be read (fewer are named, counted and left out), or if the cache
    cannot be written, when nothing is left behind.
    """
    stats = _stats_key(listing, side)
    parent = cache_folder()
    known = parent / "known" / stats
    try:
        named = known.read_bytes() if known.is_file() else b""
        if re.fullmatch(rb"[0-9a-f]{32}", named) and (cached := _opened(parent / named.decode())) is not None:
            return cached
        key = _content_key(listing, side)
        with _lock(key):
            cached = _opened(parent / key) or _build(listing, side, parent / key)
        known.parent.mkdir(exist_ok=True)
        _replace(known, key)
    except OSError as error:
        reason = error.strerror or error
        raise NasError(f"the image cache {parent} cannot be used: {reason}; set XDG_CACHE_HOME to another folder") from None
    return cached


def _lock(key: str, timeout: float = -1) -> FileLock:
    """What one process of this user at a time may hold; the kernel takes it from a process that dies."""
    locks = cache_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / key, timeout=timeout)


def _replace(file: Path, text: str) -> None:
    partial_file = file.with_suffix(f".{os.getpid()}.partial")
    partial_file.write_text(text, encoding="ascii")
    partial_file.replace(file)


def _stats_key(listing: Listing, side: int) -> str:
    """A hash of the files' names, sizes and times: while it stays, so do their contents, without reading them."""
    digest = hashlib.sha256(f"{SCHEMA} {side} ".encode() + name_bytes(str(listing.root.resolve())))
    for part in PARTS:
        digest.update(part.encode())
        for file in listing.parts[part]:
            try:
                found = os.stat(f"{listing.root}/{file.path}")  # noqa: PTH116 - a Path of each of 10,000 files takes 0.1 s
                stamp = f" {file.label} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} "
            except OSError:
                stamp = " unreadable "
            digest.update(name_bytes(file.path) + stamp.encode())
    return digest.hexdigest()[:32]


def _content_key(listing: Listing, side: int) -> str:
    """A hash of the files' paths under the root, their classes and contents, and of the settings."""
    with _threads() as run:
        contents = list(run(lambda file: _content(listing.root / file.path), listing.files))
    digest = hashlib.sha256(f"{SCHEMA} {side} {[len(listing.parts[part]) for part in PARTS]}".encode())
    for file, content in zip(listing.files, contents, strict=True):
        digest.update(name_bytes(file.path) + f" {file.label} ".encode() + content)
    return digest.hexdigest()[:32]


def _content(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:
        return b"unreadable"


@contextmanager
def _threads() -> Iterator[Callable[[Callable[[Any], T], Iterable[Any]], Iterator[T]]]:
    """`map` on every core that this process may use; Pillow and hashlib let go of the interpreter while they work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, without what is left to do


def _build(listing: Listing, side: int, target: Path) -> CachedImages:
    """Decode every image of a listing into the folder `target`, whole or not at all."""
    if target.is_dir():
        logger.warning("image cache %s is damaged, and is made anew", target)
        shutil.rmtree(target)
    building = target.with_name(f"{target.name}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed: nobody else has the lock
    building.mkdir()
    needed, free = len(listing.files) * side * side * 3 / 1e6, shutil.disk_usage(building.parent).free / 1e6
    try:
        _write(listing, side, building)
        building.rename(target)
    except OSError as error:
        raise NasError(
            f"the image cache {target} cannot be written: {error.strerror}; it needs {needed:,.0f} MB, and {free:,.0f} MB are "
            "free: free some, or set XDG_CACHE_HOME to a folder on another disk"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    cached = _opened(target)
    assert cached is not None, target
    return cached


def _write(listing: Listing, side: int, folder: Path) -> None:
    started, files = time.perf_counter(), listing.files
    size = -(-len(files) * side * side * 3 // CHUNK) * CHUNK
    with (folder / PIXELS_FILE).open("w+b") as pixels_file:
        _reserve(pixels_file.fileno(), size)
    pixels: NDArray[np.uint8] = np.memmap(folder / PIXELS_FILE, dtype=np.uint8, mode="r+")
    images = pixels[: len(files) * side * side * 3].reshape(len(files), side, side, 3)

    logger.info("decoding %s images of %s to %d px, once", f"{len(files):,}", shown(listing.root), side)
    classes, shares = shown(", ".join(listing.classes[:20])), [f"{len(listing.parts[part]):,}" for part in PARTS]
    logger.info("%d classes (%s); %s images to train on, %s to rank on, %s to test with", len(listing.classes), classes, *shares)
    if listing.num_strays:
        logger.info("%s files are no images by their names, and are left out", f"{listing.num_strays:,}")
    with _threads() as run:
        decoding = run(partial(_decode_into, images, listing, side), range(len(files)))
        errors = list(_shown_progress(decoding, len(files)))
    good = [i for i, error in enumerate(errors) if error is None]
    damaged = {files[i].path: error for i, error in enumerate(errors) if error is not None}
    _check_damaged(listing, damaged)
    for to, i in enumerate(good):  # close the gaps that damaged files left
        if to != i:
            images[to] = images[i]
    images[len(good) :] = 0

    part_of = np.repeat(np.arange(len(PARTS)), [len(listing.parts[part]) for part in PARTS])[good]
    labels = np.array([files[i].label for i in good], dtype=np.int64)
    _check_classes(listing, part_of, labels)
    counts = np.bincount(part_of, minlength=len(PARTS))
    np.savez(folder / INDEX_FILE, labels=labels, counts=counts, side=side, sums=_sums(pixels))
    about = {
        "schema": SCHEMA,
        "root": str(listing.root.resolve()),
        "side": side,
        "images": len(good),
        "damaged": damaged,
        "strays": listing.num_strays,
    }
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="ascii")
    logger.info("decoded in %.1f s, %.0f MB in %s", time.perf_counter() - started, size / 1e6, folder.parent)


def _reserve(file: int, size: int) -> None:
    """Take the disk space before anything is decoded: to write into a map of a full disk kills the process.

    Raises: OSError if there is not enough.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    for at in range(0, size, CHUNK):
        os.pwrite(file, bytes(CHUNK), at)


def _decode_into(images: NDArray[np.uint8], listing: Listing, side: int, i: int) -> str | None:
    """Decode one file into its place; what went wrong, if anything did."""
    try:
        with users_code("Pillow"):  # which may raise anything over a damaged file
            images[i] = decode(listing.root / listing.files[i].path, side)
    except NasError as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno not in DAMAGE):
            raise cause from None
        return str(error)
    return None


def _shown_progress(results: Iterable[T], total: int) -> Iterator[T]:
    """The results as they come, with a progress bar where somebody looks at a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(results, "decoding", total=total, console=console, transient=True, disable=not sys.stderr.isatty()))


def _check_damaged(listing: Listing, damaged: dict[str, str]) -> None:
    """Tell of files that cannot be read, or refuse them if they are too many."""
    if not damaged:
        return
    named = "; ".join(f"{shown(path)} ({error})" for path, error in list(damaged.items())[:5])
    named += "; ..." if len(damaged) > 5 else ""
    counted = f"{len(damaged):,} of {len(listing.files):,} image files under {shown(listing.root)} cannot be read"
    if len(damaged) > MAX_DAMAGED * len(listing.files):
        raise NasError(f"{counted}, and at most {MAX_DAMAGED:.0%} are left out; repair or remove them: {named}")
    logger.warning("%s and are left out: %s", counted, named)


def _check_classes(listing: Listing, part_of: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
    for at, part in enumerate(PARTS):
        present = set(labels[part_of == at].tolist())
        missing = [name for label, name in enumerate(listing.classes) if label not in present]
        if missing:
            raise NasError(f"no image of class {missing[0]} can be read for the {part} part; add some to {listing.root}")


def _sums(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A checksum of every chunk, at the speed of the memory."""
    sums: NDArray[np.uint64] = pixels.view(np.uint64).reshape(-1, CHUNK // 8).sum(axis=1, dtype=np.uint64)
    return sums


def _opened(folder: Path) -> CachedImages | None:
    """A cache that is there, checked once a process; None if it is missing or damaged."""
    try:
        stamp = (folder / PIXELS_FILE).stat().st_mtime_ns
    except OSError:
        return None
    return _checked(folder, stamp)


@lru_cache(maxsize=4)
def _checked(folder: Path, stamp: int) -> CachedImages | None:  # noqa: ARG001 - a cache that was made anew is checked anew
    try:
        with np.load(folder / INDEX_FILE) as index:
            labels, counts, side, sums = (index[name] for name in ("labels", "counts", "side", "sums"))
        pixels: NDArray[np.uint8] = np.memmap(folder / PIXELS_FILE, dtype=np.uint8, mode="c")
        if not np.array_equal(_sums(pixels), sums):
            return None
        images = np.asarray(pixels)[: len(labels) * side * side * 3].reshape(len(labels), side, side, 3)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile):
        return None
    return CachedImages(images=images, labels=labels, counts=tuple(int(count) for count in counts))


def list_caches() -> list[dict[str, Any]]:
    """What `nas data` shows: key, root, side, images, damaged files and megabytes of every cache; unfinished ones too."""
    parent, rows = cache_folder(), []
    for folder in sorted(entry for entry in parent.glob("*") if entry.is_dir() and entry.name not in ("known", "locks")):
        try:
            about = json.loads((folder / ABOUT_FILE).read_text(encoding="ascii"))
        except (OSError, ValueError):
            about = {}
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        row = {name: about.get(name) for name in ("root", "side", "images")}
        rows.append({"key": folder.name, **row, "damaged": len(about.get("damaged", ())), "size_mb": size})
    return rows


def clear_caches(keys: Iterable[str]) -> float:
    """Remove the caches of these keys, or beginnings of keys, and give the megabytes that were freed.

    Raises: NasError for a key that no cache has, when nothing is removed.
    """
    rows = list_caches()
    chosen = {}
    for key in keys:
        matching = [row for row in rows if key and row["key"].startswith(key)]
        if len(matching) != 1:
            known = ", ".join(row["key"] for row in rows) or "none"
            raise NasError(f"cache {key!r} is {'not there' if not matching else 'not one but several'}; there are: {known}")
        chosen[matching[0]["key"]] = matching[0]["size_mb"]
    for key in chosen:
        try:
            with _lock(key.removesuffix(".partial"), timeout=0):
                _remove(key)
        except Timeout:
            raise NasError(f"cache {key} is being made by another process; wait for it, or stop it") from None
    return float(sum(chosen.values()))


def _remove(key: str) -> None:
    """A cache, and the notes that name it."""
    shutil.rmtree(cache_folder() / key)
    for note in (cache_folder() / "known").glob("*"):
        if note.read_bytes() == key.encode():
            note.unlink()
