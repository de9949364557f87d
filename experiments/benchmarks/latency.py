"""How good and how quick latency tables are: up to three parts, in one run.

1. A table of a space's layers is built on this machine, and held against 30 whole networks that are measured.
2. Predicting a latency from it, in turn with measuring it.
3. With --pixel1, Single-Path-NAS's table of a Pixel 1 is read in: block by block, without the stem, the first block and the head.
   What these take is what Single-Path-NAS's published 79.48 ms leave (arXiv:1904.02877, table 1); MnasNet-B1 is then predicted.

Usage: python -m experiments.benchmarks.latency [--space mobilenetv3] [--resolution 224] [--pixel1 FILE]
The file is the runtime model of github.com/dstamoulis/single-path-nas.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import nas
from nas import Block
from nas.errors import NasError
from nas.latency.build import build_table, check_table, reachable
from nas.latency.table import LatencyTable, Setup
from nas.latency.timing import measure
from nas.layers import parts

NUM_CLASSES: Final = 1000
SPNAS_MS: Final = 79.48  # arXiv:1904.02877, table 1
MNASNET_MS: Final = 76.7  # MnasNet-B1 on the same phone, there
COLUMNS: Final = {(3, 3): "0", (3, 6): "1", (5, 3): "2", (5, 6): "3"}  # (kernel, expansion) in the Pixel 1 file
LAYERS_A_STAGE: Final = 4  # of which the file has the times, whether a network has that many or not


def of_this_machine(space: str, resolution: int, file: Path) -> None:
    """Parts 1 and 2."""
    print(f"1. A table of space {space} at {resolution} px, one thread, onnxruntime", flush=True)
    started = time.perf_counter()
    table = build_table(reachable(nas.space(space), resolution=resolution), space=space, output=file)
    print(f"{len(table.milliseconds):,} layers in {(time.perf_counter() - started) / 60:.1f} minutes: {file}", flush=True)
    networks = reachable(nas.space(space), resolution=resolution, points=1_000, seed=1)
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


def of_pixel1(file: str) -> None:
    """Part 3."""
    times = json.loads(Path(file).read_text(encoding="utf-8"))
    network = nas.reference("mnasnet_100")
    first = {stage[0].width: i for i, stage in enumerate(network.stages)}  # the widths of the space are MnasNet-B1's
    milliseconds: dict[str, float] = {}
    for name in ("spnasnet_100", "mnasnet_100"):
        architecture = nas.reference(name)
        found = parts(architecture, NUM_CLASSES)
        milliseconds |= dict.fromkeys((found[0].key, found[1].key, found[-1].key), 0.0)
        before = dict.fromkeys(first, 0)
        for part in found[2:-1]:
            block = part.value
            assert isinstance(block, Block)
            layer = 1 + LAYERS_A_STAGE * (first[block.width] - 1) + before[block.width]
            before[block.width] += 1
            milliseconds[part.key] = times[str(layer)][COLUMNS[block.kernel, block.hidden // part.width]]
    table = LatencyTable(
        device="Pixel 1", runtime_version="tflite", setup=Setup(), date="2019-04-05", space="mnasnet", milliseconds=milliseconds
    )
    blocks = table.predict(nas.reference("spnasnet_100"), NUM_CLASSES)
    table = replace(table, overhead_ms=SPNAS_MS - blocks)
    said = table.predict(network, NUM_CLASSES)
    print(f"3. Pixel 1: Single-Path-NAS's blocks {blocks:.2f} ms of {SPNAS_MS}, so {table.overhead_ms:.2f} ms for the rest;")
    print(f"MnasNet-B1 predicted {said:.2f} ms, published {MNASNET_MS}: {100 * (said / MNASNET_MS - 1):+.1f} %")


def main() -> None:
    """Print every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobilenetv3", help="of part 1; none leaves parts 1 and 2 out")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--table", default="latency-table.json", help="the file that part 1 writes")
    parser.add_argument("--pixel1", help="Single-Path-NAS's runtime model")
    options = parser.parse_args()
    if options.space != "none":
        of_this_machine(options.space, options.resolution, Path(options.table))
    if options.pixel1:
        of_pixel1(options.pixel1)


if __name__ == "__main__":
    main()
