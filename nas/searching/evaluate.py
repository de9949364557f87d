"""The worker's side of a trial: it takes an architecture's text and always returns an Outcome.

Imports no Ray.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch

from nas.errors import MachineBusyError, describe_error
from nas.files import locked
from nas.models.network import Network, TimmNetwork, parse_network
from nas.objectives import Candidate, Objective, latency_ms
from nas.runs.trial import Outcome, Reason, Status, Weights
from nas.searching.checkpoint_storage import WEIGHTS_FILE
from nas.searching.proxies import measure_proxies
from nas.searching.task import SharedWeights, Task
from nas.supernet.network import SharedNetwork
from nas.supernet.scoring import Scorer, make_scorer
from nas.training.checkpoint import CheckpointError, Checkpoints, save_weights
from nas.training.device import is_out_of_memory, pick_device, release_freed_memory
from nas.training.loop import DivergedError, TrainSetup, train
from nas.training.settings import Epoch, TrainReport, TrainSettings

MEASURING_LOCK: Final = "frontier-nas-measuring.lock"
CHECKPOINT_SHARE: Final = 0.05  # largest share of a trial's time for writing checkpoints


def evaluate(
    text: str,
    task: Task,
    *,
    folder: Path,
    weights: Weights = Weights.TRAINED,
    on_begin: Callable[[], None] = lambda: None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Outcome:
    """Build and measure a network, ours or timm's, with `weights`; its checkpoints and weights go into `folder`.

    Continues from a checkpoint in the folder. Uses one thread on a CPU. Never raises: a failure is an Outcome with its reason.
    Calls `on_begin` once the process has loaded the shared weights, if the network needs them.
    """
    started = time.monotonic()
    try:
        if task.shared is not None and weights is not Weights.TRAINED:
            _scorer(task.shared)
        started = time.monotonic()
        on_begin()
        network = parse_network(text)
        objectives = task.objectives
        if isinstance(network, TimmNetwork):  # its layers have no costs here
            objectives = tuple(objective for objective in objectives if not objective.needs_architecture)
        candidate = Candidate(network=network, num_classes=len(task.dataset.classes), latency=task.latency)
        if task.latency is None and any(objective.needs_latency for objective in objectives):
            lock = Path(tempfile.gettempdir(), MEASURING_LOCK)  # before training: a machine that stays busy fails the trial
            with locked(lock, busy="another trial measures", wait_seconds=math.inf, courtesy=True):
                candidate = replace(candidate, latency_ms=latency_ms.measure(candidate))
        proxies = measure_proxies(candidate, objectives, task) if weights is Weights.TRAINED else {}
        model, report = _with_weights(weights, network, task, folder=folder, on_epoch=on_epoch)
        candidate = replace(candidate, model=model, report=report)
        values = proxies | {one.name: _measured(one, candidate) for one in objectives if one.steers or one.needs_training}
        save_weights(model, folder / WEIGHTS_FILE)
        return Outcome(
            status=Status.DONE,
            values=values,
            history=report.history,
            epochs=len(report.history),
            seconds=report.seconds if report.history else time.monotonic() - started,
            fingerprint=report.fingerprint,
            device=report.device,
            precision=report.precision,
            val_loss=_finite("the loss on the validation part", report.val_loss),
            peak_memory_mb=torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
        )
    except Exception as error:  # noqa: BLE001 - the worker's border: any error becomes the trial's row
        return Outcome(
            status=Status.FAILED, reason=_reason(error), error=describe_error(error), seconds=time.monotonic() - started
        )
    finally:
        if torch.cuda.is_available():  # frees memory for the process's next trial and for other processes
            torch.cuda.empty_cache()
        else:
            release_freed_memory()


def _with_weights(
    weights: Weights, network: Network, task: Task, *, folder: Path, on_epoch: Callable[[Epoch], None] | None
) -> tuple[torch.nn.Module, TrainReport]:
    """(network with its weights, report)."""
    if weights is Weights.SHARED:
        return _scored(network, task)
    if weights is Weights.FINE_TUNED:
        return _fine_tuned(network, task, folder=folder, on_epoch=on_epoch)
    return _trained(network, task, folder=folder, on_epoch=on_epoch)


def _trained(
    network: Network, task: Task, *, folder: Path, on_epoch: Callable[[Epoch], None] | None
) -> tuple[torch.nn.Module, TrainReport]:
    """(network trained from new weights, report)."""
    settings = task.settings

    def new() -> torch.nn.Module:
        torch.manual_seed(task.seed)
        return network.build(len(task.dataset.classes), drop_rate=settings.drop_rate, drop_path_rate=settings.drop_path_rate)

    checkpoints = Checkpoints(folder=folder, keep_best=False, max_share=CHECKPOINT_SHARE, optional=True)
    return _continued(new, _setup(network, task, settings), checkpoints, on_epoch)


def _fine_tuned(
    network: Network, task: Task, *, folder: Path, on_epoch: Callable[[Epoch], None] | None
) -> tuple[torch.nn.Module, TrainReport]:
    """(network trained further from its slice of the shared weights, report)."""
    assert task.shared is not None
    assert task.fine_tuning is not None
    shared, source = task.shared, f"slice of {task.shared.digest}"
    checkpoints = Checkpoints(folder=folder, keep_best=False, max_share=CHECKPOINT_SHARE, optional=True, initial_weights=source)
    setup = _setup(network, task, task.fine_tuning)
    return _continued(lambda: _scorer(shared).network(network.architecture), setup, checkpoints, on_epoch)


def _scored(network: Network, task: Task) -> tuple[torch.nn.Module, TrainReport]:
    """(network with its slice of the shared weights, report)."""
    assert task.shared is not None
    _use_device()
    return _scorer(task.shared).score(network.architecture)


@lru_cache(maxsize=1)
def _scorer(shared: SharedWeights) -> Scorer:
    """The shared weights as a network and the images to score on, which a process loads once."""
    network = SharedNetwork({name: array.shape for name, array in shared.tensors.items()}, len(shared.dataset.classes))
    network.load_state_dict({name: torch.tensor(array) for name, array in shared.tensors.items()})
    return make_scorer(network.to(_use_device()).to(memory_format=torch.channels_last), shared.dataset)


def _setup(network: Network, task: Task, settings: TrainSettings) -> TrainSetup:
    return TrainSetup(
        dataset=task.dataset,
        settings=settings,
        resolution=network.resolution,
        seed=task.seed,
        teacher=task.teachers.get(settings.teacher),
    )


def _continued(
    make: Callable[[], torch.nn.Module],
    setup: TrainSetup,
    checkpoints: Checkpoints,
    on_epoch: Callable[[Epoch], None] | None,
) -> tuple[torch.nn.Module, TrainReport]:
    """(trained network, report). A checkpoint that cannot be used is removed, and training starts again."""
    device = _use_device()
    model = make()
    try:
        return model, train(model.to(device), setup, checkpoints=checkpoints, on_epoch=on_epoch)
    except CheckpointError:
        shutil.rmtree(checkpoints.folder)
    return _continued(make, setup, checkpoints, on_epoch)


def _use_device() -> torch.device:
    """The device of this process, whose peak of memory is counted anew; on a CPU, one thread alone computes."""
    device = pick_device()
    if device.type == "cpu":
        torch.set_num_threads(1)  # trials run in parallel, and two threads on a busy machine are slower than one
    else:
        torch.cuda.reset_peak_memory_stats(device)
    return device


def _measured(objective: Objective, candidate: Candidate) -> float:
    return _finite(f"objective {objective.name}", objective.as_number(objective.measure(candidate)))


def _finite(what: str, value: float) -> float:
    if not math.isfinite(value):
        raise DivergedError(f"{what} is {value}")
    return value


def _reason(error: Exception) -> Reason:
    if is_out_of_memory(error):
        return Reason.OOM
    if isinstance(error, MachineBusyError):
        return Reason.BUSY
    return Reason.DIVERGED if isinstance(error, DivergedError) else Reason.CRASH
