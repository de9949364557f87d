"""Builds a latency table from the layers of a space's networks, timed on this machine, and checks it against whole networks.

Layers are timed inside a running network: alone, a layer would not find its input in the cache and would skip layout changes.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic import TypeAdapter
from scipy.optimize import lsq_linear
from scipy.stats import kendalltau, spearmanr
from sklearn.preprocessing import MultiLabelBinarizer

from nas.errors import MachineBusyError, NasError
from nas.files import locked
from nas.models.architecture import Architecture
from nas.models.layers import layers
from nas.models.network import OwnNetwork
from nas.models.zoo import reference
from nas.objectives import Candidate, Limit
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
from nas.records import append_record, cut_torn_line, read_records
from nas.spaces import SearchSpace, is_choice, sample
from nas.statistics import bootstrap_interval

MAX_QUIET_DRAWS: Final = 10_000  # drawing stops after so many networks in a row without a new layer
MAX_DRAWS_FACTOR: Final = 20  # drawing stops after so many times `quiet_draws` networks, as some spaces hardly run out of layers
RUNS: Final = 20  # profiled runs of each network, for the medians of its layers
PAUSES: Final = range(8)  # seconds before each attempt
REFERENCE_SECONDS: Final = 0.05  # of timed runs of the reference, before and after
LARGEST_DRIFT: Final = 0.25  # wide, as the reference runs so briefly; times are divided by the reference's time
NETWORK_SECONDS: Final = 0.1  # of timed runs of each whole network
PRIOR: Final = 2.0  # weight of the prior that profiling adds no time, in networks
SCALES: Final = (0.5, 2.0)  # bounds of the factor that corrects the profiled times of a kind of layer
NETWORKS: Final = 30  # measured to check a table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """A line of the file that keeps the times until the table is done."""

    setup: str
    device: str
    version: str
    classes: int
    keys: list[str]
    ms: list[float]
    whole_ms: float
    reference_ms: float

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.ms):
            raise ValueError(f"{len(self.keys)} layers have {len(self.ms)} times")


TIMED: Final = TypeAdapter(_Timed)


def build_table(
    networks: Sequence[Architecture],
    *,
    space: str,
    output: Path,
    num_classes: int = 1000,
    setup: Setup = ONE_THREAD,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> LatencyTable:
    """Time every layer of some networks of a space, such as those of `reachable`, and write the table to `output`.

    `on_progress` gets the number of timed layers and the number of all layers. A file beside the output keeps the times until the
    table is done; after an interruption, the same call resumes from it.

    Raises: NasError if the file cannot be written, another process builds the table, or the machine is busy.
    """
    log, lock = (output.with_name(f".{output.name}.{what}") for what in ("timed", "lock"))
    identity = {"setup": repr(setup), "device": device_model(setup), "version": runtime_version(setup), "classes": num_classes}
    binarizer = MultiLabelBinarizer(sparse_output=True)  # (networks, layers): 1 where the network has the layer
    has = binarizer.fit_transform([[layer.key for layer in layers(network, num_classes)] for network in networks])
    keys = list(binarizer.classes_)
    with (
        locked(lock, busy=f"{output} is being built by another process"),
        runner(reference(REFERENCE), 1000, setup) as run_reference,
    ):
        if log.is_file():
            cut_torn_line(log)  # an interrupted call may have torn it
        earlier = (asdict(line) for _, line in (read_records(log, TIMED) if log.is_file() else ()))
        lines: list[dict[str, Any]] = [line for line in earlier if line.items() >= identity.items()]
        done = {key for line in lines for key in line["keys"]}
        while (missing := np.array([key not in done for key in keys])).any():  # next: the network with the most untimed layers
            on_progress(int((~missing).sum()), len(keys))
            lines.append(_timed_layers(networks[int(np.argmax(has @ missing))], num_classes, setup, run_reference))
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
    limits: Sequence[Limit] = (),
    num_classes: int = 1000,
    quiet_draws: int = MAX_QUIET_DRAWS,
    seed: int = 0,
) -> list[Architecture]:
    """Different networks of a space: its references, then random ones until `quiet_draws` in a row bring no new layer.

    Every network meets the limits at `num_classes` outputs, and has the `resolution`, if one is given.

    Raises: NasError if there is no such network.
    """
    generator, resolutions = random.Random(seed), space.parameters.get("resolution")
    fixed = {} if resolution is None or resolutions is None else {"resolution": resolution}
    if resolutions is not None and fixed and not is_choice(resolutions, resolution):
        has = ", ".join(map(str, getattr(resolutions, "choices", [resolutions])))
        raise NasError(f"resolution: {resolution} is not one of space {space.name}, which has {has}")

    networks: dict[Architecture, None] = {}
    seen_keys: set[str] = set()
    quiet = drawn = 0
    references = list(space.references.values())
    while quiet < quiet_draws and drawn < MAX_DRAWS_FACTOR * quiet_draws:
        point = references.pop() if references else sample(space.parameters, generator)
        network = space.decode(point | fixed)
        drawn, quiet = drawn + 1, quiet + 1
        new = network not in networks and (resolution is None or network.resolution == resolution)
        if new and is_within(network, limits, num_classes):
            networks[network] = None
            keys = {layer.key for layer in layers(network, 0)}
            quiet = quiet if keys <= seen_keys else 0
            seen_keys |= keys
    if not networks:
        and_resolution = f" and resolution {resolution}" if resolution else ""
        raise NasError(f"no network of space {space.name} with these limits{and_resolution}")
    return list(networks)


def is_within(network: Architecture, limits: Sequence[Limit], num_classes: int) -> bool:
    """True if a network meets every limit at `num_classes` outputs."""
    candidate = Candidate(network=OwnNetwork(architecture=network), num_classes=num_classes)
    return all(limit.excess(limit.objective.measure(candidate)) <= 0 for limit in limits)


def _timed_layers(network: Architecture, num_classes: int, setup: Setup, run_reference: Callable[[], object]) -> dict[str, Any]:
    """Milliseconds of a network's layers, of the whole network, and of the reference, which shows how fast the machine was.

    Raises: MachineBusyError if every attempt was disturbed.
    """

    def profile_once() -> tuple[tuple[list[float], float], float]:
        layer_ms = profile(network, num_classes, setup, runs=RUNS)
        times, cpu_share = timed(whole, NETWORK_SECONDS)
        return (layer_ms, statistics.median(times)), cpu_share

    with runner(network, num_classes, setup) as whole:
        (layer_ms, network_ms), before, after = between_references(
            profile_once, run_reference, setup, seconds=REFERENCE_SECONDS, max_drift=LARGEST_DRIFT, pauses=PAUSES
        )
    keys = [layer.key for layer in layers(network, num_classes)]
    return {"keys": keys, "ms": layer_ms, "whole_ms": network_ms, "reference_ms": (before + after) / 2}


def _fitted(lines: Sequence[dict[str, Any]]) -> "pd.Series[float]":
    """Key of a layer → its median milliseconds, corrected for the time that profiling adds.

    Profiling adds time to every layer, and more to some kinds than to others. A least-squares fit to the times of whole
    networks gives each kind a factor and a constant per layer; a ridge pulls both towards no correction. No layer is below 0 ms.
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
    by_kind = timed_layers.pivot_table(index="network", columns="kind", values="ms", aggfunc=["sum", "count"], fill_value=0)
    whole = np.array([line["whole_ms"] * speed / line["reference_ms"] for line in lines])
    shares = by_kind.to_numpy() / whole[:, None]
    shortest = medians.groupby(kinds).min()
    prior, high = np.repeat([1.0, 0.0], len(shortest)), np.repeat([SCALES[1], np.inf], len(shortest))
    ridge = np.diag(np.sqrt(PRIOR * (shares**2).mean(axis=0)))
    low = np.r_[np.full(len(shortest), SCALES[0]), -SCALES[0] * shortest]
    fit = lsq_linear(np.r_[shares, ridge], np.r_[np.ones(len(shares)), ridge @ prior], bounds=(low, high))
    scales, extras = (pd.Series(part, index=shortest.index)[kinds].to_numpy() for part in np.split(fit.x, 2))
    fitted: pd.Series[float] = (scales * medians + extras).clip(lower=0.0)  # rounding may give less than 0
    return fitted


