"""`nas measure`, `nas latency build`, `nas latency check` and `nas latency sample`."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from nas.cli.options import Limits
from nas.cli.output import shown_path
from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.objectives.latency.table import ONE_THREAD, Setup, read_table, table_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The side of a network's input and the number of its classes."""

    resolution: int | None = None
    """Side of the input, pixels; by default the network's own, or all resolutions of the space."""
    classes: int = 1000
    """Number of classes."""

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise NasError(f"classes: {self.classes} is not 1 or more")


def measure(network: str, /, *, setup: Setup, shape: Shape) -> None:
    """Measure a network's latency on this machine, the median of many runs; refuse if the machine is busy.

    Args:
        network: A published network's name, an export's folder, or the file of an architecture.
    """
    from nas.models.network import find_network
    from nas.objectives.latency.measure import measure as measure_latency

    architecture = find_network(network, resolution=shape.resolution).architecture
    latency = measure_latency(architecture, shape.classes, setup)
    print(f"{latency.median_ms:.4g} ms, the middle half of {latency.runs} runs from {latency.q25_ms:.4g} to {latency.q75_ms:.4g}")
    print(
        f"{latency.device}, {setup.runtime} {latency.runtime_version}, {setup.threads} thread(s), batch {setup.batch}, "
        f"{setup.dtype}; a reference network beside it drifted by {latency.drift_pct:+.1f} %"
    )


def latency_build(
    space: str, /, *, setup: Setup, shape: Shape, limit: Limits = (), output: Path | None = None, measured: Path | None = None
) -> None:
    """Time every layer of a space on this machine, for `latency_ms`; the same command resumes an interrupted build.

    Args:
        space: The space's name, or the path of a Python file with a SPACE.
        output: The table's file, by default in the folder where searches look for tables, or beside the file of --measured.
        measured: Time nothing here, but fit the table to whole networks that were measured on another device: the list of
            `nas latency sample` with the milliseconds in its column ms. The table's device has the name of this file.
    """
    if measured is not None:
        if setup != ONE_THREAD:
            raise NasError(
                f"--runtime, --device, --threads, --batch and --dtype say how this machine measures, but {measured} was measured "
                "elsewhere; leave them out"
            )
        _fit(space, measured, shape, limit, output=output)
        return
    from nas.cli.progress import bar
    from nas.objectives.latency.build_table import build_table
    from nas.objectives.latency.measure import device_model
    from nas.spaces import space as find_space

    name, side = find_space(space).name, [f"{shape.resolution}px"] * bool(shape.resolution)
    file = output or table_file([name, *side, f"{shape.classes}classes", *limit, device_model(setup)], setup)
    networks = _reachable(space, shape, limit)
    with bar("layers timed") as on_progress:
        table = build_table(networks, space=name, output=file, num_classes=shape.classes, setup=setup, on_progress=on_progress)
    print(f"{len(table.milliseconds):,} layers: {shown_path(file)}")
    options = [f"--classes {shape.classes}", f"--space {shlex.quote(space)}"]
    options += [f"--resolution {shape.resolution}"] * bool(side) + [f"--limit {shlex.join(limit)}"] * bool(limit)
    print("\n" + " ".join(["nas latency check", shown_path(file), *options]))


def latency_check(table: Path, /, *, shape: Shape, limit: Limits = (), networks: int = 30, space: str | None = None) -> None:
    """Measure whole networks on this machine, compare with a table's predictions, and write the error into the table.

    Args:
        table: The table's file.
        networks: How many random networks to measure.
        space: The space to draw them from, by default the one that the table was built for.
    """
    built = read_table(table)
    built.own_setup()  # before the drawing, which takes a while
    from nas.objectives.latency.build_table import check_table

    def on_network(network: Architecture, measured: float, predicted: float) -> None:
        print(f"{network.id}: measured {measured:.4g} ms, predicted {predicted:.4g} ms", flush=True)

    drawn = _reachable(space or built.space, shape, limit, quiet_draws=50 * networks, seed=1)
    checked = check_table(built, drawn, shape.classes, number=networks, on_network=on_network)
    checked.write(table)
    print(checked.check)
    print(checked)


