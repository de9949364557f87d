"""Plain images in folders."""

from pathlib import Path

from PIL import Image


def save(path: Path, color=(200, 30, 60), size=(12, 10), mode="RGB", **options) -> Path:
    """One plain image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    (image.quantize() if mode == "P" else image.convert(mode)).save(path, **options)
    return path


def fill(root: Path, parts=("train", "val"), classes=("cat", "dog"), num=20) -> Path:
    """A folder of images in the given layout; `parts` of ("",) is one folder of classes."""
    for part in parts:
        for label, name in enumerate(classes):
            for i in range(num):
                save(root / part / name / f"{i}.png", (10 * i, 250 * label, 90))
    return root
