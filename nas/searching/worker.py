"""Ray's worker process: it runs one trial after another, and reports their epochs and outcomes.

It imports torch in its first trial, so that the driver need not import it.
"""

import faulthandler
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import ray
from ray import tune

from nas.runs.trial import Outcome, Reason, Status
from nas.searching.checkpoint_storage import TrialFolder
from nas.searching.task import Site, Task
from nas.training.settings import Epoch

MAX_TIMEOUT_SECONDS: Final = 1e8  # three years: faulthandler accepts it on every system


class RetiredError(RuntimeError):
    """Ends a worker process after a crash, so that no other trial runs in it. The outcome is reported first."""


def run_trial(config: dict[str, Any], *, task: Task, site: Site) -> None:
    """Run one trial: report every epoch, then the outcome. A timeout ends the process."""
    prepare_process(site.folder)
    outcome = Outcome(status=Status.DONE)
    if task.objectives:
        outcome = _trained(config, task, site)
    tune.report({"outcome": json.dumps(outcome.to_record())})  # as text, since Ray flattens nested values
    if outcome.reason is Reason.CRASH:
        raise RetiredError  # a GPU error can persist in the process


def _trained(config: dict[str, Any], task: Task, site: Site) -> Outcome:
    from nas.searching.evaluate import evaluate  # takes seconds, which do not count as the trial's time

    node = ray.get_runtime_context().get_node_id()
    with TrialFolder.of(site.storage, config["trial"]).opened() as (folder, push), _time_limit(site.timeout):

        def on_epoch(epoch: Epoch) -> None:
            push()
            tune.report(asdict(epoch) | {"node": node})

        outcome = evaluate(config["network"], task, folder=folder, on_epoch=on_epoch)
        push()
    return outcome


def prepare_process(folder: str) -> None:
    """Change to the driver's working folder if it exists here, and hide the GPUs that the process may not use."""
    if Path(folder).is_dir():
        os.chdir(folder)
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End the process after `seconds`, from a C thread, as Python itself may hang. The driver handles the lost process."""
    if seconds == math.inf:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        faulthandler.dump_traceback_later(min(seconds, MAX_TIMEOUT_SECONDS), exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
