"""Measuring a network honestly: with the spread, the device and a check that the machine held still. Read `build.py` next."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from nas.architecture import Architecture
from nas.devices import is_out_of_memory
from nas.errors import MachineBusyError, NasError
from nas.latency.runtimes import device_model, runner, runtime_version
from nas.latency.table import ONE_THREAD, Setup
from nas.published import reference

REFERENCE: Final = "mobilenetv3_small_100"  # timed before and after each measurement
MAX_DRIFT: Final = 0.05  # of the reference's median, from before to after
MIN_CPU_SHARE: Final = 0.95  # of the time of one thread, that this process really had the CPU
ATTEMPTS: Final = 5
WARM_UP_SECONDS: Final = 0.2
SECONDS: Final = 1.0  # of repeats, of the network
REFERENCE_SECONDS: Final = 0.3
RUNS: Final = (20, 1000)  # least and most repeats

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a network takes."""

    median_ms: float
    """Of one batch."""
    q25_ms: float
    q75_ms: float
    """Between them lies the middle half of the runs."""
    runs: int
    drift_pct: float
    """By how much the reference network was slower after the measurement than before."""
    setup: Setup
    device: str
    """Its model."""
    runtime_version: str


def measure(
    architecture: Architecture, num_classes: int = 1000, setup: Setup = ONE_THREAD, *, attempts: int = ATTEMPTS
) -> Latency:
    """The latency of a network in milliseconds: warmed up, repeated, synchronised.

    Raises: NasError for a device that is not there; MachineBusyError where, in all attempts, other processes took the CPU or the
    reference network, timed before and after, drifted by more than 5 %.
    """
    with (
        _within_memory(setup),
        runner(architecture, num_classes, setup) as run,
        runner(reference(REFERENCE), 1000, replace(setup, batch=1)) as known,
    ):
        times, before, after = between_references(
            lambda: timed(run, SECONDS), known, setup, seconds=REFERENCE_SECONDS, max_drift=MAX_DRIFT, pauses=[0] * attempts
        )
    q25, median, q75 = statistics.quantiles(times, n=4)
    return Latency(
        median_ms=median,
        q25_ms=q25,
        q75_ms=q75,
        runs=len(times),
        drift_pct=100 * (after / before - 1),
        setup=setup,
        device=device_model(setup),
        runtime_version=runtime_version(setup),
    )


def between_references(
    take: Callable[[], tuple[T, float]],
    known: Callable[[], object],
    setup: Setup,
    *,
    seconds: float,
    max_drift: float,
    pauses: Sequence[float],
) -> tuple[T, float, float]:
    """(what `take` gives, the median milliseconds of `known` before it, and after it), once the machine held still meanwhile.

    `take` also gives the share of the CPU that it had. `known` is run for so many `seconds`, each time. There is an attempt for
    each of the `pauses`, in seconds, and after it.

    Raises: MachineBusyError where, in all attempts, other processes took the CPU or `known` drifted.
    """
    busy = ""
    for pause in pauses:
        time.sleep(pause)
        before, share_before = timed(known, seconds)
        found, share = take()
        after, share_after = timed(known, seconds)
        fast, slow = sorted(map(statistics.median, (before, after)))
        cpu_share = min(share_before, share, share_after)
        if setup.device == "cpu" and setup.threads == 1 and cpu_share < MIN_CPU_SHARE:
            busy = f"other processes took {100 * (1 - cpu_share):.0f} % of the CPU's time"
        elif slow / fast - 1 > max_drift:
            busy = f"{REFERENCE} took from {fast:.3g} to {slow:.3g} ms before and after"
        else:
            return found, statistics.median(before), statistics.median(after)
    raise MachineBusyError(
        f"the machine does not hold still: {busy}, in {len(pauses)} attempts; allowed are "
        f"{100 - 100 * MIN_CPU_SHARE:.0f} % of its time and {100 * max_drift:.0f} % of drift; end what else runs, and try again"
    )


@contextmanager
def _within_memory(setup: Setup) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NasError(f"batch: {setup.batch} images do not fit in the memory; give fewer") from None


def timed(run: Callable[[], object], seconds: float) -> tuple[list[float], float]:
    """(milliseconds of each run, the share of the time that this thread had the CPU), warmed up."""
    deadline = time.perf_counter() + min(seconds, WARM_UP_SECONDS)
    while True:
        run()
        if time.perf_counter() > deadline:
            break
    times: list[float] = []
    started, cpu = time.perf_counter(), time.thread_time()
    while len(times) < RUNS[0] or (time.perf_counter() - started < seconds and len(times) < RUNS[1]):
        begun = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begun))
    return times, (time.thread_time() - cpu) / (time.perf_counter() - started)
