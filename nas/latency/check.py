"""How good a latency table is: whole networks of a space, measured and predicted. Read `nas/objectives/` next."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from scipy.stats import kendalltau, spearmanr

from nas.architecture import Architecture
from nas.errors import NasError
from nas.latency.table import Check, LatencyTable
from nas.latency.timing import measure

NETWORKS: Final = 30
RESAMPLES: Final = 2_000  # of the bootstrap


def check_table(
    table: LatencyTable,
    networks: Sequence[Architecture],
    num_classes: int,
    *,
    number: int = NETWORKS,
    seed: int = 1,
    on_network: Callable[[Architecture, float, float], None] = lambda _network, _measured, _predicted: None,
) -> LatencyTable:
    """The table with what it is worth, over so many of the networks, drawn at random.

    A network during which the machine does not hold still is left out, and another is taken.
    Raises: NasError where that happens to more than are wanted, or the table lacks a layer.
    """
    shuffled = random.Random(seed).sample(list(networks), len(networks))
    pairs: list[tuple[float, float]] = []
    refused = 0
    for network in shuffled:
        if len(pairs) == number:
            break
        predicted = table.predict(network, num_classes)
        try:
            measured = measure(network, num_classes, table.setup).median_ms
        except NasError:
            refused += 1
            if refused > number:
                raise
            continue
        on_network(network, measured, predicted)
        pairs.append((measured, predicted))
    return replace(table, check=compared(*zip(*pairs, strict=True)))


def compared(measured: Sequence[float], predicted: Sequence[float], *, seed: int = 0) -> Check:
    """Errors and agreement of ranks, with their intervals from a bootstrap over the networks."""
    true, said = np.array(measured), np.array(predicted)
    figures: dict[str, Callable[[Any, Any], float]] = {
        "mape_pct": lambda a, b: float(100 * np.mean(np.abs(b - a) / a)),
        "spearman": lambda a, b: float(spearmanr(a, b).statistic),
        "kendall": lambda a, b: float(kendalltau(a, b).statistic),
    }
    generator = np.random.default_rng(seed)
    draws = [generator.integers(0, len(true), len(true)) for _ in range(RESAMPLES)]
    values: dict[str, Any] = {"networks": len(true)}
    for name, figure in figures.items():
        values[name] = figure(true, said)
        low, high = np.nanquantile([figure(true[draw], said[draw]) for draw in draws], (0.025, 0.975))
        values[f"{name.removesuffix('_pct')}_interval"] = (float(low), float(high))
    return Check(**values)
