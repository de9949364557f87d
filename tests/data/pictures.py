"""Small images in folders."""

from pathlib import Path

import numpy as np
from PIL import Image

from nas.datasets.images.open_image import open_image


def save(path: Path, color=(200, 30, 60), size=(12, 10), mode="RGB", *, below=None, **options) -> Path:
    """One image of one colour; its lower half may have another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    image.paste(below or color, (0, size[1] // 2, *size))
    (image.quantize() if mode == "P" else image.convert(mode)).save(path, **options)
    return path


def fill(root: Path, parts=("train", "val"), classes=("cat", "dog"), num=20) -> Path:
    """A folder of images in the given layout; `parts` of ("",) is one folder of classes."""
    for part in parts:
        for label, name in enumerate(classes):
            for i in range(num):
                save(root / part / name / f"{i}.png", (10 * i, 250 * label, 90), below=(90, 10 * i, 250 * label))
    return root


def save_values(path: Path, values, dtype="uint16", **options) -> Path:
    """One image of one channel with these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype)).save(path, **options)
    return path


def decoded(path: Path, side: int, bits: int = 8):
    """The pixels of an image file."""
    return np.asarray(open_image(path, bits=bits, side=side))


def as_parquet(root: Path, target: Path, classes=None) -> Path:
    """The images of a folder of classes, or of parts, in Parquet files as the package datasets writes them, one for each part."""
    from datasets import ClassLabel, Dataset, Features, Image

    target.mkdir(parents=True)
    parts = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    for part in parts or [""]:
        names = classes or sorted(folder.name for folder in (root / part).iterdir())
        files = [(label, file) for label, name in enumerate(names) for file in sorted((root / part / name).iterdir())]
        rows = {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for _, file in files],
            "label": [label for label, _ in files],
        }
        split = {"val": "validation", "": "train"}.get(part, part)
        features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
        Dataset.from_dict(rows, features=features).to_parquet(target / f"{split}-00000-of-00001.parquet")
    return target
