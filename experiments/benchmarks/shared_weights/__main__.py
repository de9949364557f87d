"""What searching by shared weights is worth against training every network alone, on two cores: four sections.

equal-time: hypervolume, on the test part, of the fronts of both and of random search after the same seconds.
looking: the time of 1,000 scores against 1,000 trainings, and of a second search by the same weights against the first.
means: top-1 of random networks by shared weights against that of each trained alone, and how well the rankings agree.
glue: seconds to the hypervolume of a search written by hand with Ray Tune, OptunaSearch, torch's DataLoader and timm.

Usage: python -m experiments.benchmarks.shared_weights [--sections equal-time looking means glue] [--root FOLDER] [--output FILE]
[--experiments digits_mobilenetv3 imagenette_cpu] [--minutes 2 5 15] [--seeds 0 1 2] [--quick]
FOLDER has Imagenette's train/ and val/; without it, only the digits are searched. FILE gets a JSON line for each measurement;
those that it has are not measured again. `glue` searches the digits only where it has no photographs.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from experiments.benchmarks.shared_weights import equal_time, glue, looking, means
from experiments.benchmarks.shared_weights.measurements import (
    EXPERIMENTS,
    NEEDS_ROOT,
    Bench,
    Journal,
    Measurement,
    read_journal,
)
from nas.errors import NasError


class Section(NamedTuple):
    """One group of figures."""

    measurements: Callable[[Bench], Iterator[Measurement]]
    """In the order in which they need each other."""
    summary: Callable[[Bench, Journal], Iterator[str]]


SECTIONS: Final = {module.SECTION: Section(module.measurements, module.summary) for module in (equal_time, looking, means, glue)}


def measure(sections: Sequence[str], bench: Bench, journal: Journal) -> None:
    """Print how long everything takes, measure what the journal does not have, and print the summaries."""
    every = {str(sorted(one.key.items())): one for name in sections for one in SECTIONS[name].measurements(bench)}
    left = [one for one in every.values() if one.key not in journal]
    seconds = sum(one.seconds for one in left)
    print(f"{len(left)} of {len(every)} measurements, about {seconds / 60:.0f} min", flush=True)
    for one in left:
        print(f"{' '.join(map(str, one.key.values()))}, about {one.seconds:.0f} s", flush=True)
        journal.add(one.key, one.run(journal))
    for name in sections:
        print(f"\n{name}")
        for line in SECTIONS[name].summary(bench, journal):
            print(line)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.shared_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, help="default: all, without --root the digits")
    parser.add_argument("--root", type=Path, help="a folder with Imagenette's train/ and val/")
    parser.add_argument("--minutes", nargs="+", type=float, help="budgets of equal-time; default 2 5 15")
    parser.add_argument("--seeds", nargs="+", type=int, help="of equal-time and glue; default 0 1 2")
    parser.add_argument("--output", type=Path, help="the file of the measurements, from which a later run continues")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that every section runs")
    return parser.parse_args(arguments)


def bench_of(options: argparse.Namespace) -> Bench:
    """What the options say.

    Raises: NasError for an experiment whose images need --root.
    """
    experiments = options.experiments or (EXPERIMENTS if options.root else EXPERIMENTS[:1])
    if NEEDS_ROOT in experiments and options.root is None:
        raise NasError(f"{NEEDS_ROOT} needs --root, a folder with Imagenette's train/ and val/")
    return Bench(
        experiments=experiments,
        root=options.root,
        minutes=options.minutes or ([0.3] if options.quick else [2, 5, 15]),
        seeds=options.seeds or ([0] if options.quick else [0, 1, 2]),
        quick=options.quick,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 2 for a mistake in the options."""
    options = parse(arguments)
    try:
        measure(options.sections, bench_of(options), read_journal(options.output))
    except NasError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit)  # so that the search under way is ended, too
    sys.exit(main())
