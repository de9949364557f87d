"""Opens the cache of a folder of images, and prints the sum of its pixels and the number of its images.

Usage: python open_cache.py FOLDER SIDE [LIMIT VALUE], with a limit of the resource module such as RLIMIT_NOFILE.
"""

import resource
import sys
from pathlib import Path

import rich.progress  # noqa: F401 - what is imported late is there before the limit

from nas.datasets.images.cache import cached_images
from nas.datasets.images.listing import list_images

folder, side, *limit = sys.argv[1:]
if limit:
    resource.setrlimit(getattr(resource, limit[0]), (int(limit[1]), int(limit[1])))
parts = cached_images(list_images(Path(folder)), side=int(side)).parts.values()
print(  # noqa: T201 - the test reads it
    sum(int(images.astype("u8").sum()) for images, _ in parts),
    sum(len(images) for images, _ in parts),
)
