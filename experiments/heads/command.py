"""The command line of both heads."""

import argparse
from typing import Protocol

from nas import NasError
from nas.cli.app import USER_ERROR


class Run(Protocol):
    """Trains a head on a network; gives one line with its quality before and after."""

    def __call__(self, network: str, *, steps: int, size: int, seed: int) -> str:
        """The line to print."""


def command(run: Run, *, description: str) -> None:
    """Parse the command line, call `run` and print its line; a user's mistake prints one sentence and exits with code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="mobilenetv3_small_100")
    parser.add_argument("--steps", type=int, default=200, help="number of training steps")
    parser.add_argument("--size", type=int, default=96, help="side of the images, pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the images")
    options = parser.parse_args()
    for name, low in (("steps", 1), ("seed", 0)):
        if getattr(options, name) < low:
            parser.error(f"{name}: {getattr(options, name)} is not {low} or more")
    try:
        print(run(options.network, steps=options.steps, size=options.size, seed=options.seed))
    except NasError as error:
        parser.exit(USER_ERROR, f"{parser.prog}: {error}\n")
