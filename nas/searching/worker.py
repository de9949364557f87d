"""Ray's worker process: it runs one trial after another, and reports their epochs and outcomes.

It imports torch in its first trial, so that the driver need not import it.
"""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from nas.runs.trial import Outcome, Reason, Status, Weights
from nas.searching.checkpoint_storage import TrialFolder
from nas.searching.task import SharedWeights, Site, Task
from nas.searching.unpack import unpack
from nas.training.settings import Epoch
from nas.training.tuned import settings_with


class RetiredError(RuntimeError):
    """Ends a worker process after a crash, so that no other trial runs in it. The outcome is reported first."""


class Warnings(logging.Handler):
    """Keeps the warnings of this process for its next report, since only the driver's log is read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.texts.append(record.getMessage())

    def report(self, fields: Mapping[str, Any]) -> None:
        """Report some fields to the driver, and the warnings since the last report."""
        texts, self.texts = self.texts, []
        tune.report({**fields, "warnings": "\n".join(texts)} if texts else dict(fields))


def run_trial(config: dict[str, Any], *, task: bytes, site: dict[str, Any], shared: dict[str, Any] | None) -> None:
    """Run the trials of a batch of a packed task one after the other, with the `shared` weights if there are any.

    Reports that the first begins, then every epoch of a training, and each trial's outcome, after which the next one begins.
    """
    prepare_process(site["folder"])
    warnings = Warnings()
    logging.getLogger("nas").addHandler(warnings)
    try:
        unpacked: Task = unpack(task)
        if shared is not None:
            unpacked = replace(unpacked, shared=SharedWeights(**shared, dataset=unpacked.dataset))
        for i, network in enumerate(config["networks"]):
            outcome = _outcome(network, unpacked, Site(**site), warnings, is_first=i == 0)
            warnings.report({"outcome": json.dumps(outcome.to_record())} | _whereabouts())  # as text, since Ray flattens values
            if outcome.reason is Reason.CRASH:
                raise RetiredError  # a GPU error can persist in the process
    finally:
        logging.getLogger("nas").removeHandler(warnings)


def _outcome(
    network: tuple[int, str, str, dict[str, Any], int | None], task: Task, site: Site, warnings: Warnings, *, is_first: bool
) -> Outcome:
    """The outcome of a trial, the first of its batch or not.

    `network` has its number, text, kind of weights, parameters and seed, None for that of the task.
    """
    if not task.objectives:
        return Outcome(status=Status.DONE)
    from nas.searching.evaluate import evaluate  # takes seconds, which do not count as the trial's time

    number, text, weights, params, seed = network
    task = replace(task, settings=settings_with(task.settings, params), seed=task.seed if seed is None else seed)
    with TrialFolder.of(site.storage, number).opened() as (folder, push):

        def on_begin() -> None:
            if is_first:  # each report waits for the driver's answer
                warnings.report({"begun": True} | _whereabouts())

        def on_epoch(epoch: Epoch) -> None:
            push()
            warnings.report(asdict(epoch) | _whereabouts())

        outcome = evaluate(text, task, folder=folder, weights=Weights(weights), on_begin=on_begin, on_epoch=on_epoch)
        push()
    return outcome


def _whereabouts() -> dict[str, Any]:
    """Where this process runs, and where it writes its errors, for the driver to look at if it dies."""
    place: dict[str, Any] = {"node": ray.get_runtime_context().get_node_id()}
    with suppress(OSError):  # the user's code may have closed it
        place |= {"stderr_bytes": os.fstat(2).st_size, "stderr": str(Path("/proc/self/fd/2").resolve())}
    return place


def prepare_process(folder: str) -> None:
    """Change to the driver's working folder if it exists here, and hide the GPUs that the process may not use."""
    if Path(folder).is_dir():
        os.chdir(folder)
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
