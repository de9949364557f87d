"""Exact costs by arithmetic against building the network and counting, side by side in one run on one thread.

Usage: python -m experiments.benchmarks.cost [--samples 300] [--repeats 5]
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas import cost, reference, space

NETWORKS = (
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "mnasnet_100",
    "semnasnet_100",
    "efficientnet_b0",
)
SPACES = ("mnasnet", "mobilenetv3", "efficientnet", "compound")


def count_built(name: str) -> tuple[int, int]:
    """(params, macs) the usual way: timm builds the network, a counter watches one image go through."""
    model = timm.create_model(name).eval()
    size = reference(name).resolution
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model(torch.zeros(1, 3, size, size))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print the medians and ratios, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300, help="random points a space")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; both sides take turns in each")
    options = parser.parse_args()
    torch.set_num_threads(1)

    ours: dict[str, list[float]] = {name: [] for name in NETWORKS}
    theirs: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for name in NETWORKS:
        costs = cost(reference(name))
        assert (costs.params, costs.macs) == count_built(name), name  # equal results, and a warm-up of both sides
    for _ in range(options.repeats):
        for name in NETWORKS:
            architecture = reference(name)
            theirs[name].append(seconds(lambda name=name: count_built(name)))  # type: ignore[misc]
            ours[name].append(seconds(lambda architecture=architecture: cost(architecture)))  # type: ignore[misc]
    ratios = {}
    print(f"{'network':<24}{'timm + counter, ms':>20}{'nas.cost, ms':>14}{'ratio':>9}")
    for name in NETWORKS:
        built, exact = statistics.median(theirs[name]), statistics.median(ours[name])
        ratios[name] = built / exact
        print(f"{name:<24}{1e3 * built:>20.1f}{1e3 * exact:>14.4f}{ratios[name]:>9.0f}")

    medians = {}
    print(f"\n{'decode + params + macs':<24}{'median, us':>20}{'95 %, us':>14}")
    for name in SPACES:
        found, generator = space(name), random.Random(0)
        distributions = found.parameters
        from nas.spaces import sample

        points = [sample(distributions, generator) for _ in range(options.samples)]
        times = sorted(seconds(lambda point=point: cost(found.decode(point))) for point in points)  # type: ignore[misc]  # noqa: B023
        medians[name] = 1e6 * statistics.median(times)
        print(f"{name:<24}{medians[name]:>20.0f}{1e6 * times[int(0.95 * len(times))]:>14.0f}")
    figures = {
        "smallest_ratio": round(min(ratios.values())),
        "median_ratio": round(statistics.median(ratios.values())),
        "sample_us": {name: round(value) for name, value in medians.items()},
        "repeats": options.repeats,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
