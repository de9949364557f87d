"""`nas measure` and `nas latency`: parse, call one function, print."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nas.cli.options import choose, command
from nas.cli.output import shown_path
from nas.errors import NasError
from nas.objectives.latency.table import Setup, read_table, table_folder

if TYPE_CHECKING:
    from nas.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of inputs and outputs."""

    resolution: int | None = None
    """Side of the input in pixels, by default a network's own, or all that a space has."""
    classes: int = 1000
    """Of the classifier."""

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise NasError(f"classes: {self.classes} is not 1 or more")


@dataclass(frozen=True, kw_only=True)
class Networks(Shape):
    """Which networks of a space a table is for."""

    limit: tuple[str, ...] = ()
    """Only networks within it, such as 'macs_m<200'; may be given several times."""

    def reachable(self, space: str, **how: int) -> "list[Architecture]":
        """The networks; `how` are points and seed. Raises: NasError if there is none."""
        from nas.models.network import OwnNetwork
        from nas.objectives import Candidate, parse_limit
        from nas.objectives.latency.build import reachable
        from nas.spaces import space as find_space

        limits = list(map(parse_limit, self.limit))

        def admits(network: "Architecture") -> bool:
            candidate = Candidate(network=OwnNetwork(architecture=network), num_classes=self.classes)
            return all(limit.excess(limit.objective.measure(candidate)) <= 0 for limit in limits)

        return reachable(find_space(space), resolution=self.resolution, admits=admits, **how)


@command
def measure(network: str, /, *, setup: Setup, shape: Shape) -> None:
    """Measure how long a network takes on this machine: warmed up, repeated, and refused where the machine is busy.

    Args:
        network: A published network's name, an export's folder, or the file of an architecture.
        setup: What it is run in.
        shape: Of its input and output.
    """
    from nas.models.network import find_network
    from nas.objectives.latency.measure import measure as measure_latency

    architecture = find_network(network, resolution=shape.resolution).architecture
    found = measure_latency(architecture, shape.classes, setup)
    print(f"{found.median_ms:.4g} ms, the middle half of {found.runs} runs from {found.q25_ms:.4g} to {found.q75_ms:.4g}")
    print(
        f"{found.device}, {setup.runtime} {found.runtime_version}, {setup.threads} thread(s), batch {setup.batch}, "
        f"{setup.dtype}; a reference network beside it drifted by {found.drift_pct:+.1f} %"
    )


@command
def latency_build(space: str, /, *, setup: Setup, which: Networks, output: Path | None = None) -> None:
    """Time every layer of a space on this machine; the same call goes on where one that was ended had stopped.

    Args:
        space: The space's name.
        setup: What its networks are run in.
        which: Which of its networks.
        output: The table's file, by default where searches look for it.
    """
    from nas.cli.live import bar
    from nas.objectives.latency.build import build_table
    from nas.objectives.latency.measure import device_model
    from nas.spaces import space as find_space

    name, side = find_space(space).name, [f"{which.resolution}px"] * bool(which.resolution)
    how = [device_model(setup), setup.runtime, setup.device, f"{setup.threads}threads", f"batch{setup.batch}", setup.dtype]
    words = "-".join([name, *side, f"{which.classes}classes", *which.limit, *how])
    file = output or table_folder() / (re.sub(r"[^A-Za-z0-9_.]+", "-", words) + ".json")
    networks = which.reachable(space)
    with bar("layers timed") as told:
        table = build_table(networks, space=name, output=file, num_classes=which.classes, setup=setup, on_progress=told)
    print(f"{len(table.milliseconds):,} layers: {shown_path(file)}")
    options = [f"--classes {which.classes}", f"--space {shlex.quote(space)}"]
    options += [f"--resolution {which.resolution}"] * bool(side) + [f"--limit {shlex.quote(limit)}" for limit in which.limit]
    print("\n" + " ".join(["nas latency check", shown_path(file), *options]))


@command
def latency_check(table: Path, /, *, which: Networks, networks: int = 30, space: str | None = None) -> None:
    """Measure whole networks of a table's space on this machine, and write into the table how good it is.

    Args:
        table: The table's file.
        which: Which networks of the space.
        networks: How many are measured, drawn at random.
        space: Their space, by default the one that the table was built for.
    """
    found = read_table(table)
    from nas.objectives.latency.build import check_table

    def told(network: "Architecture", measured: float, predicted: float) -> None:
        print(f"{network.id}: measured {measured:.4g} ms, predicted {predicted:.4g} ms", flush=True)

    drawn = which.reachable(space or found.space, points=50 * networks, seed=1)
    checked = check_table(found, drawn, which.classes, number=networks, on_network=told)
    checked.write(table)
    print(checked.check)
    print(checked)


LATENCY_COMMANDS: Final = {"build": latency_build, "check": latency_check}


def latency(arguments: list[str]) -> None:
    """Make a table of what a space's layers take on a device, and say how good it is: build, check."""
    choose(LATENCY_COMMANDS, arguments, prog="nas latency", purpose=latency.__doc__ or "")
