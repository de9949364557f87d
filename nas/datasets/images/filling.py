"""Fills an image cache: decodes every file of a listing once, on every core, and notes what is in it."""

import errno
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nas.datasets.images.account import Copies, Findings
from nas.datasets.images.depth import Top, depth, top_of
from nas.datasets.images.listing import Listing, shown
from nas.datasets.images.open_image import decoded, rgb, square
from nas.datasets.images.splits import PARTS
from nas.errors import NasError, describe_error
from nas.machine import usable_cores

FILE_ERRORS: Final = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP)  # of one file; others stop the decoding
FILES_AT_ONCE: Final = 256  # decoded before they are written; bounds the memory
DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """What is in one file."""

    digest: bytes = b""
    error: str = ""
    """Why the file cannot be read."""
    top: Top | None = None
    """The largest value of a deep image, which has no pixels until the depth is known."""
    pixels: NDArray[np.uint8] | None = None


@dataclass(slots=True, kw_only=True)
class Contents:
    """What is in the files of a listing, by path."""

    digests: dict[str, bytes] = field(default_factory=dict)
    """BLAKE2b of the bytes of each file that can be read, in the order of the cache."""
    unreadable: dict[str, str] = field(default_factory=dict)
    tops: dict[str, Top] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)
    seen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(256, np.bool_))

    def add(self, path: str, picture: _Picture) -> None:
        """Note what is in a file."""
        if picture.error:
            self.unreadable[path] = picture.error
            return
        self.digests[path] = picture.digest
        if picture.top is not None:
            self.tops[path] = picture.top
        elif picture.pixels is not None:
            self.add_pixels(path, picture.pixels)

    def add_pixels(self, path: str, pixels: NDArray[np.uint8]) -> None:
        """Note the levels of an image, and whether it is one plain colour."""
        levels = np.reshape(Image.fromarray(pixels).histogram(), (3, 256)) > 0
        self.seen |= levels.any(axis=0)
        if levels.sum() == 3:
            self.plain.append(path)

    def to_json(self, listing: Listing) -> str:
        """The cache's index, which is quick to read: the digests are one text."""
        findings = Findings(
            unreadable=self.unreadable,
            plain=tuple(self.plain),
            copies=tuple(self._copies(listing)),
            levels=int(self.seen.sum()),
            deep=len(self.tops),
            bits=depth(self.tops.values()),
        )
        return json.dumps({"findings": asdict(findings), "digests": b"".join(self.digests.values()).hex()}) + "\n"

    def _copies(self, listing: Listing) -> Iterator[Copies]:
        files = {part: [(self.digests[path], path) for path in listing.parts[part] if path in self.digests] for part in PARTS}
        for one, other in combinations(PARTS, 2):
            first = dict(reversed(files[one]))
            pairs = [(first[digest], path) for digest, path in files[other] if digest in first]
            if pairs:
                yield Copies(parts=(one, other), number=len(pairs), example=pairs[0])


def fill(stream: BinaryIO, listing: Listing, side: int) -> Contents:
    """Write the pixels of every image that can be read, in the order of the listing; gives what is in the files.

    Deep images are decoded a second time, when the depth that they share is known.

    Raises: OSError if `stream` cannot be written; NasError if files cannot be read for a reason that is not their own.
    """
    contents, blank = Contents(), bytes(side * side * 3)
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of metadata
        for path, picture in _in_order(partial(_read, listing.root, side), listing.paths, "decoding"):
            contents.add(path, picture)
            if not picture.error:
                stream.write(blank if picture.pixels is None else picture.pixels.tobytes())
        if contents.tops:
            places = {path: i * len(blank) for i, path in enumerate(contents.digests)}
            again = partial(_read, listing.root, side, bits=depth(contents.tops.values()))
            for path, picture in _in_order(again, contents.tops, "scaling"):
                if picture.pixels is None or picture.digest != contents.digests[path]:
                    raise NasError(f"{shown(listing.root / path)} was changed while it was read; start again")
                contents.add_pixels(path, picture.pixels)
                stream.seek(places[path])
                stream.write(picture.pixels.tobytes())
    return contents


def _in_order(read: Callable[[str], _Picture], paths: Iterable[str], doing: str) -> Iterator[tuple[str, _Picture]]:
    """Each path with its picture, read on every core."""
    from rich.console import Console
    from rich.progress import track

    paths, console = list(paths), Console(stderr=True)  # also where there is no stderr
    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow releases the GIL while it decodes
        chunks = (paths[start : start + FILES_AT_ONCE] for start in range(0, len(paths), FILES_AT_ONCE))
        pictures = (picture for chunk in chunks for picture in zip(chunk, pool.map(read, chunk), strict=True))
        yield from track(pictures, doing, len(paths), console=console, transient=True, disable=not console.is_terminal)


def _read(root: Path, side: int, path: str, *, bits: int | None = None) -> _Picture:
    """What is in a file. A deep image has pixels if `bits` are given."""
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno not in FILE_ERRORS:
            raise NasError(f"{shown(root / path)} cannot be read: {reason}; nothing was stored, so start again") from None
        return _Picture(error=reason)
    digest = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    try:
        image = decoded(io.BytesIO(data), side)
        top = top_of(image) if bits is None else None
        pixels = None if top else np.asarray(square(rgb(image, bits or 8), side))
        return _Picture(digest=digest, top=top, pixels=pixels)
    except MemoryError:
        raise NasError(f"{shown(root / path)} cannot be decoded: there is too little memory") from None
    except UnidentifiedImageError:
        return _Picture(error="no image that Pillow knows")
    except NasError as error:
        return _Picture(error=str(error))
    except Exception as error:  # noqa: BLE001 - Pillow may raise anything on a damaged file
        return _Picture(error=describe_error(error))
