"""The table of a space's layers on this machine, from networks of the space that are run layer by layer.

A layer is timed where it stands in a network: alone it would find its input in no cache, and its output wanted in no other
layout. Read `check.py` next.
"""

import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.optimize import lsq_linear
from sklearn.preprocessing import MultiLabelBinarizer

from nas.architecture import Architecture
from nas.errors import NasError
from nas.files import append_line, locked, mend_lines, read_lines
from nas.latency.runtimes import check_device, device_model, profiler, runner, runtime_version
from nas.latency.setups import Setup
from nas.latency.table import LatencyTable
from nas.latency.timing import MIN_CPU_SHARE, REFERENCE, timed
from nas.layers import layers
from nas.published import reference
from nas.spaces import SearchSpace, is_choice, sample

POINTS: Final = 10_000  # random ones in a row that bring no further layer, after which a space is taken to have no more
MOST: Final = 20  # times as many are drawn in all; a space of very many widths never ends
RUNS: Final = 20
ATTEMPTS: Final = 8
REFERENCE_SECONDS: Final = 0.05
LARGEST_DRIFT: Final = 0.25  # of so short a look at the reference; what is less is divided out
WHOLE_SECONDS: Final = 0.1
PRIOR: Final = 2.0  # how many networks the belief weighs that watching takes no time
SCALES: Final = (0.5, 2.0)  # by which the times of a kind of layer may be off while they are watched


