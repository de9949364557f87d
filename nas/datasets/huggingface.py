"""A dataset of the Hugging Face hub, or a folder that its package `datasets` reads: Parquet, images, what save_to_disk wrote.

Its images are written once, as they are stored, to files in the cache, which are then read as those of `image_folder`.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

from nas.datasets import Dataset, ImageData
from nas.datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder, fingerprint_of_files, part_of_images
from nas.datasets.images.cache import CachedImages, cache_folder, cached_images, stamp_of_file
from nas.datasets.images.fingerprint import Fingerprint
from nas.datasets.images.listing import listing_of
from nas.datasets.images.names import PART_OF, natural_key
from nas.datasets.images.splits import PARTS, part_beside
from nas.errors import NasError, describe_error, is_disk_fault, needs_extra
from nas.files import locked
from nas.paths import BEGINNINGS, NoPath, absolute

T = TypeVar("T")
logger = logging.getLogger(__name__)

SCHEMA: Final = 2
INDEX_FILE: Final = "index.json"
SAVED: Final = ("dataset_dict.json", "state.json")  # either is in a folder that save_to_disk wrote
LABEL: Final = "label"  # the column that is taken if no column says by its type that it holds classes
COLUMNS: Final = {"image": "a column of images", "label": "a column with one class for each image"}
NAMING: Final = re.compile(r"(large_)?string|u?int\d+|bool")  # types of columns whose values may be the names of classes
MAX_NAME: Final = 200  # bytes of a file's name; file systems take 255
LOG_IN: Final = "`hf auth login`, or HF_TOKEN, gives a token that may read it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The image files of a dataset, as its index has them."""

    classes: tuple[str, ...]
    """In the order of the labels."""
    parts: Mapping[str, list[list[str]]]
    """Part → paths of each class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFace(Dataset):
    """Images of a dataset of the hub. Without a test split, validation becomes the test part. A missing part is a tenth of train.

    Raises: NasError for a field outside its range.
    """

    path: str = ""
    """A dataset of the hub, such as food101 or OWNER/NAME, or a folder with its Parquet files or images."""
    config: NoPath | None = None
    """Which of the dataset's configurations, if it has several."""
    revision: NoPath | None = None
    """A branch, tag or commit of the hub's dataset, by default its newest when it is first used."""
    image: NoPath | None = None
    """The column of the images, if there are several."""
    label: NoPath | None = None
    """The column of the classes, if there are several."""
    side: int = 160
    """Side of the stored images, pixels: each image is resized once, to this shorter side, and cropped to its centre square."""
    share: float = 1.0
    """Share of the training images to use; each training uses the same images."""
    allow_missing: float = 0.1
    """Largest share of the images of a class that may be lost: missing or unreadable."""
    mirrors: bool = True
    """True if a mirrored image still shows its class, so that training may flip images horizontally."""
    name = "huggingface"
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __post_init__(self) -> None:
        ImageFolder(side=self.side, share=self.share, allow_missing=self.allow_missing)  # checks them

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the column's classes in their order; those of a column of texts or numbers are sorted."""
        return _read_index(self._folder()).classes

    @property
    def bits(self) -> int:
        """Depth of the images that have more than 8 bits, by their largest value: 8, 10, 12, 14, 16; 1 for floats from 0 to 1."""
        return self._cached().bits

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, side, side, 3), downloaded, written and decoded on first use.

        Raises: NasError if they cannot be downloaded, have no labels, or too many cannot be read.
        """
        return part_of_images(self._cached(), part)

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the images that can be read; all three parts. Logs an account of them."""
        return fingerprint_of_files(self._cached())

    def _cached(self) -> CachedImages:
        folder = self._folder()
        files = _read_index(folder)
        listing = listing_of(folder, files.classes, files.parts, share=self.share)
        return cached_images(listing, side=self.side, allow_missing=self.allow_missing)

    def _folder(self) -> Path:
        """The folder of the image files, which the first call writes."""
        source = _source(self.path)
        if isinstance(source, Path) and self.revision is not None:
            raise NasError(f"dataset.revision: {source} is a folder, which has no revisions; leave it out")
        version = _stamp(source) if isinstance(source, Path) else self.revision
        key = hashlib.sha256(repr((SCHEMA, str(source), self.config, self.image, self.label, version)).encode()).hexdigest()[:16]
        folder = cache_folder() / f"{re.sub(r'[^A-Za-z0-9]', '_', Path(source).name)}-{key}"
        if (folder / INDEX_FILE).is_file():
            return folder
        with locked(folder.with_name(f".{folder.name}.lock"), busy=f"{folder} is being written", wait_seconds=math.inf):
            if not (folder / INDEX_FILE).is_file():  # another process may have written it
                _write(self, source, folder, folder.with_name(f".{folder.name}.partial"))
        return folder


