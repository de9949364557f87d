"""A latency table: made by running networks of a space layer by layer on this machine, and checked against whole networks.

A layer is timed where it stands in a network: alone it would find its input in no cache, and its output wanted in no other
layout.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.optimize import lsq_linear
from scipy.stats import kendalltau, spearmanr
from sklearn.preprocessing import MultiLabelBinarizer

from nas.errors import MachineBusyError, NasError
from nas.files import append_record, cut_torn_line, locked, read_records
from nas.models.architecture import Architecture
from nas.models.layers import layers
from nas.models.zoo import reference
from nas.objectives.latency.measure import (
    REFERENCE,
    between_references,
    device_model,
    measure,
    profile,
    runner,
    runtime_version,
    timed,
)
from nas.objectives.latency.table import ONE_THREAD, Check, LatencyTable, Setup
from nas.spaces import SearchSpace, is_choice, sample
from nas.statistics import bootstrap_interval

POINTS: Final = 10_000  # random ones in a row that bring no further layer, after which a space is taken to have no more
MOST: Final = 20  # times as many are drawn in all; a space of very many widths never ends
RUNS: Final = 20
PAUSES: Final = range(8)  # seconds before each attempt
REFERENCE_SECONDS: Final = 0.05
LARGEST_DRIFT: Final = 0.25  # of so short a look at the reference; what is less is divided out
WHOLE_SECONDS: Final = 0.1
PRIOR: Final = 2.0  # how many networks the belief weighs that watching takes no time
SCALES: Final = (0.5, 2.0)  # by which the times of a kind of layer may be off while they are watched
NETWORKS: Final = 30  # measured to check a table


def build_table(
    networks: Sequence[Architecture],
    *,
    space: str,
    output: Path,
    num_classes: int = 1000,
    setup: Setup = ONE_THREAD,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> LatencyTable:
    """Time every layer of some networks of a space, such as the `reachable` ones, and write the table to `output`.

    `on_progress` is told (layers timed, layers in all). What was timed is kept beside the output while it lasts, and the same
    call goes on from there.

    Raises: NasError if the file cannot be written, another process builds it, or the machine does not hold still.
    """
    log, lock = (output.with_name(f".{output.name}.{what}") for what in ("timed", "lock"))
    identity = {"setup": repr(setup), "device": device_model(setup), "version": runtime_version(setup), "classes": num_classes}
    binarizer = MultiLabelBinarizer(sparse_output=True)  # which network has which layer
    has = binarizer.fit_transform([[layer.key for layer in layers(network, num_classes)] for network in networks])
    keys = list(binarizer.classes_)
    with locked(lock, busy=f"{output} is being built by another process"), runner(reference(REFERENCE), 1000, setup) as known:
        if log.is_file():
            cut_torn_line(log)  # of a call that was ended
        lines = [line for line in (read_records(log) if log.is_file() else ()) if line.items() >= identity.items()]
        done = {key for line in lines for key in line["keys"]}
        while (lacking := np.array([key not in done for key in keys])).any():  # most are met several times
            on_progress(int((~lacking).sum()), len(keys))
            lines.append(_timed_layers(networks[int(np.argmax(has @ lacking))], num_classes, setup, known))
            append_record(log, identity | lines[-1])
            done.update(lines[-1]["keys"])
        on_progress(len(keys), len(keys))
        fitted = _fitted(lines)
        table = LatencyTable(
            device=device_model(setup),
            runtime_version=runtime_version(setup),
            setup=setup,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            space=space,
            milliseconds={key: float(f"{fitted[key]:.6g}") for key in keys},
        )
        table.write(output)
        log.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
    return table


def reachable(
    space: SearchSpace,
    *,
    resolution: int | None = None,
    admits: Callable[[Architecture], bool] = lambda _: True,
    points: int = POINTS,
    seed: int = 0,
) -> list[Architecture]:
    """Different random networks of a space that are let through, its references among them, until they bring nothing new.

    Raises: NasError if there is none.
    """
    generator, sides = random.Random(seed), space.parameters.get("resolution")
    fixed = {} if resolution is None or sides is None else {"resolution": resolution}
    if sides is not None and fixed and not is_choice(sides, resolution):
        raise NasError(f"resolution: {resolution} is not one of space {space.name}, which has {sides}")
    found: dict[Architecture, None] = {}
    seen: set[str] = set()
    quiet = drawn = 0
    waiting = list(space.references.values())
    while quiet < points and drawn < MOST * points:
        point = waiting.pop() if waiting else sample(space.parameters, generator)
        network = space.decode(point | fixed)
        drawn, quiet = drawn + 1, quiet + 1
        if (resolution is None or network.resolution == resolution) and network not in found and admits(network):
            found[network] = None
            keys = {layer.key for layer in layers(network, 0)}
            quiet = quiet if keys <= seen else 0
            seen |= keys
    if not found:
        and_side = f" and resolution {resolution}" if resolution else ""
        raise NasError(f"no network of space {space.name} with these limits{and_side}")
    return list(found)


def _timed_layers(network: Architecture, num_classes: int, setup: Setup, known: Callable[[], object]) -> dict[str, Any]:
    """A network layer by layer and as a whole, and how long the reference took beside it, by which a slower machine is known.

    Raises: MachineBusyError.
    """

    def take() -> tuple[tuple[list[float], float], float]:
        of_layers = profile(network, num_classes, setup, runs=RUNS)
        times, cpu_share = timed(whole, WHOLE_SECONDS)
        return (of_layers, statistics.median(times)), cpu_share

    with runner(network, num_classes, setup) as whole:
        found, before, after = between_references(
            take, known, setup, seconds=REFERENCE_SECONDS, max_drift=LARGEST_DRIFT, pauses=PAUSES
        )
    keys = [layer.key for layer in layers(network, num_classes)]
    return {"keys": keys, "ms": found[0], "whole_ms": found[1], "reference_ms": (before + after) / 2}


def _fitted(lines: Sequence[dict[str, Any]]) -> "pd.Series[float]":
    """The median milliseconds of layers by key, brought to the scale of whole networks that run without being watched.

    To watch takes time with every layer, more with some kinds than with others: the whole is fitted by the sum of the layers of
    each kind and by their number, held near the sum of all, and such that no layer takes less than nothing.
    """
    speed = statistics.median(line["reference_ms"] for line in lines)
    timed_layers = pd.DataFrame(
        [
            (number, key, ms * speed / line["reference_ms"])
            for number, line in enumerate(lines)
            for key, ms in zip(line["keys"], line["ms"], strict=True)
        ],
        columns=["network", "key", "ms"],
    )
    medians = timed_layers.groupby(["network", "key"])["ms"].mean().groupby("key").median()
    kinds = medians.index.str.extract("^([a-z]*)", expand=False)  # conv, depthwise, squeeze, add, pool or linear
    timed_layers["ms"] = timed_layers["key"].map(medians)
    timed_layers["kind"] = timed_layers["key"].map(dict(zip(medians.index, kinds, strict=True)))
    of_kinds = timed_layers.pivot_table(index="network", columns="kind", values="ms", aggfunc=["sum", "count"], fill_value=0)
    whole = np.array([line["whole_ms"] * speed / line["reference_ms"] for line in lines])
    shares = of_kinds.to_numpy() / whole[:, None]
    least = medians.groupby(kinds).min()
    near, far = np.repeat([1.0, 0.0], len(least)), np.repeat([SCALES[1], np.inf], len(least))
    ridge = np.diag(np.sqrt(PRIOR * (shares**2).mean(axis=0)))
    low = np.r_[np.full(len(least), SCALES[0]), -SCALES[0] * least]
    fit = lsq_linear(np.r_[shares, ridge], np.r_[np.ones(len(shares)), ridge @ near], bounds=(low, far))
    scales, extras = (pd.Series(part, index=least.index)[kinds].to_numpy() for part in np.split(fit.x, 2))
    fitted: pd.Series[float] = (scales * medians + extras).clip(lower=0.0)  # rounding may lead below
    return fitted


def check_table(
    table: LatencyTable,
    networks: Sequence[Architecture],
    num_classes: int,
    *,
    number: int = NETWORKS,
    on_network: Callable[[Architecture, float, float], None] = lambda _network, _measured, _predicted: None,
) -> LatencyTable:
    """The table with what it is worth, over so many of the networks, drawn at random; `on_network` gets the milliseconds of each.

    A network during which the machine does not hold still is left out, and another is taken.
    Raises: MachineBusyError where that happens to more than are wanted; NasError if the table lacks a layer.
    """
    pairs: list[tuple[float, float]] = []
    refused = 0
    for network in random.Random(1).sample(list(networks), len(networks)):
        if len(pairs) == number:
            break
        predicted = table.predict(network, num_classes)
        try:
            measured = measure(network, num_classes, table.setup).median_ms
        except MachineBusyError:
            if (refused := refused + 1) > number:
                raise
            continue
        on_network(network, measured, predicted)
        pairs.append((measured, predicted))
    return replace(table, check=compared(*np.transpose(pairs)))


def compared(measured: "np.ndarray[Any, Any]", predicted: "np.ndarray[Any, Any]") -> Check:
    """Errors and agreement of ranks, with their intervals from a bootstrap over the networks."""
    figures: dict[str, Callable[[Any, Any], float]] = {
        "mape_pct": lambda a, b: float(100 * np.mean(np.abs(b - a) / a)),
        "spearman": lambda a, b: float(spearmanr(a, b).statistic),
        "kendall": lambda a, b: float(kendalltau(a, b).statistic),
    }
    values: dict[str, Any] = {"networks": len(measured)}
    for name, figure in figures.items():
        values[name] = figure(measured, predicted)
        values[f"{name.removesuffix('_pct')}_interval"] = bootstrap_interval(figure, measured, predicted)
    return Check(**values)
