"""The command line of both heads."""

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from nas import NasError
from nas.cli.app import USER_ERROR

NO_OPTIONS: Final[Mapping[str, str | int]] = MappingProxyType({})


def command(run: Callable[..., str], *, description: str, options: Mapping[str, str | int] = NO_OPTIONS) -> None:
    """Parse the command line, call `run` and print its line; a user's mistake prints one sentence and exits with code 2.

    `run` gets the network, and by name steps, size, seed and the further `options`, here with their defaults.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="mobilenetv3_small_100")
    parser.add_argument("--steps", type=int, default=200, help="number of training steps")
    parser.add_argument("--size", type=int, default=96, help="side of the images, pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the images")
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    values = vars(parser.parse_args())
    for name, low in (("steps", 1), ("seed", 0)):
        if values[name] < low:
            parser.error(f"{name}: {values[name]} is not {low} or more")
    try:
        print(run(values.pop("network"), **values))
    except NasError as error:
        parser.exit(USER_ERROR, f"{parser.prog}: {error}\n")