def _source(path: str) -> Path | str:
    """The folder that a path is, or else the name of a dataset of the hub.

    Raises: NasError if it can be neither.
    """
    where = absolute(path) if path.startswith(("/", *BEGINNINGS)) or (path and Path(path).exists()) else None
    if where is not None and where.is_dir():
        return where
    if where is not None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise NasError(
            f"dataset.path: {path!r} is no folder; give one of Parquet files or images, "
            "or the NAME or OWNER/NAME of a dataset of the hub"
        )
    return path


def _stamp(folder: Path) -> str:
    """A hash of the names, sizes and times of the files in a folder."""
    files = ((place, name) for place, _, names in os.walk(folder) for name in names)
    entries = sorted((path, stamp_of_file(path)) for path in (f"{place}/{name}" for place, name in files))
    return hashlib.sha256(os.fsencode(repr(entries))).hexdigest()


def _read_index(folder: Path) -> Files:
    """The files that `_write` listed."""
    file = folder / INDEX_FILE
    return _index_of(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _index_of(file: Path, _: int) -> Files:
    index = json.loads(file.read_bytes())
    return Files(classes=tuple(index["classes"]), parts=index["parts"])


def _write(dataset: HuggingFace, source: Path | str, folder: Path, arriving: Path) -> None:
    """Write the image files and their index to `arriving`, which then becomes `folder`.

    Raises: NasError if the dataset cannot be read, is none of images with a class each, or the files cannot be written.
    """
    logger.info("reading %s with the package datasets", source)
    with _reading(source):
        splits = _load(source, dataset.config, dataset.revision)
        image, label = _columns(splits, dataset, source)
        tables = _parts(splits, source)
        names, labels = _labels(tables, label, source)
        rows = {part: _encoded(tables[part], image) for part in labels}
    logger.info("writing %d images of %s to %s, once", sum(map(len, labels.values())), source, folder)
    for old in (arriving, folder):  # left by a killed process, or without an index
        shutil.rmtree(old, ignore_errors=True)
    try:
        places = {part: f"{part}/" if len(labels) > 1 else "" for part in labels}
        paths = {part: _write_files(arriving, place, names, rows[part], labels[part]) for part, place in places.items()}
        files = Files(classes=names, parts={part_beside(part, paths): of_part for part, of_part in paths.items()})
        (arriving / INDEX_FILE).write_text(json.dumps(asdict(files)), encoding="utf-8")
        arriving.rename(folder)
    except OSError as error:
        shutil.rmtree(arriving, ignore_errors=True)
        raise NasError(
            f"the images of {source} cannot be written to {folder}: {error.strerror or error}; free some space, or set "
            "XDG_CACHE_HOME to a folder on another disk"
        ) from None


@contextmanager
def _reading(source: Path | str) -> Iterator[None]:
    """Turns an error inside the block, which reads a dataset, into a NasError that says what to do."""
    try:
        yield
    except NasError:
        raise
    except Exception as error:  # noqa: BLE001 - of the package, the hub's client, or that one's HTTP client
        if is_disk_fault(str(error)):
            what = f"the package datasets cannot write its own copy of {source}: {describe_error(error)}"
            raise NasError(f"{what}; free some space, or set HF_HOME to a folder on another disk") from None
        raise NasError(_reason(source, error)) from None


def _reason(source: Path | str, error: Exception) -> str:
    """Why a dataset cannot be read, and what to do."""
    said = " ".join(str(error).split())
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "gated" in said:
        return f"{source} is gated: ask for access at https://huggingface.co/datasets/{source}; {LOG_IN}"
    if "DatasetNotFoundError" in kinds:
        no_dataset = f"{source} is neither a folder nor a dataset of the hub that you may read; check the name"
        no_revision = f"{source}: {said.rstrip('.')}; --dataset.revision is a branch, tag or commit"
        return no_revision if said.startswith("Revision ") else f"{no_dataset}; if it is private, {LOG_IN}"
    if isinstance(error, ConnectionError):
        return f"{source} is no folder, and not on this machine yet, and the hub cannot be reached: {describe_error(error)}"
    if "config" in said.lower() and (names := re.search(r"\[(.*?)\]", said)):
        return f"{source} has several configurations; give one of them with --dataset.config: {names[1]}"
    if kinds & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        return f"{source} has no files that the package datasets reads, such as Parquet or images in folders of their classes"
    return f"{source} cannot be read: {describe_error(error.__cause__ or error)}"


def _load(source: Path | str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """Split → its table."""
    with needs_extra("huggingface"):
        import datasets  # takes seconds; only a process that writes the files needs it
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # it exports by a list
    from rich.console import Console

    if not Console(stderr=True).is_terminal:
        datasets.disable_progress_bars()
        disable_progress_bars()
    saved = isinstance(source, Path) and any((source / name).is_file() for name in SAVED)
    tables = datasets.load_from_disk(source) if saved else datasets.load_dataset(str(source), config, revision=revision)
    return tables if isinstance(tables, dict) else {"train": tables}


def _columns(splits: Mapping[str, Any], dataset: HuggingFace, source: Path | str) -> tuple[str, str]:
    """(the column of images, the column of classes).

    Raises: NasError if there is none, or nothing says which of several.
    """
    from datasets import ClassLabel, Image, Value

    features = dict(chain.from_iterable(table.features.items() for table in splits.values()))
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    naming = [name for name, feature in features.items() if isinstance(feature, Value) and NAMING.fullmatch(feature.dtype)]
    types = {name: getattr(feature, "dtype", None) or type(feature).__name__ for name, feature in features.items()}
    has = f"{source} has the columns {', '.join(f'{name} ({kind})' for name, kind in types.items())}"
    likely = classes or [name for name in naming if name == LABEL]
    image = _column("image", dataset.image, images, images, has)
    return image, _column("label", dataset.label, likely, [*classes, *naming], has)


def _column(option: str, wanted: str | None, likely: Sequence[str], possible: Sequence[str], has: str) -> str:
    """The column that an option names, or else the only likely one.

    Raises: NasError if there is none, or nothing says which of several.
    """
    if wanted is None and len(likely) == 1:
        return likely[0]
    if wanted is not None and wanted in possible:
        return wanted
    if not possible:
        raise NasError(f"{has}; none is {COLUMNS[option]}")
    which = f"--dataset.{option} must be one of {', '.join((wanted is None and likely) or possible)}"
    raise NasError(f"{has}; {which}" + (f", not {wanted!r}" if wanted is not None else f": {COLUMNS[option]}"))


def _parts(splits: Mapping[str, Any], source: Path | str) -> dict[str, Any]:
    """Part → its table; a single split is the training part, whatever its name.

    Raises: NasError if no split is called train, or two are of the same part.
    """
    if len(splits) == 1:
        return {"train": next(iter(splits.values()))}
    tables: dict[str, Any] = {}
    for name, table in splits.items():
        part = PART_OF.get(name.casefold())
        if part in tables:
            raise NasError(f"{source} has two splits that are the {part} part among {', '.join(splits)}")
        if part is None:
            logger.warning("left out: the split %s of %s, which is none of train, validation and test", name, source)
        else:
            tables[part] = table
    if "train" not in tables:
        raise NasError(f"{source} has the splits {', '.join(splits)}; one must be called train")
    return {part: tables[part] for part in PARTS if part in tables}


def _labels(tables: Mapping[str, Any], label: str, source: Path | str) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """(names of the classes, part → label of each row), without the parts of which no row has a class.

    Raises: NasError if rows lack a class, there is only one, or a part lacks one or has one more.
    """
    classes = {part: _classes(table, label) for part, table in tables.items()}
    for part in [part for part, of_rows in classes.items() if part != "train" and of_rows.count(None) == len(of_rows)]:
        logger.warning("left out: the %s part of %s, which has no classes", part, source)
        del classes[part]
    for part, of_rows in classes.items():
        if without := of_rows.count(None):
            rows = f"{without:,} of {len(of_rows):,} rows of the {part} part"
            raise NasError(f"{source}: {rows} have no class in the column {label}; every image must have one")
    feature = tables["train"].features[label]
    texts = {str(one) for one in classes["train"]}
    order: Callable[[str], Any] = int if all(re.fullmatch(r"-?\d+", text) for text in texts) else natural_key
    names = tuple(getattr(feature, "names", None) or sorted(texts, key=order))
    if len(names) < 2:
        raise NasError(f"{source}: the column {label} has the classes {list(names)}; a classifier needs two or more")
    for part, of_rows in classes.items():
        if lacking := sorted(set(names).difference(of_rows)):
            raise NasError(f"{source}: the {part} part has no image of class {lacking[0]}; every part must have every class")
        if more := sorted({str(one) for one in of_rows}.difference(names)):
            raise NasError(f"{source}: the {part} part has the class {more[0]}, which the training part does not have")
    index = {name: i for i, name in enumerate(names)}
    return names, {part: [index[one] for one in of_rows if one is not None] for part, of_rows in classes.items()}


def _classes(table: Any, label: str) -> list[str | None]:
    """The name of each row's class; None for a row without one, which the hub's datasets often give the label -1."""
    if label not in table.features:
        return [None] * len(table)
    names = getattr(table.features[label], "names", None)
    values = table.select_columns([label])[:][label]
    if names is None:
        return [str(value).strip() or None if value is not None else None for value in values]
    return [names[value] if value is not None and value >= 0 else None for value in values]


def _encoded(table: Any, image: str) -> Iterable[Mapping[str, Any] | None]:
    """The bytes of each row's image file, or else its path."""
    from datasets import Image

    return (row[image] for row in table.select_columns([image]).cast_column(image, Image(decode=False)))


def _write_files(
    folder: Path, below: str, names: Sequence[str], images: Iterable[Mapping[str, Any] | None], labels: Sequence[int]
) -> list[list[str]]:
    """Write images as files `below` a folder, in a folder for each class; gives the paths of each class.

    A file has the name that it has in the dataset, if any. An image that is missing has a path without a file.
    """
    paths: list[dict[str, None]] = [{} for _ in names]
    places = [f"{below}{_file_name(name, f'%{label}')}" for label, name in enumerate(names)]
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
    for row, (image, label) in enumerate(zip(_tracked(images, len(labels)), labels, strict=True)):
        name = _file_name(Path((image and image["path"]) or "").name, f"{row:08d}")
        path = f"{places[label]}/{name}"
        path = f"{places[label]}/{row:08d}-{name}" if path in paths[label] else path
        paths[label][path] = None
        if data := _bytes(image):
            (folder / path).write_bytes(data)
    return [list(of_class) for of_class in paths]


def _tracked(images: Iterable[T], number: int) -> Iterable[T]:
    """The images, with a bar that shows their progress where a terminal is."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(images, "writing", number, console=console, transient=True, disable=not console.is_terminal)


def _bytes(image: Mapping[str, Any] | None) -> bytes:
    """The bytes of an image file; empty if it is missing, which counts as unreadable."""
    if image is None:
        return b""
    with suppress(OSError):
        return image["bytes"] or (Path(image["path"]).read_bytes() if image["path"] else b"")
    return b""


def _file_name(name: str, otherwise: str) -> str:
    """The name if a file may have it, else another."""
    fits = name.strip(". ") and name.isprintable() and len(os.fsencode(name)) <= MAX_NAME
    return name if fits and "/" not in name and not name.startswith("%") else otherwise


DATASET: Final = HuggingFace()
