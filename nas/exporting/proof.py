"""Compares every file of an export with the network, in a process that cannot import this project."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nas.datasets import ImageData
from nas.errors import NasError
from nas.exporting import fresh_process
from nas.exporting.fresh_process import BATCH, FORMATS, INT8_FILE, SAMPLE_FILE, SAMPLE_FOLDER
from nas.models.export_folder import CLASS_MAP_FILE, IMAGES_FILE
from nas.training.predict import Preprocess, evenly_spaced

TOLERANCE: Final = 1e-3  # largest difference, relative to the largest logit: each format adds in its own order
SAME_CLASS: Final = 0.99  # smallest share of the images that a format must put into the network's class
MAX_LOST: Final = 0.1  # largest share of the images that Pillow's resizing, in place of torch's, may put into a wrong class
SECONDS: Final = 1800.0  # longest time of the proof
PROOF_IMAGES: Final = 128
READ_BY_TIMM: Final = (".jpg", ".jpeg", ".png")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Validation images, as the training keeps them, and their files."""

    images: NDArray[np.uint8]
    """(N, height, width, 3)."""
    labels: NDArray[np.int64]
    files: Sequence[Path] | None
    """None for a dataset of arrays, whose images are written as PNG."""
    bits: int

    @property
    def side(self) -> int | None:
        """Side of the images, pixels; None if they are not square."""
        return kept_side(self.images)

    def write(self, folder: Path, class_folders: Sequence[str]) -> None:
        """Write the files into folders of the classes, with their numbers as names."""
        for i, label in enumerate(self.labels):
            file = None if self.files is None else self.files[i]
            place = folder / class_folders[label]
            place.mkdir(parents=True, exist_ok=True)
            if file is None:
                Image.fromarray(self.images[i]).save(place / f"{i}.png")
            else:  # timm's reader goes by the suffix, and Pillow by the content
                _link(file, place / f"{i}{file.suffix if file.suffix.lower() in READ_BY_TIMM else '.jpg'}")


def _link(file: Path, target: Path) -> None:
    """Link to a file, which may be large; copy it where there are no links."""
    try:
        target.symlink_to(file.resolve())
    except OSError:
        shutil.copyfile(file, target)


def kept_side(images: NDArray[np.uint8]) -> int | None:
    """Side of the images of a dataset, pixels; None if they are not square."""
    height, width = images.shape[1:3]
    return int(height) if height == width else None


def sample_of(data: ImageData, bits: int) -> Sample:
    """Up to PROOF_IMAGES images of a part, evenly spaced."""
    indices = evenly_spaced(data, PROOF_IMAGES)
    files = None if data.files is None else [Path(data.files[i]) for i in indices]
    return Sample(images=data.images[indices], labels=data.labels[indices], files=files, bits=bits)


def proof_images(preprocess: Preprocess, sample: Sample | None) -> tuple[Tensor, str]:
    """(PROOF_IMAGES preprocessed images, generated ones if those of the sample are too few; how many of each, in words)."""
    side = preprocess.resolution
    images = [] if sample is None else [preprocess(torch.from_numpy(sample.images))]
    number = sum(map(len, images))
    if missing := PROOF_IMAGES - number:
        pixels = np.random.default_rng(0).integers(0, 256, (missing, side, side, 3), dtype=np.uint8)
        images.append(preprocess(torch.from_numpy(pixels)))
    names = [f"{count} {what}" for count, what in ((number, "of the validation part"), (missing, "generated")) if count]
    return torch.cat(images), ", ".join(names)


def unmappable(class_folders: Sequence[str]) -> str:
    """Why timm cannot read these names from class_map.txt, which has one on each line; empty if it can."""
    for name, number in Counter(class_folders).items():
        if number > 1:
            return f"{number} classes are called {name!r}"
        if name in ("", ".", "..") or name != name.strip() or re.search(r"[/\0\r\n]", name) or len(os.fsencode(name)) > 255:
            return f"{name[:100]!r} is no name of a folder that timm reads"
    return ""