def _fit(space: str, measured: Path, shape: Shape, limit: tuple[str, ...], *, output: Path | None) -> None:
    """Write and print a table that fits whole networks. Raises: NasError for a wrong row, or too few."""
    file = output or measured.parent / f"{measured.stem}.json"
    if file.resolve() == measured.resolve():
        raise NasError(f"output: {file} is the file of --measured; give another for the table")
    if file.exists():
        _check_table(file)
    from nas.cli.progress import drawing
    from nas.objectives import parse_limit
    from nas.objectives.latency.fit_table import fit_table, read_measurements
    from nas.spaces import space as find_space

    own = find_space(space)
    measurements = read_measurements(measured, own, shape.classes)
    limits = [parse_limit(text) for text in limit]
    with drawing():
        table = fit_table(measurements, own, resolution=shape.resolution, limits=limits, num_classes=shape.classes)
    table.write(file)
    number, left_out = len(measurements.milliseconds), measurements.unmeasured
    least, most = min(measurements.milliseconds.values()), max(measurements.milliseconds.values())
    rest = f"; {left_out} rows have no milliseconds and are left out" * bool(left_out)
    print(f"{number} measured networks of {least:.3g} to {most:.3g} ms{rest}")
    print(table.check)
    print(table)
    print(f"{len(table.milliseconds):,} layers: {shown_path(file)}")


def _check_table(file: Path) -> None:
    """Check that only a table is replaced. Raises: NasError if the file is none."""
    try:
        read_table(file)
    except NasError:
        raise NasError(f"output: {file} is there and is no latency table; give another file") from None


def latency_sample(space: str, /, *, output: Path, shape: Shape, limit: Limits = (), networks: int = 200, seed: int = 0) -> None:
    """Write networks of a space as ONNX files to measure on another device, such as a phone, and a list for their milliseconds.

    Their multiply-adds are spread over the space's range. The same command resumes an interrupted one.

    Args:
        space: The space's name, or the path of a Python file with a SPACE.
        output: The folder for the files and the list, networks.csv.
        networks: How many networks to write; 100 or more give a good table.
        seed: Another seed gives other networks.
    """
    from nas.cli.progress import bar, drawing
    from nas.objectives import parse_limit
    from nas.objectives.latency.fit_table import MIN_NETWORKS
    from nas.objectives.latency.sample import spread, write_sample
    from nas.spaces import space as find_space

    if networks < MIN_NETWORKS:
        raise NasError(f"networks: {networks} is not {MIN_NETWORKS} or more, which a table needs")
    limits = [parse_limit(text) for text in limit]
    own = find_space(space)
    with drawing():
        drawn = spread(own, networks, resolution=shape.resolution, limits=limits, num_classes=shape.classes, seed=seed)
    with bar("networks written") as on_progress:
        file = write_sample(drawn, shape.classes, output, on_progress=on_progress)
    print(
        f"{len(drawn)} networks: measure them, and write the milliseconds for one image into the column ms of {shown_path(file)}"
    )
    options = [f"--classes {shape.classes}"] + [f"--resolution {shape.resolution}"] * bool(shape.resolution)
    options += [f"--limit {shlex.join(limit)}"] * bool(limit)
    print("\n" + " ".join([f"nas latency build {shlex.quote(space)} --measured", shown_path(file), *options]))


def _reachable(space: str, shape: Shape, limits: tuple[str, ...], **points_and_seed: int) -> list[Architecture]:
    """The networks to time layers of, from a space within limits. Raises: NasError if there is none."""
    from nas.cli.progress import drawing
    from nas.objectives import parse_limit
    from nas.objectives.latency.build_table import reachable
    from nas.spaces import space as find_space

    own, parsed = find_space(space), [parse_limit(text) for text in limits]
    with drawing():
        return reachable(own, resolution=shape.resolution, limits=parsed, num_classes=shape.classes, **points_and_seed)
