"""The one training loop, read top to bottom: settings, data, model, optimizer, loop.

Imports no Ray: a network trains in any process. Read `evaluate.py` next for how a trial uses it.
"""

import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from timm.utils import ModelEmaV3, distribute_bn
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms import v2

from nas.augment import Augment, Draws
from nas.checkpoints import Checkpoints, TrainState, best_file, restore_last, save_last, save_weights
from nas.datasets import Dataset, ImageData, load_part
from nas.devices import DTYPES, device_name, is_out_of_memory, keep_freed_memory, pick_precision
from nas.errors import NasError, unknown, users_code
from nas.predict import Preprocess, fingerprint, num_correct, predict
from nas.recipe import Epoch, TrainReport, TrainSettings

logger = logging.getLogger(__name__)


class DivergedError(NasError):
    """The loss was not a number; the text says in which epoch and step."""


def check_settings(settings: TrainSettings) -> None:
    """Refuse what only the libraries that train can judge.

    Raises: NasError for an optimizer that timm does not have, or that cannot take a step here.
    """
    if settings.optimizer not in list_optimizers():
        raise unknown("optimizer", settings.optimizer, list_optimizers())
    weights = [nn.Parameter(torch.zeros(2, 2))]
    with users_code(f"train.optimizer: {settings.optimizer!r} cannot be used here; it"):  # some need another package, or a GPU
        optimizer = create_optimizer_v2(weights, opt=settings.optimizer, lr=settings.lr)
        weights[0].grad = torch.zeros(2, 2)
        optimizer.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What stays the same through a training."""

    settings: TrainSettings
    dataset: Dataset
    images: Tensor
    """uint8 (N, height, width, 3): on the GPU if they fit there."""
    labels: Tensor
    held_out: ImageData
    state: TrainState
    network: nn.Module
    """The model as it is called in training."""
    mix: nn.Module | None
    schedule: CosineLRScheduler | PolyLRScheduler
    resolution: int
    seed: int
    device: torch.device
    precision: str
    batch_size: int
    """Images of a step, of all processes together."""
    steps: int
    """Of an epoch."""
    rank: int
    world: int

    def preprocess(self, resolution: int) -> Preprocess:
        return Preprocess(resolution=resolution, mean=self.dataset.mean, std=self.dataset.std)


def train(
    model: nn.Module,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    resolution: int,
    device: torch.device,
    seed: int,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train `model` in place on the dataset's training part; its top-1 is taken on the search validation part.

    On a CPU the same seed and number of threads give the same weights, given the same initial ones; with `checkpoints` also when
    it was killed and began again, from the last epoch that was written down.
    Where memory is short, a step's images go through in smaller micro-batches whose gradients add up; BatchNorm's statistics, and
    the pairs that are mixed, are then a micro-batch's. Inside a process group of torch.distributed, each process trains on its
    share of every batch. `on_step` is told the images done and those of the whole training. Seeds the global generators of torch
    and `random`; on a CPU, the process keeps freed memory from here on. Leaves the model in eval mode.

    Raises: DivergedError when the loss is not finite; torch.OutOfMemoryError when one image does not fit; CheckpointError for a
    checkpoint of another training or a damaged one; NasError for a disk that is full.
    """
    started = time.perf_counter()
    run = _set_up(model, dataset, settings, resolution=resolution, device=device, seed=seed)
    history, micro = _resumed(run, checkpoints)
    started -= sum(epoch.seconds for epoch in history)  # trained before it was killed
    logits, unsaved, save_seconds = None, 0.0, 0.0
    for epoch in range(len(history) + 1, settings.epochs + 1):
        epoch_started = time.perf_counter()
        loss, micro = _train_epoch(run, epoch, micro, on_step)
        if run.world > 1:
            distribute_bn(run.state.model, run.world, reduce=True)
            if run.state.ema is not None:
                distribute_bn(run.state.ema.module, run.world, reduce=True)
        logits = _validate(run)
        top1 = 100.0 * num_correct(logits, run.held_out) / len(run.held_out)
        seconds = round(time.perf_counter() - epoch_started, 3)
        history.append(Epoch(epoch=epoch, train_loss=loss, val_top1_pct=top1, val_images=len(run.held_out), seconds=seconds))
        unsaved += seconds
        if checkpoints is not None and run.rank == 0 and checkpoints.is_due(save_seconds, unsaved):
            save_started = time.perf_counter()
            _save(checkpoints, run, history, micro)
            unsaved, save_seconds = 0.0, time.perf_counter() - save_started
        if on_epoch is not None:
            on_epoch(history[-1])
    if run.state.ema is not None:
        model.load_state_dict(run.state.ema.module.state_dict())
    if logits is None:  # every epoch had ended before it was killed
        logits = _validate(run)
    model.eval()
    return TrainReport(
        history=tuple(history),
        val_correct=num_correct(logits, run.held_out),
        val_images=len(run.held_out),
        fingerprint=fingerprint(logits),
        seconds=time.perf_counter() - started,
        device=device_name(device),
        precision=run.precision,
        micro_batch=micro,
    )


