"""The command line that both heads have: options in, a line out."""

import argparse
from typing import Protocol

from nas import NasError
from nas.cli.app import USER_ERROR


class Run(Protocol):
    """Trains a head on a network, and tells what came of it."""

    def __call__(self, network: str, *, steps: int, size: int, seed: int) -> str:
        """The line to print."""


def command(run: Run, *, description: str) -> None:
    """Run what the process was started with; a mistake in what was given is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="mobilenetv3_small_100")
    parser.add_argument("--steps", type=int, default=200, help="how often a batch is trained on")
    parser.add_argument("--size", type=int, default=96, help="side of the images, pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the images")
    options = parser.parse_args()
    for name, least in (("steps", 1), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"{name}: {getattr(options, name)} is not {least} or more")
    try:
        print(run(options.network, steps=options.steps, size=options.size, seed=options.seed))
    except NasError as error:
        parser.exit(USER_ERROR, f"{parser.prog}: {error}\n")
