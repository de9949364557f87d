"""`nas measure` and `nas latency`: parse, call one function, print. Read `cli.py` next."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nas.errors import NasError, unknown
from nas.latency.setups import Setup
from nas.parsing import parsed
from nas.printing import shown_path

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.objectives import Limit

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Measure a network: warmed up, repeated, and refused where the machine is busy."""

    network: str
    """A published network's name, an export's folder, or the file of an architecture."""
    setup: Setup = field(default_factory=Setup)
    """What it is run in."""
    resolution: int | None = None
    """Side of the input in pixels, by default its own."""
    classes: int = 1000
    """Of the classifier."""


@dataclass(frozen=True, kw_only=True)
class NetworksOptions:
    """Which networks of a space a table is for."""

    resolution: int | None = None
    """Side of the input in pixels; by default all that the space has."""
    classes: int = 1000
    """Of the classifier."""
    limit: tuple[str, ...] = ()
    """Only networks within it, such as 'macs_m<200'; may be given several times."""

    def limits(self) -> "list[Limit]":
        """The limits; raises NasError for one that is none."""
        from nas.objectives import parse_limit

        return list(map(parse_limit, self.limit))

    def reachable(self, space: str, **how: int) -> "list[Architecture]":
        """The networks; `how` are points and seed. Raises: NasError if there is none."""
        from nas.latency.build import reachable
        from nas.networks import OwnNetwork
        from nas.objectives import Candidate
        from nas.spaces import space as find_space

        limits = self.limits()

        def admits(network: "Architecture") -> bool:
            candidate = Candidate(network=OwnNetwork(architecture=network), num_classes=self.classes)
            return all(limit.excess(limit.objective.measure(candidate)) <= 0 for limit in limits)

        return reachable(find_space(space), resolution=self.resolution, admits=admits, **how)


@dataclass(frozen=True, kw_only=True)
class BuildOptions(NetworksOptions):
    """Time every layer of a space on this machine; the same call goes on where one that was ended had stopped."""

    space: str
    """The space's name."""
    setup: Setup = field(default_factory=Setup)
    """What its networks are run in."""
    output: Path | None = None
    """The table's file, by default where searches look for it."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(NetworksOptions):
    """Measure whole networks of a table's space on this machine, and write into the table how good it is."""

    table: Path
    """The table's file."""
    networks: int = 30
    """How many are measured, drawn at random."""
    space: str | None = None
    """Their space, by default the one that the table was built for."""


def measure(arguments: list[str]) -> None:
    """Measure how long a network takes on this machine."""
    options = _parse(MeasureOptions, arguments, "nas measure")
    from nas.latency.timing import measure as measure_latency
    from nas.networks import find_network

    setup, network = options.setup, find_network(options.network, resolution=options.resolution)
    found = measure_latency(network.architecture, options.classes, setup)
    print(f"{found.median_ms:.4g} ms, the middle half of {found.runs} runs from {found.q25_ms:.4g} to {found.q75_ms:.4g}")
    print(
        f"{found.device}, {setup.runtime} {found.runtime_version}, {setup.threads} thread(s), batch {setup.batch}, "
        f"{setup.dtype}; a reference network beside it drifted by {found.drift_pct:+.1f} %"
    )


def latency(arguments: list[str]) -> None:
    """Make a table of what a space's layers take on a device, and say how good it is: build, check."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("nas latency COMMAND [--help | options]\n")
        for name, (kind, _) in LATENCY_COMMANDS.items():
            print(f"  {name:<7} {kind.__doc__}")
        return
    if arguments[0] not in LATENCY_COMMANDS:
        raise unknown("nas latency command", arguments[0], LATENCY_COMMANDS)
    options, command = LATENCY_COMMANDS[arguments[0]]
    command(_parse(options, arguments[1:], f"nas latency {arguments[0]}"))


def _parse(kind: type[T], arguments: list[str], prog: str) -> T:
    import tyro

    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction)
    options: Any = parsed(kind, args=arguments, prog=prog, config=config)
    if options.classes < 1:
        raise NasError(f"classes: {options.classes} is not 1 or more")
    found: T = options
    return found


def _build(options: BuildOptions) -> None:
    from nas.latency.build import build_table
    from nas.latency.runtimes import device_model
    from nas.latency.table import default_file
    from nas.spaces import space as find_space

    name, setup, classes, resolution = find_space(options.space).name, options.setup, options.classes, options.resolution
    limits = list(map(str, options.limits()))
    device = device_model(setup)
    file = options.output or default_file(name, setup, device=device, num_classes=classes, resolution=resolution, limits=limits)
    networks = options.reachable(options.space)
    with _progress("layers timed") as told:
        table = build_table(networks, space=name, output=file, num_classes=classes, setup=setup, on_progress=told)
    print(f"{len(table.milliseconds):,} layers: {shown_path(file)}")
    words = ["nas latency check", shown_path(file), f"--classes {classes}", f"--space {shlex.quote(options.space)}"]
    words += [f"--resolution {resolution}"] * bool(resolution) + [f"--limit {shlex.quote(limit)}" for limit in limits]
    print("\n" + " ".join(words))


def _check(options: CheckOptions) -> None:
    from nas.latency.check import check_table
    from nas.latency.table import read_table

    table = read_table(options.table)
    drawn = options.reachable(options.space or table.space, points=50 * options.networks, seed=1)

    def told(network: "Architecture", measured: float, predicted: float) -> None:
        print(f"{network.id}: measured {measured:.4g} ms, predicted {predicted:.4g} ms", flush=True)

    checked = check_table(table, drawn, options.classes, number=options.networks, on_network=told)
    checked.write(options.table)
    print(checked.check)
    print(checked)


LATENCY_COMMANDS: Final[dict[str, tuple[type[Any], Callable[[Any], None]]]] = {
    "build": (BuildOptions, _build),
    "check": (CheckOptions, _check),
}


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left, where there is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what)
        yield lambda done, of: bar.update(task, completed=done, total=of)
