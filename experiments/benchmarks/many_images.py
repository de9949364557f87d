"""How long a large folder of images keeps a search waiting: until its first line, and from the second start on.

Usage: python -m experiments.benchmarks.many_images [--images 200000] [--classes 100] [--repeats 3] [--folder FOLDER]
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image

from nas.datasets.images.cache import cached_images
from nas.datasets.images.listing import list_images

SIDE = 8


def make_folder(root: Path, images: int, classes: int) -> None:
    """Tiny images, each of its own pixels, in a folder per class."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(label, images, classes):
            file = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "BMP")
            (folder / f"{i}.bmp").write_bytes(file.getvalue())


def seconds_to_first_line(root: Path) -> float:
    """Wall time from the start of `nas search` to the first line that it prints."""
    command = ["search", "digits_mobilenetv3", "--dataset", "image_folder", "--dataset.root", str(root)]
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "nas", *command], stdout=subprocess.PIPE, cwd=root.parent) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - started
        process.terminate()
    print(f"first line: {line.decode().strip()}")
    return taken


def main() -> None:
    """Print the medians, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the images and their cache; kept, and used again if it has them")
    options = parser.parse_args()
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "images"
        os.environ["XDG_CACHE_HOME"] = str(root.parent / "cache")
        if not root.exists():
            make_folder(root, options.images, options.classes)
        times: dict[str, list[float]] = {"first line": [], "listing": [], "opening": []}
        cached_images(list_images(root), side=SIDE)  # decoded here, once
        for _ in range(options.repeats):
            times["first line"].append(seconds_to_first_line(root))
            started = time.perf_counter()
            listing = list_images(root)
            listed = time.perf_counter()
            cached_images(listing, side=SIDE)
            times["listing"].append(listed - started)
            times["opening"].append(time.perf_counter() - listed)
    medians = {name: round(statistics.median(taken), 3) for name, taken in times.items()}
    for name, median in medians.items():
        print(f"{name:<12} median {median:.3f} s, {min(times[name]):.3f} to {max(times[name]):.3f}")
    print(json.dumps({"seconds": medians, "images": len(listing.paths), "repeats": options.repeats}))


if __name__ == "__main__":
    main()