def build_table(
    networks: Sequence[Architecture],
    *,
    space: str,
    output: Path,
    num_classes: int = 1000,
    setup: Setup | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> LatencyTable:
    """Time every layer of some networks of a space, such as the `reachable` ones, and write the table to `output`.

    `on_progress` is told (layers timed, layers in all). What was timed is kept beside the output while it lasts, and the same
    call goes on from there.

    Raises: NasError if the file cannot be written, or another process builds it.
    """
    setup = setup or Setup()
    check_device(setup)
    binarizer = MultiLabelBinarizer(sparse_output=True)  # which network has which layer
    has = binarizer.fit_transform([[layer.key for layer in layers(network, num_classes)] for network in networks])
    keys = list(binarizer.classes_)
    timed_layers = _Timed(layers={key: [] for key in keys})
    log, lock = (output.with_name(f".{output.name}.{what}") for what in ("timed", "lock"))
    identity = {"setup": repr(setup), "device": device_model(setup), "version": runtime_version(setup), "classes": num_classes}
    with locked(lock, busy=f"{output} is being built by another process"), runner(reference(REFERENCE), 1000, setup) as known:
        for line in _timed_before(log, identity):
            timed_layers.note(line)
        while (lacking := np.array([not found for found in timed_layers.layers.values()])).any():  # most are met several times
            on_progress(int((~lacking).sum()), len(keys))
            line = _run(networks[int(np.argmax(has @ lacking))], num_classes, setup, known)
            timed_layers.note(line)
            append_line(log, identity | line)
        on_progress(len(keys), len(keys))
        table = timed_layers.table(setup, space)
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
    generator = random.Random(seed)
    parameters = dict(space.parameters)
    if resolution is not None and "resolution" in parameters and not is_choice(parameters["resolution"], resolution):
        raise NasError(f"resolution: {resolution} is not one of space {space.name}, which has {parameters['resolution']}")
    fixed = {"resolution": resolution} if resolution is not None and "resolution" in parameters else {}
    found: dict[Architecture, None] = {}
    seen: set[str] = set()
    quiet = drawn = 0
    waiting = list(space.references.values())
    while quiet < points and drawn < MOST * points:
        point = waiting.pop() if waiting else sample(parameters, generator)
        network = space.decode(point | fixed)
        drawn, quiet = drawn + 1, quiet + 1
        if (resolution is None or network.resolution == resolution) and network not in found and admits(network):
            found[network] = None
            keys = {layer.key for layer in layers(network, 0)}
            quiet = quiet if keys <= seen else 0
            seen |= keys
    if not found:
        raise NasError(
            f"no network of space {space.name} with these limits{f' and resolution {resolution}' if resolution else ''}"
        )
    return list(found)


def _run(network: Architecture, num_classes: int, setup: Setup, known: Callable[[], object]) -> dict[str, Any]:
    """One network layer by layer and as a whole, between two looks at the reference, by which a slower machine is known.

    Raises: NasError where other processes took the CPU, or the reference drifted, each time.
    """
    keys = [layer.key for layer in layers(network, num_classes)]
    with runner(network, num_classes, setup) as whole:
        for attempt in range(ATTEMPTS):
            with profiler(network, num_classes, setup) as profiled:
                before, share = timed(known, REFERENCE_SECONDS)
                times_ms = profiled(RUNS)
            times, whole_share = timed(whole, WHOLE_SECONDS)
            after, last_share = timed(known, REFERENCE_SECONDS)
            speeds = statistics.median(before), statistics.median(after)
            single = setup.device == "cpu" and setup.threads == 1
            held = not single or min(share, whole_share, last_share) >= MIN_CPU_SHARE
            if held and max(speeds) <= (1 + LARGEST_DRIFT) * min(speeds):
                return {"keys": keys, "ms": times_ms, "whole_ms": statistics.median(times), "reference_ms": sum(speeds) / 2}
            time.sleep(attempt)
    raise NasError(f"the machine does not hold still, in {ATTEMPTS} attempts; end what else runs, and the same command goes on")


@dataclass(slots=True, kw_only=True)
class _Timed:
    """What was timed so far, in terms of how long the reference took beside it."""

    layers: dict[str, list[float]]
    """Key → its time in each network that has it."""
    networks: list[tuple[list[str], float]] = field(default_factory=list)
    """Of each network, the keys of its layers, and the time of the whole."""
    speeds: list[float] = field(default_factory=list)
    """Milliseconds of the reference."""

    def note(self, line: Mapping[str, Any]) -> None:
        """One more network."""
        speed, of_keys = line["reference_ms"], dict[str, list[float]]()
        for key, ms in zip(line["keys"], line["ms"], strict=True):
            of_keys.setdefault(key, []).append(ms / speed)
        for key in of_keys.keys() & self.layers.keys():
            self.layers[key].append(statistics.fmean(of_keys[key]))
        if self.layers.keys() >= set(line["keys"]):
            self.networks.append((line["keys"], line["whole_ms"] / speed))
        self.speeds.append(speed)

    def table(self, setup: Setup, space: str) -> LatencyTable:
        """Medians, brought to the scale of whole networks that run without being watched.

        To watch takes time with every layer, more with some kinds than with others: the whole is fitted by the sum of the layers
        of each kind and by their number, held near the sum of all, and such that no layer takes less than nothing.
        """
        speed = statistics.median(self.speeds)
        medians = {key: speed * statistics.median(found) for key, found in self.layers.items()}
        kinds = sorted({_kind(key) for key in medians})
        columns = []
        for keys, _ in self.networks:
            of_kinds = [[medians[key] for key in keys if _kind(key) == kind] for kind in kinds]
            columns.append([*map(sum, of_kinds), *map(len, of_kinds)])
        whole = speed * np.array([ms for _, ms in self.networks])
        shares = np.array(columns) / whole[:, None]
        near = np.array([1.0] * len(kinds) + [0.0] * len(kinds))
        ridge = np.diag(np.sqrt(PRIOR * (shares**2).mean(axis=0)))
        least = np.array([min(ms for key, ms in medians.items() if _kind(key) == kind) for kind in kinds])
        low = np.r_[np.full(len(kinds), SCALES[0]), -SCALES[0] * least]
        high = np.r_[np.full(len(kinds), SCALES[1]), np.full(len(kinds), np.inf)]
        fit = lsq_linear(np.r_[shares, ridge], np.r_[np.ones(len(shares)), ridge @ near], bounds=(low, high))
        scales, extras = np.split(fit.x, 2)
        line = {kind: (scales[i], extras[i]) for i, kind in enumerate(kinds)}
        fitted = {key: max(0.0, line[_kind(key)][0] * ms + line[_kind(key)][1]) for key, ms in medians.items()}  # rounding
        return LatencyTable(
            device=device_model(setup),
            runtime_version=runtime_version(setup),
            setup=setup,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            space=space,
            milliseconds={key: float(f"{ms:.6g}") for key, ms in sorted(fitted.items())},
        )


def _kind(key: str) -> str:
    """The first word of a key without its numbers: conv, depthwise, squeeze, add, pool or linear."""
    return re.match("[a-z]*", key)[0]  # type: ignore[index]


def _timed_before(log: Path, identity: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """What an earlier call that was ended had timed on the same device."""
    if log.is_file():
        mend_lines(log)
        yield from (line for line in read_lines(log) if all(line.get(name) == value for name, value in identity.items()))
