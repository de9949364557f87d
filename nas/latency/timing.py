"""Measuring a network honestly: with the spread, the device and a check that the machine held still. Read `table.py` next."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from nas.architecture import Architecture
from nas.devices import is_out_of_memory
from nas.errors import MachineBusyError, NasError
from nas.latency.runtimes import device_model, runner, runtime_version
from nas.latency.setups import Setup
from nas.published import reference

REFERENCE: Final = "mobilenetv3_small_100"  # timed before and after each measurement
MAX_DRIFT: Final = 0.05  # of the reference's median, from before to after
MIN_CPU_SHARE: Final = 0.95  # of the time of one thread, that this process really had the CPU
ATTEMPTS: Final = 5
WARM_UP_SECONDS: Final = 0.2
SECONDS: Final = 1.0  # of repeats, of the network
REFERENCE_SECONDS: Final = 0.3
RUNS: Final = (20, 1000)  # least and most repeats


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
    architecture: Architecture, num_classes: int = 1000, setup: Setup | None = None, *, attempts: int = ATTEMPTS
) -> Latency:
    """The latency of a network in milliseconds: warmed up, repeated, synchronised.

    Raises: NasError for a device that is not there; MachineBusyError where, in all attempts, other processes took the CPU or the
    reference network, timed before and after, drifted by more than 5 %.
    """
    setup = setup or Setup()
    busy = ""
    with (
        _within_memory(setup),
        runner(architecture, num_classes, setup) as run,
        runner(reference(REFERENCE), 1000, replace(setup, batch=1)) as known,
    ):
        for _ in range(attempts):
            before, _ = timed(known, REFERENCE_SECONDS)
            times, cpu_share = timed(run, SECONDS)
            after, _ = timed(known, REFERENCE_SECONDS)
            drift = statistics.median(after) / statistics.median(before) - 1
            if setup.device == "cpu" and setup.threads == 1 and cpu_share < MIN_CPU_SHARE:
                busy = f"other processes took {100 * (1 - cpu_share):.0f} % of the CPU's time"
            elif abs(drift) > MAX_DRIFT:
                busy = f"{REFERENCE} took {statistics.median(before):.3g} ms before and {statistics.median(after):.3g} ms after"
            else:
                q25, median, q75 = statistics.quantiles(times, n=4)
                return Latency(
                    median_ms=median,
                    q25_ms=q25,
                    q75_ms=q75,
                    runs=len(times),
                    drift_pct=100 * drift,
                    setup=setup,
                    device=device_model(setup),
                    runtime_version=runtime_version(setup),
                )
    raise MachineBusyError(
        f"the machine does not hold still: {busy}, in {attempts} attempts; allowed are "
        f"{100 - 100 * MIN_CPU_SHARE:.0f} % of its time and {100 * MAX_DRIFT:.0f} % of drift; end what else runs, and try again"
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
