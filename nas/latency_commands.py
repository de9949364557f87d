"""`nas measure` and `nas latency`: parse, call one function, print. Read `cli.py` next."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from nas.errors import NasError, unknown
from nas.latency.setups import Setup
from nas.parsing import constructors, parsed
from nas.printing import shown_path

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.latency.table import LatencyTable
    from nas.objectives import Limit
    from nas.spaces import SearchSpace


def measure(arguments: list[str]) -> None:
    """Measure how long a network takes on this machine."""
    import tyro

    def run(
        network: Annotated[str, tyro.conf.Positional],
        setup: Annotated[Setup, tyro.conf.arg(name="")],
        *,
        resolution: int | None = None,
        classes: int = 1000,
    ) -> None:
        """Measure how long a network takes on this machine: warmed up, repeated, and refused where the machine is busy.

        Args:
            network: A published network's name, an export's folder, or the file or text of an architecture.
            setup: What it is run in.
            resolution: Side of the input in pixels, by default its own.
            classes: Of the classifier.
        """
        from nas.latency.timing import measure as measure_latency

        found = measure_latency(_architecture(network, resolution), _num(classes), setup)
        print(f"{found.median_ms:.4g} ms, the middle half of {found.runs} runs from {found.q25_ms:.4g} to {found.q75_ms:.4g}")
        print(
            f"{found.device}, {setup.runtime} {found.runtime_version}, {setup.threads} thread(s), batch {setup.batch}, "
            f"{setup.dtype}; a reference network beside it drifted by {found.drift_pct:+.1f} %"
        )

    parsed(run, args=arguments, prog="nas measure", config=(tyro.conf.OmitArgPrefixes,))


def latency(arguments: list[str]) -> None:
    """Make a table of what a space's layers take on a device, and say how good it is: build, check."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("nas latency COMMAND [--help | options]\n")
        for name, command in LATENCY_COMMANDS.items():
            print(f"  {name:<7} {(command.__doc__ or '').splitlines()[0]}")
        return
    if arguments[0] not in LATENCY_COMMANDS:
        raise unknown("nas latency command", arguments[0], LATENCY_COMMANDS)
    LATENCY_COMMANDS[arguments[0]](arguments[1:])


def _build(arguments: list[str]) -> None:
    """Time every layer of a space on this machine; a call that was ended goes on."""
    import tyro

    from nas.objectives import Limit

    def run(
        space: Annotated[str, tyro.conf.Positional],
        setup: Annotated[Setup, tyro.conf.arg(name="")],
        *,
        resolution: int | None = None,
        classes: int = 1000,
        limits: Annotated[tuple[Limit, ...], tyro.conf.arg(name="limit"), tyro.conf.UseAppendAction] = (),
        output: Path | None = None,
    ) -> None:
        """Time every layer of a space on this machine; the same call goes on where one that was ended had stopped.

        Args:
            space: The space's name.
            setup: What its networks are run in.
            resolution: Side of the input in pixels; by default all that the space has.
            classes: Of the classifier.
            limits: Only what networks within them have, such as 'macs_m<200'.
            output: The table's file, by default where searches look for it.
        """
        from nas.latency.build import build_table
        from nas.latency.runtimes import device_model
        from nas.latency.table import default_file

        found = _space_of(space)
        names = list(map(str, limits))
        file = output or default_file(
            found.name, setup, device=device_model(setup), num_classes=_num(classes), resolution=resolution, limits=names
        )
        with _progress("layers timed") as told:
            table = build_table(
                found,
                output=file,
                resolution=resolution,
                num_classes=classes,
                admits=_admits(limits, classes),
                setup=setup,
                on_progress=told,
            )
        print(f"{len(table.milliseconds):,} layers: {shown_path(file)}")
        options = [f"--resolution {resolution}"] * bool(resolution) + [f"--classes {classes}"] * (classes != 1000)
        options += [f"--space {shlex.quote(space)}"] * (space != found.name) + [f"--limit {shlex.quote(name)}" for name in names]
        print("\n" + " ".join(["nas latency check", shown_path(file), *options]))

    parsed(run, args=arguments, prog="nas latency build", config=(tyro.conf.OmitArgPrefixes,), registry=constructors(()))


def _check(arguments: list[str]) -> None:
    """Measure whole networks of a table's space, and write into the table how good it is."""
    import tyro

    from nas.objectives import Limit

    def run(
        table: Annotated[Path, tyro.conf.Positional],
        *,
        resolution: int | None = None,
        classes: int = 1000,
        networks: int = 30,
        space: str | None = None,
        limits: Annotated[tuple[Limit, ...], tyro.conf.arg(name="limit"), tyro.conf.UseAppendAction] = (),
    ) -> None:
        """Measure whole networks of a table's space on this machine, and write into the table how good it is.

        Args:
            table: The table's file.
            resolution: Side of the input in pixels; by default all that the space has.
            classes: Of the classifier.
            networks: How many, drawn at random.
            space: Their space, by default the one that the table was built for.
            limits: Only networks within them, such as 'macs_m<200'.
        """
        from nas.latency.build import reachable
        from nas.latency.check import check_table
        from nas.latency.table import read_table

        found = read_table(table)
        admits = _admits(limits, _num(classes))
        drawn = reachable(_space_of(space or found.space), resolution=resolution, admits=admits, points=50 * networks, seed=1)

        def told(network: "Architecture", measured: float, predicted: float) -> None:
            print(f"{network.id}: measured {measured:.4g} ms, predicted {predicted:.4g} ms", flush=True)

        checked = check_table(found, drawn, classes, number=networks, on_network=told)
        checked.write(table)
        _print_check(checked)

    parsed(run, args=arguments, prog="nas latency check", registry=constructors(()))


LATENCY_COMMANDS: Final[dict[str, Callable[[list[str]], None]]] = {
    "build": _build,
    "check": _check,
}


def _architecture(name: str, resolution: int | None) -> "Architecture":
    from nas.networks import find_network

    found = find_network(name, resolution=resolution).architecture
    if found is None:
        raise NasError(f"network {name!r} is timm's own; give an architecture, of which the layers are known")
    return found


def _space_of(name: str) -> "SearchSpace":
    from nas.spaces import space

    return space(name)


def _num(classes: int) -> int:
    if classes < 1:
        raise NasError(f"classes: {classes} is not 1 or more")
    return classes


def _admits(limits: "Sequence[Limit]", classes: int) -> "Callable[[Architecture], bool]":
    """Whether a network meets the limits."""
    from nas.networks import OwnNetwork
    from nas.objectives import Candidate

    def admits(network: "Architecture") -> bool:
        candidate = Candidate(network=OwnNetwork(architecture=network), num_classes=classes)
        return all(limit.excess(limit.objective.measure(candidate)) <= 0 for limit in limits)

    return admits


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left, where there is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print_check(table: "LatencyTable") -> None:
    check = table.check
    assert check is not None
    for name, value, interval in (
        ("MAPE %", check.mape_pct, check.mape_interval),
        ("Spearman", check.spearman, check.spearman_interval),
        ("Kendall", check.kendall, check.kendall_interval),
    ):
        print(f"{name} {value:.4g}, 95 % from {interval[0]:.4g} to {interval[1]:.4g}")
    print(table)
