"""How good and how quick latency tables are, in one run.

1. A table of a space's layers is built on this machine, and compared with measurements of 30 whole networks.
2. Predicting a latency from it, in turn with measuring it.

Usage: python -m experiments.benchmarks.latency [--space mobilenetv3] [--resolution 224]
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Final

import nas
from nas.errors import NasError
from nas.objectives.latency.build_table import build_table, check_table, reachable
from nas.objectives.latency.measure import measure

NUM_CLASSES: Final = 1000


def of_this_machine(space: str, resolution: int, file: Path) -> None:
    """Both parts."""
    print(f"1. A table of space {space} at {resolution} px, one thread, onnxruntime", flush=True)
    started = time.perf_counter()
    table = build_table(reachable(nas.space(space), resolution=resolution), space=space, output=file)
    print(f"{len(table.milliseconds):,} layers in {(time.perf_counter() - started) / 60:.1f} minutes: {file}", flush=True)
    networks = reachable(nas.space(space), resolution=resolution, quiet_draws=1_000, seed=1)
    pairs: list[tuple[float, float]] = []
    checked = check_table(table, networks, NUM_CLASSES, on_network=lambda _, ms, said: pairs.append((ms, said)))
    print(f"networks of {min(pairs)[0]:.2f} to {max(pairs)[0]:.2f} ms; {checked.check}", flush=True)
    print("2. Predicting, in turn with measuring", flush=True)
    ratios = []
    for network in networks[:9]:
        started = time.perf_counter()
        for _ in range(100):
            table.predict(network, NUM_CLASSES)
        predicting = (time.perf_counter() - started) / 100
        started = time.perf_counter()
        try:
            measure(network, NUM_CLASSES)
        except NasError as error:  # what it cost to be refused is left out
            print(error, flush=True)
            continue
        ratios.append((time.perf_counter() - started) / predicting)
    print(f"{statistics.median(ratios):,.0f} times as fast ({min(ratios):,.0f} to {max(ratios):,.0f})", flush=True)


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobilenetv3")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--table", default="latency-table.json", help="the file to write")
    options = parser.parse_args()
    of_this_machine(options.space, options.resolution, Path(options.table))


if __name__ == "__main__":
    main()
