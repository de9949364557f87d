"""Many different networks on a dataset that writes down, in `rss`, how much memory its process has whenever it is read."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import widths
from shades import Shades

from nas.datasets import ImageData


@dataclass(frozen=True)
class Counted(Shades):
    """Shades whose every reading is written down."""

    def load(self, part: str) -> ImageData:
        """The images, after a line of the process and its megabytes."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with Path("rss").open("a") as file:
            file.write(f"{os.getpid()} {pages * os.sysconf('SC_PAGE_SIZE') / 1e6}\n")
        return super().load(part)


EXPERIMENT: Final = replace(
    widths.EXPERIMENT, space=widths.Widths(largest=8 * 64), dataset=Counted(num_images=32), trials=20, workers=1
)