def _set_up(
    model: nn.Module, dataset: Dataset, settings: TrainSettings, *, resolution: int, device: torch.device, seed: int
) -> _Run:
    """Everything that the loop needs."""
    if device.type == "cpu":
        keep_freed_memory(keep=True)
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    part, held_out = load_part(dataset, "train"), load_part(dataset, "val")
    batch_size = min(settings.batch_size, len(part))
    if batch_size % world:
        raise NasError(f"train.batch_size: {batch_size} images cannot be shared evenly by {world} processes")
    steps = len(part) // batch_size  # the incomplete last batch is left out: the next epoch has another order
    precision = pick_precision(settings.precision, device)
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    return _Run(
        settings=settings,
        dataset=dataset,
        images=_home(torch.from_numpy(part.images), device),
        labels=torch.from_numpy(part.labels).to(device),
        held_out=held_out,
        state=TrainState(
            model=model,
            ema=ModelEmaV3(model, decay=settings.ema_decay, use_warmup=True) if settings.ema_decay else None,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(device.type, enabled=precision == "float16"),  # float16 gradients underflow unscaled
        ),
        network=DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model,
        mix=_mix(settings, len(dataset.classes)),
        schedule=_schedule(optimizer, settings, steps),
        resolution=resolution,
        seed=seed,
        device=device,
        precision=precision,
        batch_size=batch_size,
        steps=steps,
        rank=rank,
        world=world,
    )


def _home(images: Tensor, device: torch.device) -> Tensor:
    """The images on the GPU, unless they would take more than half of its free memory."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        try:
            return images.to(device)
        except torch.OutOfMemoryError:  # another process was faster
            return images
    return images


def _mix(settings: TrainSettings, num_classes: int) -> nn.Module | None:
    """What blends pairs of images and their classes; torchvision's."""
    mixes: list[nn.Module] = []
    if settings.mixup:
        mixes.append(v2.MixUp(alpha=settings.mixup, num_classes=num_classes))
    if settings.cutmix:
        mixes.append(v2.CutMix(alpha=settings.cutmix, num_classes=num_classes))
    return v2.RandomChoice(mixes) if mixes else None


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> CosineLRScheduler | PolyLRScheduler:
    """Linear warm-up to the learning rate, then its fall to 0, by update; `steps` of them make an epoch."""
    total = settings.epochs * steps
    warmup = min(round(settings.warmup_share * total), total - 1)
    common = {"warmup_t": warmup, "warmup_lr_init": settings.lr / (warmup + 1), "warmup_prefix": True, "t_in_epochs": False}
    if settings.schedule == "linear":
        return PolyLRScheduler(optimizer, t_initial=total - warmup, power=1.0, **common)
    return CosineLRScheduler(optimizer, t_initial=total - warmup, **common)


