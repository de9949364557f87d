"""Exact costs by arithmetic against building the network and counting, side by side in one run on one thread.

Usage: python -m experiments.benchmarks.cost [--samples 300] [--repeats 5]
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas import cost, reference, space
from nas.spaces import sample

NETWORKS = (
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "mnasnet_100",
    "semnasnet_100",
    "efficientnet_b0",
)
SPACES = ("mnasnet", "mobilenetv3", "mobilenetv4", "efficientnet", "compound")


def count_macs(model: nn.Module, size: int) -> int:
    """Multiply-adds by watching one image go through a built network."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def count_built(name: str) -> tuple[int, int]:
    """(params, macs) the usual way: timm builds the network, a counter watches one image go through."""
    model = timm.create_model(name).eval()
    return sum(parameter.numel() for parameter in model.parameters()), count_macs(model, reference(name).resolution)


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

    networks = {name: reference(name) for name in NETWORKS}
    models = {name: timm.create_model(name).eval() for name in NETWORKS}
    times: dict[str, dict[str, list[float]]] = {side: {name: [] for name in NETWORKS} for side in ("ours", "built", "counted")}
    for name, architecture in networks.items():
        costs = cost(architecture)
        assert (costs.params, costs.macs) == count_built(name), name  # equal results, and a warm-up of both sides
    for _ in range(options.repeats):
        for name, architecture in networks.items():
            times["built"][name].append(seconds(partial(count_built, name)))
            times["ours"][name].append(seconds(partial(cost, architecture)))
            times["counted"][name].append(seconds(partial(count_macs, models[name], architecture.resolution)))
    medians = {side: {name: 1e3 * statistics.median(rounds[name]) for name in NETWORKS} for side, rounds in times.items()}
    ratios = {name: medians["built"][name] / medians["ours"][name] for name in NETWORKS}
    print(f"{'network':<24}{'timm + counter, ms':>20}{'counter alone, ms':>20}{'nas.cost, ms':>14}{'ratio':>8}{'alone':>8}")
    for name in NETWORKS:
        built, counted, exact = (medians[side][name] for side in ("built", "counted", "ours"))
        print(f"{name:<24}{built:>20.1f}{counted:>20.1f}{exact:>14.4f}{ratios[name]:>8.0f}{counted / exact:>8.0f}")

    samples = {}
    print(f"\n{'decode + params + macs':<24}{'median, us':>20}{'95 %, us':>20}")
    for name in SPACES:
        search_space, generator = space(name), random.Random(0)
        points = [sample(search_space.parameters, generator) for _ in range(options.samples)]
        taken = sorted(seconds(lambda point=point, decode=search_space.decode: cost(decode(point))) for point in points)  # type: ignore[misc]
        samples[name] = 1e6 * statistics.median(taken)
        print(f"{name:<24}{samples[name]:>20.0f}{1e6 * taken[int(0.95 * len(taken))]:>20.0f}")
    figures = {
        "smallest_ratio": round(min(ratios.values())),
        "median_ratio": round(statistics.median(ratios.values())),
        "median_ratio_counter_alone": round(statistics.median(medians["counted"][n] / medians["ours"][n] for n in NETWORKS)),
        "sample_us": {name: round(value) for name, value in samples.items()},
        "repeats": options.repeats,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
