"""What one folder holds: images, sub-folders, links, and everything that is passed over with the reason why."""

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from functools import cache, cached_property
from typing import Final

IMAGE_SUFFIXES: Final = frozenset(
    {
        *(".apng", ".avif", ".avifs", ".bmp", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2c", ".j2k", ".jfi", ".jfif", ".jif"),
        *(".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".pjp", ".pjpeg"),
        *(".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
    }
)
"""Suffixes of the formats that Pillow decodes; a file with another suffix, or none, is an image if its first bytes say so."""
LABEL_SUFFIXES: Final = frozenset((".txt", ".xml", ".json", ".csv", ".yaml", ".yml", ".xmp", ".npy"))
"""Suffixes of labels; `1.txt` beside `1.jpg` is not opened, as there may be 100,000 of them."""
DRAWN_SUFFIXES: Final = frozenset((".svg", ".svgz", ".eps", ".ps", ".pdf", ".ai", ".hdr", ".xpm", ".xbm"))
"""Pictures that begin like text, and that are not read: a class may consist of them."""
SIGNED_FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PSD", "QOI", "ICO", "ICNS", "DDS")
PNM_START: Final = re.compile(rb"P[1-6fF]\s+[#\d]")  # Pillow's own test takes text such as "Python" for an image
HEAD_BYTES: Final = 256
# Hidden names, those that begin with a dot, are passed over as well.
SYSTEM_FOLDERS: Final = frozenset(
    (
        *("$recycle.bin", "recycler", "recycled", "system volume information", "config.msi", "found.000"),  # Windows
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin"),  # Synology
        *("@recycle", "@recently-snapshot", "@transcode"),  # QNAP
        *("lost+found", "~snapshot", "__pycache__"),  # Linux, NetApp, Python
    )
)
SYSTEM_FILES: Final = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info"),
        *("pspbrwse.jbf", "folder.htt", "thumbs.db:encryptable", "sync.ffs_db"),
    )
)
SYSTEM_FILE_ENDS: Final = ("@synoeastream", "@synoresource", ":zone.identifier")


class Why(StrEnum):
    """Why a file or folder is no image of the dataset, in words that fit after a count."""

    SYSTEM = "system or hidden"
    BESIDE = "beside the class folders"
    COMPANION = "text, or named after an image"
    UNKNOWN_TYPE = "of an unknown type"
    UNREADABLE = "unreadable"
    UNREADABLE_FOLDER = "in an unreadable folder"
    DEAD_LINK = "behind a dead link"
    LOOP = "behind a link that leads back"
    LINKED_TWICE = "linked twice"


LOST: Final = frozenset((Why.UNKNOWN_TYPE, Why.UNREADABLE, Why.UNREADABLE_FOLDER, Why.DEAD_LINK))
"""The reasons for which a class may lack an image. An unreadable folder lacks an unknown number."""


class Folder:
    """One folder, looked at once, on first use."""

    def __init__(self, path: str, *, linked: bool = False) -> None:
        self.path = path
        self.linked = linked
        """True if the path is a symbolic link."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)  # noqa: PTH119 - a Path of each of 10,000 folders takes time

    @cached_property
    def key(self) -> tuple[int, int]:
        """Device and inode, the same for every path that leads here.

        Raises: OSError for a folder that is gone.
        """
        status = os.stat(self.path)  # noqa: PTH116
        return status.st_dev, status.st_ino

    @cached_property
    def content(self) -> "Content":
        """What lies directly in the folder."""
        return Content(self)

    @property
    def images(self) -> list[str]:
        """The names of the images directly in the folder."""
        return [*self.content.images, *self.content.linked_images]

    @property
    def folders(self) -> dict[str, "Folder"]:
        """Name → sub-folder."""
        return self.content.folders

    @cached_property
    def has_images(self) -> bool:
        """True if an image lies in the folder or anywhere below."""
        seen: set[tuple[int, int]] = set()
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            if folder.images:
                return True
            for sub in folder.folders.values():
                with suppress(OSError):  # a link whose target is gone by now
                    if not (sub.linked and sub.key in seen):
                        seen.update([sub.key] * sub.linked)
                        waiting.append(sub)
        return False

    @cached_property
    def image_folders(self) -> dict[str, "Folder"]:
        """Name → sub-folder, of those with an image in them or anywhere below."""
        return {name: folder for name, folder in self.folders.items() if folder.has_images}


class Content:
    """The entries of a folder by kind, from one pass."""

    def __init__(self, folder: Folder) -> None:
        self.images: dict[str, int] = {}
        """Name → inode, of files."""
        self.linked_images: list[str] = []
        """Names of symbolic links to images."""
        self.folders: dict[str, Folder] = {}
        self.left_out: list[tuple[str, Why]] = []
        """(name, reason)."""
        self.error: OSError | None = None
        """Why the folder cannot be read, if it cannot."""
        self._others: list[tuple[str, int | None]] = []
        self._folder = folder
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    self._sort_in(entry)
        except OSError as error:
            self.error = error
        self._look_into_others()
        self.folders = dict(sorted(self.folders.items()))

    def _sort_in(self, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if entry.is_symlink():
            self._follow(entry)
        elif entry.is_file(follow_symlinks=False):
            if _is_system_file(name):
                self.left_out.append((name, Why.SYSTEM))
            elif _suffix(name) in IMAGE_SUFFIXES:
                self.images[name] = entry.inode()
            else:
                self._others.append((name, entry.inode()))
        elif entry.is_dir(follow_symlinks=False):
            self._enter(name)
        else:  # a pipe, a socket, a device: reading one may never end
            self.left_out.append((name, Why.COMPANION))

    def _enter(self, name: str, *, linked: bool = False) -> None:
        if name.startswith(".") or name.casefold() in SYSTEM_FOLDERS:
            self.left_out.append((name, Why.SYSTEM))
        else:
            self.folders[name] = Folder(f"{self._folder.path}/{name}", linked=linked)

    def _follow(self, entry: os.DirEntry[str]) -> None:
        name = entry.name
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            self.left_out.append((name, Why.SYSTEM if name.startswith(".") else _why(error, missing=Why.DEAD_LINK)))
            return
        if stat.S_ISDIR(mode):
            target = os.path.realpath(entry.path)
            if f"{os.path.realpath(self._folder.path)}/".startswith(f"{target.rstrip('/')}/"):
                self.left_out.append((name, Why.LOOP))
            else:
                self._enter(name, linked=True)
        elif not stat.S_ISREG(mode):
            self.left_out.append((name, Why.COMPANION))
        elif _is_system_file(name):
            self.left_out.append((name, Why.SYSTEM))
        elif _suffix(name) in IMAGE_SUFFIXES:
            self.linked_images.append(name)
        else:
            self._others.append((name, None))

    def _look_into_others(self) -> None:
        """Sort in the files whose suffix is not one of an image, by their first bytes."""
        images = {*self.images, *self.linked_images} if self._others else set()
        stems = images | {name.rpartition(".")[0] for name in images}
        for name, inode in self._others:
            stem, dot, suffix = name.rpartition(".")
            if dot + suffix.lower() in LABEL_SUFFIXES and stem in stems:
                self.left_out.append((name, Why.COMPANION))
                continue
            try:
                with open(f"{self._folder.path}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
                    head = file.read(HEAD_BYTES)
            except OSError as error:
                self.left_out.append((name, _why(error)))
                continue
            drawn = dot + suffix.lower() in DRAWN_SUFFIXES
            if _is_image(head):
                if inode is None:
                    self.linked_images.append(name)
                else:
                    self.images[name] = inode
            else:
                companion = (_is_text(head) and not drawn) or stem in stems  # a.jpg with a.nef, a.jpg.xmp
                self.left_out.append((name, Why.COMPANION if companion else Why.UNKNOWN_TYPE))


def _why(error: OSError, missing: Why = Why.UNREADABLE) -> Why:
    return {errno.ELOOP: Why.LOOP, errno.ENOENT: missing, errno.ENOTDIR: missing}.get(error.errno or 0, Why.UNREADABLE)


def _suffix(name: str) -> str:
    _, dot, suffix = name.rpartition(".")
    return (dot + suffix).lower()


def _is_system_file(name: str) -> bool:
    lowered = name.lower()
    return lowered.startswith((".", "~$")) or lowered in SYSTEM_FILES or lowered.endswith(SYSTEM_FILE_ENDS)


def _is_image(head: bytes) -> bool:
    return any(accept(head[:16]) is True for accept in _accepts()) or PNM_START.match(head) is not None


def _is_text(head: bytes) -> bool:
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or min(head, default=9) >= 9


@cache
def _accepts() -> list[Callable[[bytes], bool | str]]:
    """Pillow's own tests of a file's first 16 bytes."""
    from PIL import Image

    Image.init()
    return [accept for name in SIGNED_FORMATS if name in Image.OPEN and (accept := Image.OPEN[name][1]) is not None]