def _train_epoch(run: _Run, epoch: int, micro: int, on_step: Callable[[int, int], None] | None) -> tuple[float, int]:
    """One pass over the training part. (mean loss, the micro-batch that fitted)."""
    _seed(run.seed, epoch, run.rank + 1)  # so an epoch depends on nothing but the state that it began with
    generator = torch.Generator().manual_seed(_mixed(run.seed, epoch))  # the same in every process
    preprocess = run.preprocess(resolution_at(epoch, run.resolution, run.settings))
    augment = Augment(preprocess=preprocess, settings=run.settings, mirrors=run.dataset.mirrors)
    mine = slice(run.rank * run.batch_size // run.world, (run.rank + 1) * run.batch_size // run.world)
    run.network.train()
    losses = torch.empty(run.steps, device=run.device)
    order = torch.randperm(len(run.labels), generator=generator)
    for i, chosen in enumerate(order[: run.steps * run.batch_size].split(run.batch_size)):
        update = (epoch - 1) * run.steps + i
        run.schedule.step_update(update)
        draws = augment.draw(run.batch_size, (run.images.shape[1], run.images.shape[2]), generator)
        losses[i], micro = _gradients(run, augment, chosen[mine], draws[mine], micro)
        _update(run, update)
        if run.device.type == "cpu":  # where looking costs nothing; a GPU would have to be waited for
            _check_finite(losses[: i + 1], epoch, run)
        if on_step is not None:
            on_step((update + 1) * run.batch_size, run.settings.epochs * run.steps * run.batch_size)
    if run.world > 1:
        distributed.all_reduce(losses)
        losses /= run.world
    _check_finite(losses, epoch, run)  # the epoch's one synchronisation before validation, but for float16's scaling
    return float(losses.mean()), micro


def _gradients(run: _Run, augment: Augment, chosen: Tensor, draws: Draws, micro: int) -> tuple[Tensor, int]:
    """Gradients of the mean loss of a step's images, `micro` or as many as fit at a time. (loss, how many fitted)."""
    micro = min(micro, len(chosen))
    while True:
        run.state.optimizer.zero_grad(set_to_none=True)
        try:
            num_parts = -(-len(chosen) // micro)
            bounds = [len(chosen) * i // num_parts for i in range(num_parts + 1)]
            parts = [slice(*pair) for pair in pairwise(bounds)]
            return torch.stack([_backward(run, augment, chosen, draws, part) for part in parts]).sum(), micro
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # BatchNorm over maps of one pixel
                raise
            if micro < len(chosen):
                raise MemoryError("not two images fit, and BatchNorm needs two") from None
            raise NasError(f"train.batch_size: {len(chosen)} is too small for this network's BatchNorm; give 2 or more") from None
        except (RuntimeError, MemoryError) as error:
            if micro == 1 or run.world > 1 or not is_out_of_memory(error):  # other processes would wait for this one for ever
                raise
        micro = -(-micro // 2)  # outside the except clause, which holds on to the memory of what failed
        logger.warning("out of memory: %d of a step's %d images at a time from here on", micro, len(chosen))
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            keep_freed_memory(keep=False)  # what is kept is in pieces that may be too small


def _backward(run: _Run, augment: Augment, chosen: Tensor, draws: Draws, part: slice) -> Tensor:
    """Add the gradients of some of a step's images, and give their share of its loss."""
    x = augment(run.images, chosen[part], draws[part]).to(run.device, non_blocking=True)
    y = run.labels[chosen[part].to(run.device, non_blocking=True)]
    if run.mix is not None:
        x, y = run.mix(x, y)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, DTYPES[run.precision], enabled=run.precision != "float32"):
        loss = functional.cross_entropy(run.network(x), y, label_smoothing=run.settings.label_smoothing)
    loss = loss * (len(x) / len(chosen))
    run.state.scaler.scale(loss).backward()
    return loss.detach()


def _update(run: _Run, update: int) -> None:
    """Change the weights by the gradients that are there, clipped once they have their true size."""
    state = run.state
    if run.settings.clip_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), run.settings.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.ema is not None:
        state.ema.update(state.model, step=update)


def _check_finite(losses: Tensor, epoch: int, run: _Run) -> None:
    if torch.isfinite(losses[-1] if run.device.type == "cpu" else losses).all():
        return
    step = int((~torch.isfinite(losses)).nonzero()[0])
    raise DivergedError(
        f"the loss was {losses[step]:g} in epoch {epoch}, step {step + 1} of {run.steps}; "
        f"a lower learning rate than {run.settings.lr:g} may help"
    )


def _validate(run: _Run) -> Tensor:
    return predict(run.state.evaluated, run.held_out, run.preprocess(run.resolution))


def resolution_at(epoch: int, resolution: int, settings: TrainSettings) -> int:
    """Pixels in an epoch of progressive resizing, a multiple of 8 until the last."""
    if settings.start_resolution == 1 or epoch == settings.epochs:
        return resolution
    share = settings.start_resolution + (1 - settings.start_resolution) * (epoch - 1) / (settings.epochs - 1)
    return min(resolution, max(8, 8 * round(share * resolution / 8)))


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _seed(seed: int, epoch: int, stream: int) -> None:
    """Dropout, stochastic depth and mixing draw from torch's global generators, timm's erasing from Python's."""
    mixed = _mixed(seed, epoch, stream)
    torch.manual_seed(mixed)
    random.seed(mixed)


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The best on the search validation part; of equal ones the last."""
    return max(history, key=lambda epoch: (epoch.val_top1_pct, epoch.epoch))


def _identity(run: _Run, checkpoints: Checkpoints) -> dict[str, Any]:
    """What a checkpoint must share with a training that goes on from it."""
    labels = run.labels.cpu().numpy().tobytes()
    return {f"train.{name}": value for name, value in asdict(run.settings).items()} | {
        "seed": run.seed,
        "first weights": checkpoints.first_weights,
        "resolution": run.resolution,
        "precision": run.precision,
        "dataset": repr(run.dataset) if is_dataclass(run.dataset) else run.dataset.name,
        "list of training labels": hashlib.sha256(labels).hexdigest()[:16],
        "stored image size": list(run.images.shape[1:]),
        "network": hashlib.sha256(repr(run.state.model).encode()).hexdigest()[:16],
        "number of processes": run.world,
    }


def _resumed(run: _Run, checkpoints: Checkpoints | None) -> tuple[list[Epoch], int]:
    """(the epochs that a checkpoint holds, its micro-batch), the state as it was after them."""
    micro = run.batch_size // run.world
    progress = restore_last(checkpoints.folder, run.state, _identity(run, checkpoints)) if checkpoints is not None else None
    if progress is None:
        return [], micro
    history = [Epoch(**epoch) for epoch in progress["history"]]
    logger.info("going on after epoch %d of %d", len(history), run.settings.epochs)
    return history, progress["micro"]


def _save(checkpoints: Checkpoints, run: _Run, history: list[Epoch], micro: int) -> None:
    folder, best = checkpoints.folder, best_epoch(history)
    if checkpoints.keep_best and best == history[-1]:
        save_weights(run.state.evaluated, best_file(folder, best.epoch))
    progress = {"identity": _identity(run, checkpoints), "history": [asdict(epoch) for epoch in history], "micro": micro}
    save_last(folder, run.state, progress)
    for file in folder.glob("best-*.safetensors"):  # only now, when the last epoch's state knows the new one
        if file != best_file(folder, best.epoch):
            file.unlink()
