"""The worker's side of a trial: an architecture's text in, an Outcome out, whatever happens.

Imports no Ray. Read `searcher.py` next for the driver's side.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nas.architecture import Architecture
from nas.checkpoints import save_weights
from nas.datasets import Dataset
from nas.devices import is_out_of_memory, pick_device
from nas.errors import describe_error
from nas.modules import build
from nas.objectives import Candidate, Objective
from nas.recipe import Outcome, TrainSettings
from nas.train import DivergedError, train


def evaluate(
    text: str, *, dataset: Dataset, objectives: Sequence[Objective], settings: TrainSettings, seed: int, weights: Path
) -> Outcome:
    """Build, train and measure the network of an architecture's text; its weights go to the file `weights`.

    Without an objective that needs training, nothing is trained. One thread on a CPU. Never raises: a failure is an Outcome
    with its reason.
    """
    started = time.perf_counter()
    try:
        return _evaluate(text, dataset=dataset, objectives=objectives, settings=settings, seed=seed, weights=weights)
    except Exception as error:  # noqa: BLE001 - the worker's border: whatever went wrong is the trial's row, not the run's end
        return Outcome(
            status="failed",
            reason=_reason(error),
            error=describe_error(error),
            seconds=time.perf_counter() - started,
        )
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the process goes on to another network, and others share the GPU


def _evaluate(
    text: str, *, dataset: Dataset, objectives: Sequence[Objective], settings: TrainSettings, seed: int, weights: Path
) -> Outcome:
    if not objectives:
        return Outcome(status="done")
    architecture = Architecture.from_json(text)
    device = pick_device()
    if device.type == "cpu":
        torch.set_num_threads(1)  # trials run side by side, and two threads on a busy machine are slower than one
    else:
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(seed)
    num_classes = len(dataset.classes)
    model = build(architecture, num_classes, drop_rate=settings.drop_rate, drop_path_rate=settings.drop_path_rate)
    report = train(model, dataset, settings, resolution=architecture.resolution, device=device, seed=seed)
    candidate = Candidate(architecture=architecture, num_classes=num_classes, model=model, report=report)
    values = {objective.name: float(objective.measure(candidate)) for objective in objectives}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise DivergedError(f"objective {wrong[0]} is {values[wrong[0]]}")
    save_weights(model, weights)
    return Outcome(
        status="done",
        values=values,
        history=report.history,
        seconds=report.seconds,
        fingerprint=report.fingerprint,
        device=report.device,
        precision=report.precision,
        micro_batch=report.micro_batch,
        peak_memory_mb=torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    )


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "oom"
    return "nan" if isinstance(error, DivergedError) else "crash"
