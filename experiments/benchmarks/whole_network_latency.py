"""How good a latency table is that was fitted to whole networks, as for a phone, beside one that was timed layer by layer.

Networks are measured on this machine, in rounds, each in a random order; the table of layers is built after the first round.
Tables are fitted to 30, 100 and 200 networks, and compared with measurements of 30 others.

Usage: python -m experiments.benchmarks.whole_network_latency [--space mobilenetv3] [--resolution 96] [--output FOLDER]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

import nas
from nas.errors import MachineBusyError
from nas.models.architecture import Architecture
from nas.models.zoo import reference
from nas.objectives.latency.build_table import (
    LARGEST_DRIFT,
    NETWORK_SECONDS,
    PAUSES,
    REFERENCE_SECONDS,
    build_table,
    compare_latencies,
    reachable,
)
from nas.objectives.latency.fit_table import Measurements, fit_table
from nas.objectives.latency.measure import REFERENCE, between_references, runner, timed
from nas.objectives.latency.sample import spread
from nas.objectives.latency.table import ONE_THREAD, LatencyTable, read_table
from nas.spaces import SearchSpace

NUM_CLASSES: Final = 1000
ROUNDS: Final = 3
SIZES: Final = (30, 100, 200)  # networks that a table is fitted to
OTHERS: Final = 30  # networks that show its error
MEASUREMENTS: Final = "measurements.csv"
TABLE: Final = "table.json"


class Row(NamedTuple):
    """One measurement."""

    part: str
    """fit or test."""
    round: int
    ms: float
    reference_ms: float
    architecture: str


def measured_round(number: int, parts: dict[Architecture, str], seed: int) -> Iterator[Row]:
    """A measurement of every network, in random order, without those that the machine was too busy for."""
    order = random.Random(f"{seed} {number}").sample(list(parts), len(parts))
    with runner(reference(REFERENCE), NUM_CLASSES, ONE_THREAD) as run_reference:
        for network in order:
            try:
                ms, reference_ms = measured_once(network, run_reference)
            except MachineBusyError as error:
                print(f"{network.id} is left out of round {number}: {error}", flush=True)
                continue
            yield Row(parts[network], number, ms, reference_ms, network.to_json())


def measured_once(network: Architecture, run_reference: Callable[[], object]) -> tuple[float, float]:
    """(median milliseconds of a network, of the reference around it)."""
    with runner(network, NUM_CLASSES, ONE_THREAD) as run:
        (times, before, after) = between_references(
            lambda: timed(run, NETWORK_SECONDS),
            run_reference,
            ONE_THREAD,
            seconds=REFERENCE_SECONDS,
            max_drift=LARGEST_DRIFT,
            pauses=PAUSES,
        )
    return statistics.median(times), (before + after) / 2


def measured(space: SearchSpace, resolution: int, seed: int, folder: Path) -> Path:
    """The CSV file of new measurements; the table of layers lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    others = spread(space, OTHERS, resolution=resolution, num_classes=NUM_CLASSES, seed=seed + 1)
    networks = spread(space, max(SIZES), resolution=resolution, num_classes=NUM_CLASSES, seed=seed)
    parts = dict.fromkeys(others, "test") | dict.fromkeys(networks, "fit")  # a network of both is only fitted to
    rows: list[Row] = []
    for number in range(ROUNDS):
        started = time.perf_counter()
        rows += measured_round(number, parts, seed)
        pd.DataFrame(rows).to_csv(folder / MEASUREMENTS, index=False)
        print(f"round {number}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
        if number == 0:
            time_layers(space, resolution, folder / TABLE)
    return folder / MEASUREMENTS


def time_layers(space: SearchSpace, resolution: int, file: Path) -> None:
    """Write the table of layers; while the machine is busy, wait for it."""
    started, networks = time.perf_counter(), reachable(space, resolution=resolution)
    while True:
        try:
            table = build_table(networks, space=space.name, output=file)  # continues with the layers that are left
        except MachineBusyError as error:
            print(f"{error}; goes on in a minute", flush=True)
            time.sleep(60)
        else:
            break
    print(f"{len(table.milliseconds):,} layers in {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)


def compare(space: SearchSpace, resolution: int, file: Path) -> None:
    """Print the error of each table on the test networks."""
    df = pd.read_csv(file)
    df["ms"] *= df["reference_ms"].median() / df["reference_ms"]  # as if the machine had been as fast all the time
    noise = df.groupby("architecture")["ms"].agg(lambda ms: (ms - ms.median()).abs().mean() / ms.median()).mean()
    print(f"a measurement is off the median of its network's by {100 * noise:.1f} % on average", flush=True)
    medians = {part: rows.groupby("architecture", sort=False)["ms"].median() for part, rows in df.groupby("part")}
    fit, test = ({Architecture.from_json(str(text)): ms for text, ms in medians[part].items()} for part in ("fit", "test"))
    print(f"{len(test)} test networks of {min(test.values()):.2f} to {max(test.values()):.2f} ms", flush=True)
    ordered = sorted(fit, key=fit.__getitem__)
    for size in sorted({min(size, len(fit)) for size in SIZES}):
        some = [ordered[i] for i in np.linspace(0, len(fit) - 1, size).round().astype(int)]
        measurements = Measurements(device="here", milliseconds={one: fit[one] for one in some}, unmeasured=0)
        table = fit_table(measurements, space, resolution=resolution, num_classes=NUM_CLASSES)
        print_error(f"fitted to {size} networks", table, test)
    print_error("timed layer by layer", read_table(file.with_name(TABLE)), test)


def print_error(name: str, table: LatencyTable, test: dict[Architecture, float]) -> None:
    """Print a table's error on the test networks that it has every layer of, and its error by cross-validation."""
    covered = [network for network in test if not table.missing(network, NUM_CLASSES)]
    predicted = np.array([table.predict(network, NUM_CLASSES) for network in covered])
    check = compare_latencies(np.array([test[network] for network in covered]), predicted)
    held_out = (
        f"; by cross-validation: MAPE {table.check.mape_pct:.1f} %, Spearman {table.check.spearman:.3f}" if table.check else ""
    )
    intervals = [f"{low:.3g} to {high:.3g}" for low, high in (check.mape_interval, check.spearman_interval)]
    print(
        f"{name}: MAPE {check.mape_pct:.1f} % ({intervals[0]}), Spearman {check.spearman:.3f} ({intervals[1]}) on "
        f"{len(covered)} networks{held_out}",
        flush=True,
    )


def main() -> None:
    """Measure, unless measurements are there, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobilenetv3")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0, help="another one draws other networks")
    parser.add_argument(
        "--output", type=Path, default=Path("whole-network-latency"), help="the folder for measurements and table"
    )
    parser.add_argument(
        "--measured", type=Path, help=f"measure nothing: the {MEASUREMENTS} of an earlier run, beside its {TABLE}"
    )
    options = parser.parse_args()
    space = nas.space(options.space)
    file = options.measured or measured(space, options.resolution, options.seed, options.output)
    compare(space, options.resolution, file)


if __name__ == "__main__":
    main()
