"""What Ray runs in a worker process: one trial after another, each reporting its epochs and in the end its outcome.

Read `driver.py` next.
"""

import faulthandler
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import ray
from ray import tune

from nas.datasets import Dataset
from nas.evaluate import evaluate
from nas.latency.table import LatencyTable
from nas.objectives import Objective
from nas.recipe import Epoch, TrainSettings
from nas.storage import TrialFolder

GRACE_SECONDS: Final = 10.0  # after its timeout, in which a trial may still end by itself

LONGEST_SECONDS: Final = 1e8  # that it can wait: three years


class RetiredError(RuntimeError):
    """Ends a worker process in which something broke, so that no further trial runs in it; its own trial has been told."""


def run_trial(
    config: dict[str, Any],
    *,
    dataset: Dataset,
    objectives: tuple[Objective, ...],
    settings: TrainSettings,
    seed: int,
    storage: str,
    latency: LatencyTable | None,
    timeout: float,
) -> None:
    """One trial: a report after every epoch, and one of the outcome, whatever happened."""
    node = ray.get_runtime_context().get_node_id()
    with TrialFolder.of(storage, config["trial"]).opened() as folder, _watched(timeout):

        def on_epoch(epoch: Epoch) -> None:
            folder.push()
            tune.report(asdict(epoch) | {"node": node})

        outcome = evaluate(
            config["architecture"],
            dataset=dataset,
            objectives=objectives,
            settings=settings,
            seed=seed,
            folder=folder.path,
            latency=latency,
            timeout=timeout,
            on_epoch=on_epoch,
        )
        folder.push()
    tune.report({"outcome": json.dumps(outcome.to_record())})  # as a text, since Ray flattens what is nested
    if outcome.reason == "crash":
        raise RetiredError  # an error of the GPU's may stick to the process


@contextmanager
def _watched(timeout: float) -> Iterator[None]:
    """End the process where a trial does not heed its timeout; a thread of C's does it, as Python may be stuck."""
    if timeout == math.inf:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        faulthandler.dump_traceback_later(min(timeout + GRACE_SECONDS, LONGEST_SECONDS), exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
