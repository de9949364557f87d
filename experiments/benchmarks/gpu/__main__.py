"""All GPU figures of the project in one run of at most nine minutes: one JSON line per section, printed when it is done.

Usage: python -m experiments.benchmarks.gpu --root FOLDER [--sections a,b] [--minutes 9]
FOLDER has train/ and val/, each with a folder of images per class, such as Imagenette's; only section c reads it.

Each section runs in a process of its own, so that one that fails or hangs leaves the others alone; its line then has the error,
and the figures that it had measured before. A section that needs more time than is left is not started. Neither Ray nor Optuna
is needed. `--device cpu --quick` runs everything with tiny sizes.
"""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Final

import timm
import torch

from experiments.benchmarks.gpu.agreement import agreement
from experiments.benchmarks.gpu.bench import Bench, Figures
from experiments.benchmarks.gpu.graphs import graphs
from experiments.benchmarks.gpu.imagenette import imagenette
from experiments.benchmarks.gpu.latency import latency
from experiments.benchmarks.gpu.processes import processes
from experiments.benchmarks.gpu.shared import shared
from experiments.benchmarks.gpu.throughput import throughput
from nas.errors import NasError, unknown_name
from nas.training.device import device_name

FORK: Final = multiprocessing.get_context("fork")  # no new imports; this process must never initialise CUDA itself
OVERTIME: Final = 2.0  # a section that takes so many times its budget is ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One group of figures."""

    title: str
    budget: int
    """Seconds that it should take on an H100."""
    run: Callable[[Bench], Figures]


SECTIONS: Final = {
    "a": Section(title="training on the GPU equals training on the CPU", budget=40, run=agreement),
    "b": Section(title="images/s of training MobileNetV3-Large", budget=80, run=throughput),
    "c": Section(title="top-1 and seconds on Imagenette after 5 and 20 epochs", budget=140, run=imagenette),
    "d": Section(title="a training step as a CUDA graph, against eager", budget=35, run=graphs),
    "e": Section(title="networks per hour, trained at once in processes", budget=110, run=processes),
    "f": Section(title="shared weights: seconds of a step and of a score", budget=70, run=shared),
    "g": Section(title="latency of whole networks from a table of layers", budget=45, run=latency),
}


def machine(bench: Bench) -> Figures:
    """The card, its driver and the versions that figures depend on.

    Raises: NasError if there is no such device.
    """
    if bench.device.type == "cuda" and not torch.cuda.is_available():
        raise NasError("device: this machine has no cuda; give cpu")
    yield "card", device_name(bench.device)
    yield "driver", _driver() if bench.device.type == "cuda" else None
    yield "torch", torch.__version__
    yield "timm", timm.__version__
    yield "cuda", torch.version.cuda


def _driver() -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[0]
    return None


def run_apart(run: Callable[[Bench], Figures], bench: Bench, seconds: float) -> tuple[dict[str, object], str | None]:
    """(figures, error or None) of a section in a process of its own, which ends after `seconds` at the latest."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send_figures, args=(run, bench, sender))
    process.start()
    sender.close()
    figures: dict[str, object] = {}
    error: str | None = f"ended after {seconds:.0f} seconds"
    end = time.monotonic() + seconds
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            name, value = receiver.recv()
            figures[name] = value
    except EOFError:  # the process has closed the pipe
        process.join()
        error = None if process.exitcode == 0 else f"the process ended with code {process.exitcode}"
    finally:
        _end(process)
    failure = figures.pop("error", error)
    return figures, None if failure is None else str(failure)


def _end(process: ForkProcess) -> None:
    """End a section's process and those that it started."""
    assert process.pid is not None, "it was started"
    with suppress(ProcessLookupError):  # none of them is left, or it has no group of its own yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _send_figures(run: Callable[[Bench], Figures], bench: Bench, sender: Connection) -> None:
    os.setpgid(0, 0)
    try:
        for figure in run(bench):
            sender.send(figure)
    except NasError as error:
        sender.send(("error", str(error)))
    except Exception as error:  # noqa: BLE001 - the border of a worker: any failure is a line of the results
        traceback.print_exc()
        sender.send(("error", f"{type(error).__name__}: {error}"))


def run_sections(names: Sequence[str], options: argparse.Namespace, about: dict[str, object]) -> int:
    """Run sections and print a line for each; return how many failed or were not started."""
    end, failures = time.monotonic() + 60 * options.minutes, 0
    for name in names:
        section, started = SECTIONS[name], time.monotonic()
        figures: dict[str, object] = {}
        error: str | None = f"not started: it needs {section.budget} seconds, and {max(0.0, end - started):.0f} are left"
        if options.quick or section.budget <= end - started:
            bench = _bench(options, started + section.budget)
            figures, error = run_apart(section.run, bench, min(OVERTIME * section.budget, end - started))
        seconds = round(time.monotonic() - started, 1)
        line = {"section": name, "title": section.title, **about, "quick": options.quick, "seconds": seconds, "figures": figures}
        print(json.dumps(line | ({} if error is None else {"error": error})), flush=True)
        failures += error is not None
    return failures


def _bench(options: argparse.Namespace, deadline: float) -> Bench:
    return Bench(device=torch.device(options.device), quick=options.quick, root=options.root, deadline=deadline)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    lines = [f"  {name}  {section.budget:>4} s  {section.title}" for name, section in SECTIONS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.gpu",
        description=__doc__,
        epilog="\n".join(["sections, and seconds that each should take on an H100:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, help="a folder with train/ and val/, for section c")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which sections, in order; default %(default)s")
    parser.add_argument("--minutes", type=float, default=9.0, help="time of all sections together; default %(default)g")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that every section runs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sections' lines; return 0, or 1 if a section failed, or 2 for a mistake in the options."""
    options = parse(arguments)
    names: list[str] = options.sections.split(",")
    for name in names:
        if name not in SECTIONS:
            print(unknown_name("section", name, SECTIONS), file=sys.stderr)
            return 2
    about, error = run_apart(machine, _bench(options, 0.0), 60.0)
    if error is not None:
        print(error, file=sys.stderr)
        return 2
    return min(1, run_sections(names, options, about))


if __name__ == "__main__":
    sys.exit(main())