def check_table(
    table: LatencyTable,
    networks: Sequence[Architecture],
    num_classes: int,
    *,
    number: int = NETWORKS,
    on_network: Callable[[Architecture, float, float], None] = lambda _network, _measured, _predicted: None,
) -> LatencyTable:
    """The table with its error over `number` random networks; `on_network` gets a network, its measured and its predicted ms.

    If the machine was too busy to measure a network, another network takes its place.
    Raises: MachineBusyError if that happens more than `number` times; NasError if the table lacks a layer, or was
    fitted to networks that were measured elsewhere.
    """
    setup = table.own_setup()
    pairs: list[tuple[float, float]] = []
    failures: list[MachineBusyError] = []
    for network in random.Random(1).sample(list(networks), len(networks)):
        if len(pairs) == number or len(failures) > number:
            break
        predicted = table.predict(network, num_classes)
        try:
            measured = measure(network, num_classes, setup).median_ms
        except MachineBusyError as error:
            failures.append(error)
            continue
        on_network(network, measured, predicted)
        pairs.append((measured, predicted))
    if len(failures) > number:
        raise failures[-1]
    return replace(table, check=compare_latencies(*np.transpose(pairs)))


def compare_latencies(measured: "np.ndarray[Any, Any]", predicted: "np.ndarray[Any, Any]") -> Check:
    """Error and rank correlations of predictions, with 95 % bootstrap intervals over the networks."""
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
