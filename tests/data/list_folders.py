"""Lists folders of images, and prints what is left out of each or its error.

Usage: python list_folders.py FOLDER...
"""

import sys
from pathlib import Path

from nas.datasets.images.listing import list_images
from nas.errors import NasError

for folder in sys.argv[1:]:
    try:
        print(*[f"{one.path} {one.why}" for one in list_images(Path(folder)).left_out])  # noqa: T201 - the test reads it
    except NasError as error:
        print(str(error).partition("\n")[0])  # noqa: T201 - the test reads it