def prove(
    folder: Path,
    model: nn.Module,
    images: Tensor,
    source: str,
    *,
    sample: Sample | None = None,
    class_folders: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Compare the files of an export, in a fresh process that cannot import this project, with the model.

    `images` are preprocessed, first those of the `sample`; `source` says where they are from. Returns for each format the largest
    difference of a logit, and the share of images that get the same class; and, with a sample, what image files give that
    `images.py` and timm's own reader open.

    Shapes: images float32 (N, 3, resolution, resolution).
    Raises: NasError if a file gives other logits or does not run (the int8 file may give other logits), `images.py` gives other
    pixels than the training has, or timm's reader gives other classes with class_map.txt.
    """
    model = model.cpu().eval()
    images = images.contiguous()
    with torch.inference_mode():
        wanted = torch.cat([model(part) for part in images.split(BATCH)]).numpy()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        np.save(Path(place, "images.npy"), images.numpy())
        if sample is not None:
            sample.write(Path(place, SAMPLE_FOLDER), class_folders or [str(label) for label in range(wanted.shape[1])])
            Path(place, SAMPLE_FILE).write_text(json.dumps({"bits": sample.bits, "side": sample.side}), encoding="utf-8")
        _run_without_us(folder, Path(place), len(images))
        formats = {name: np.load(Path(place, f"{name}.npy")) for name in FORMATS if (folder / name).exists()}
        proof = {name: _compared(folder / name, logits, wanted) | {"source": source} for name, logits in formats.items()}
        read = None if sample is None else _files_read(folder, Path(place), sample, wanted[: len(sample.labels)])
    return proof, read


def _compared(file: Path, logits: Any, wanted: Any) -> dict[str, Any]:
    """The differences of a file's logits from the network's. Raises: NasError if they are too large; int8 may differ."""
    difference, same = float(np.abs(logits - wanted).max()), float((logits.argmax(1) == wanted.argmax(1)).mean())
    exact = difference <= TOLERANCE * float(np.abs(wanted).max()) and same >= SAME_CLASS
    if not exact and file.name != INT8_FILE:  # int8 logits differ, and the card says by how much
        raise NasError(
            f"{file} gives other logits than the network: they differ by up to {difference:.2g}, and "
            f"{100 * same:.1f} % of {len(wanted)} images get the same class"
        )
    return {"logit_difference": difference, "same_class": same, "images": len(wanted)}


def _files_read(folder: Path, place: Path, sample: Sample, wanted: Any) -> dict[str, Any]:
    """What the network classifies in image files that `images.py` and timm's reader open, and in the training's own pixels."""
    pixels, classes = np.load(place / f"{IMAGES_FILE}.npy"), wanted.argmax(1)
    if sample.side is not None and not np.array_equal(pixels, sample.images):
        wrong = int((pixels != sample.images).any(axis=(1, 2, 3)).argmax())
        name = f"image {wrong} of the validation part" if sample.files is None else sample.files[wrong]
        raise NasError(f"{folder / IMAGES_FILE} gives other pixels of {name} than the training has; report this with the image")
    ways = {"images.py": np.load(place / "opened.npy")}
    if (place / "reader.npy").exists():
        targets = np.load(place / "targets.npy")
        if not np.array_equal(targets, sample.labels):
            raise NasError(f"{folder / CLASS_MAP_FILE}: timm's reader gives other classes with it; export the network again")
        ways["timm"] = np.load(place / "reader.npy")
    shares = {name: _shares(logits.argmax(1), classes, sample.labels) for name, logits in ways.items()}
    right = float((classes == sample.labels).mean())
    if shares["images.py"]["top1_pct"] < 100 * (right - MAX_LOST):
        raise NasError(
            f"{folder / IMAGES_FILE} and timm's transforms give {shares['images.py']['top1_pct']:.1f} % right of {len(classes)} "
            f"validation images, and the training's own preprocessing {100 * right:.1f} %; report this with the images"
        )
    order = {"order_of_timm": json.loads((place / "order.json").read_text())} if "timm" in ways else {}
    files = "written as PNG" if sample.files is None else "of the dataset"
    return {"images": len(classes), "files": files, "top1_pct": 100 * right, "ways": shares} | order


def _shares(classes: Any, wanted: Any, labels: Any) -> dict[str, float]:
    return {"top1_pct": 100 * float((classes == labels).mean()), "same_class": float((classes == wanted).mean())}


def _run_without_us(folder: Path, place: Path, number: int) -> None:
    """Run every file of a folder in a process that cannot import this project.

    Raises: NasError if a file does not run, or takes too long.
    """
    line = [sys.executable, "-P", str(fresh_process.__file__), str(folder.resolve()), str(place)]
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    try:
        answer = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=place, env=threads)
    except subprocess.TimeoutExpired:
        raise NasError(f"the files of {folder} did not give {number} logits in {SECONDS:.0f} s") from None
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise NasError(f"a file of {folder} does not run without this project: {last}")


def warn_of_timms_reader(read: Mapping[str, Any], bits: int) -> None:
    """Log that timm's own reader classifies otherwise, if it does."""
    timm = read["ways"].get("timm")
    if timm is not None and timm["same_class"] < 1 - MAX_LOST:
        why = f", as it takes images of {bits} bits for 8" if bits != 8 else ""
        logger.warning(
            "timm's own reader puts %.0f %% of %d image files into another class%s; open files with images.py of the export",
            100 * (1 - timm["same_class"]),
            read["images"],
            why,
        )
