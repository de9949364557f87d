"""What Ray runs in a worker process: one trial after another, each reporting its epochs and in the end its outcome.

Imports torch with the first trial, so that the driver does not.
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
from nas.searching.storage import TrialFolder
from nas.searching.task import Site, Task
from nas.training.settings import Epoch

LONGEST_SECONDS: Final = 1e8  # that faulthandler waits on every system: three years


class RetiredError(RuntimeError):
    """Ends a worker process in which something broke, so that no further trial runs in it; its own trial has been told."""


def run_trial(config: dict[str, Any], *, task: Task, site: Site) -> None:
    """One trial: a report after every epoch, and one of the outcome, whatever happened; what takes too long ends the process."""
    settle(site.folder)
    outcome = Outcome(status=Status.DONE)
    if task.objectives:
        outcome = _trained(config, task, site)
    tune.report({"outcome": json.dumps(outcome.to_record())})  # as a text, since Ray flattens what is nested
    if outcome.reason is Reason.CRASH:
        raise RetiredError  # an error of the GPU's may stick to the process


def _trained(config: dict[str, Any], task: Task, site: Site) -> Outcome:
    from nas.searching.evaluate import evaluate  # takes seconds, in which the trial has not begun

    node = ray.get_runtime_context().get_node_id()
    with TrialFolder.of(site.storage, config["trial"]).opened() as (folder, push), _ended_after(site.timeout):

        def on_epoch(epoch: Epoch) -> None:
            push()
            tune.report(asdict(epoch) | {"node": node})

        outcome = evaluate(config["network"], task, folder=folder, on_epoch=on_epoch)
        push()
    return outcome


def settle(folder: str) -> None:
    """Make a process of any Ray one of ours: it works in the driver's folder if that is there, and on its own GPUs alone."""
    if Path(folder).is_dir():
        os.chdir(folder)
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process if it takes longer; a thread of C's does it, as Python may be stuck. The driver sees to the rest."""
    if seconds == math.inf:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        faulthandler.dump_traceback_later(min(seconds, LONGEST_SECONDS), exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
