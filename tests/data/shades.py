"""Images of a user's own: dark and bright noise, which a small network tells apart within seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from nas.datasets import Dataset, ImageData


@dataclass(frozen=True)
class Shades(Dataset):
    """Dark and bright images, generated from a seed per part."""

    num_images: int = 64
    """In each part."""
    contrast: int = 150
    """Brighter by so much, of 255."""
    root: str | None = None
    """A folder that must be there when images are read."""

    name = "shades"
    classes = ("dark", "bright")
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    mirrors = True

    def load(self, part: str) -> ImageData:
        """Noise of 16 px; a folder `root` without the file `ready` has no images."""
        if self.root is not None and not Path(self.root, "ready").is_file():
            raise FileNotFoundError(f"{self.root}/ready")
        if part == "test":
            Path("test_was_read").touch()
        generator = np.random.default_rng(("train", "val", "test").index(part))
        labels = np.arange(self.num_images, dtype=np.int64) % 2
        images = generator.integers(0, 100, (self.num_images, 16, 16, 3), dtype=np.uint8)
        images[labels == 1] += np.uint8(self.contrast)
        return ImageData(images=images, labels=labels)


DATASET: Final = Shades()
