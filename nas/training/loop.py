"""The only training loop: `train` prepares data, optimizer and schedule, then trains and validates epoch by epoch.

It does not import Ray, so a network can train in any process.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, distribute_bn
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms import v2

from nas.datasets import Dataset, ImageData, load_part
from nas.errors import NasError, unknown_name, user_code
from nas.paths import is_place
from nas.training.augment import Augment
from nas.training.checkpoint import PROCESSES, Checkpoints, TrainState, best_file, restore_last, save_last, save_weights
from nas.training.device import DTYPES, device_name, keep_freed_memory, pick_precision
from nas.training.noisy_student import PseudoLabelled, with_pseudo_labelled
from nas.training.predict import Preprocess, fingerprint, mean_loss, num_correct, predict
from nas.training.settings import Epoch, TrainReport, TrainSettings
from nas.training.teacher import Teacher, distillation_loss, load_teacher

logger = logging.getLogger(__name__)

BeforeStep = Callable[[int, int, int], int]  # (step, counted from 0; all steps; rank of the process) → resolution, pixels


class DivergedError(NasError):
    """A loss that is not finite; the text says in which epoch and step."""


def check_settings(settings: TrainSettings) -> None:
    """Check the optimizer, which depends on the installed libraries.

    Raises: NasError for an optimizer that timm does not have, or that cannot take a step on this machine.
    """
    if settings.optimizer not in list_optimizers():
        raise unknown_name("optimizer", settings.optimizer, list_optimizers())
    weights = [nn.Parameter(torch.zeros(2, 2))]
    with user_code(f"train.optimizer: {settings.optimizer!r} cannot be used here; it"):  # some need a further package or a GPU
        optimizer = create_optimizer_v2(weights, opt=settings.optimizer, lr=settings.lr)
        weights[0].grad = torch.zeros(2, 2)
        optimizer.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup:
    """Everything that defines a training, except the network."""

    dataset: Dataset
    settings: TrainSettings
    resolution: int
    """Side of the network's input, pixels."""
    seed: int
    """Seed of the order of the images, of augmentation and of dropout."""
    pseudo_labelled: PseudoLabelled | None = None
    """Further images to train on, which a teacher has labelled."""
    teacher: str | None = None
    """The name that the teacher's network must have, as its folder may change meanwhile; None for any."""

    def preprocess(self, resolution: int) -> Preprocess:
        """The preprocessing of the dataset's images for an input of `resolution` pixels."""
        return Preprocess(resolution=resolution, mean=self.dataset.mean, std=self.dataset.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What stays the same during a training."""

    setup: TrainSetup
    images: Tensor
    """uint8 (N, height, width, 3); on the GPU if they fit into its memory."""
    labels: Tensor
    targets: Tensor | None
    """The probability of each class, (N, classes), if a teacher has labelled some of the images; else None."""
    rows: Tensor
    """The indices of the images that an epoch shows, on the CPU."""
    held_out: ImageData
    teacher: Teacher | None
    state: TrainState
    network: nn.Module
    """The model; with several processes, wrapped in DistributedDataParallel."""
    mix: nn.Module | None
    """Mixup, CutMix or a choice of both; None for none."""
    schedule: CosineLRScheduler
    precision: str
    batch_size: int
    """Images per step, of all processes together."""
    rank: int
    world: int
    before_step: BeforeStep | None

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def steps(self) -> int:
        """Steps per epoch; an incomplete last batch is dropped, with other images in every epoch."""
        return len(self.rows) // self.batch_size


def train(
    model: nn.Module,
    setup: TrainSetup,
    *,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    before_step: BeforeStep | None = None,
) -> TrainReport:
    """Train `model` in place on the training part, on the model's device; measure top-1 on the val part after each epoch.

    With `checkpoints` it resumes from the last saved epoch. On a CPU, equal initial weights, seed and number of threads give
    equal weights, also after a resume. In a torch.distributed process group, each process trains on its share of every batch.
    `on_step` gets two numbers: images processed so far, and images of the whole training. `before_step` is for a model that
    computes as another network in each step: it lets the model change, and returns the resolution of that network.
    Side effects: seeds torch's global generators, leaves the model in eval mode, and on a CPU lets the process keep freed memory.

    Raises: DivergedError if the loss is not finite; torch.OutOfMemoryError if a batch does not fit into memory; CheckpointError
    for a damaged checkpoint or one of another training; NasError for a full disk, or a batch that processes cannot share evenly.
    """
    run = _prepare(model, setup, before_step)
    history = [] if checkpoints is None else restore_last(checkpoints.folder, run.state, _identity(run, checkpoints))
    if history:
        logger.info("going on after epoch %d of %d", len(history), setup.settings.epochs)
    logits, unsaved, save_seconds = None, 0.0, 0.0
    for epoch in range(len(history) + 1, setup.settings.epochs + 1):
        epoch_started = time.perf_counter()
        loss = _train_epoch(run, epoch, on_step)
        logits = _validate(run)
        top1 = _top1_pct(logits, run)
        seconds = round(time.perf_counter() - epoch_started, 3)
        history.append(Epoch(epoch=epoch, train_loss=loss, val_top1_pct=top1, val_images=len(run.held_out), seconds=seconds))
        unsaved += seconds
        if checkpoints is not None and run.rank == 0 and checkpoints.is_due(save_seconds, unsaved):
            save_started = time.perf_counter()
            _save(checkpoints, run, history)
            unsaved, save_seconds = 0.0, time.perf_counter() - save_started
        if on_epoch is not None:
            on_epoch(history[-1])
    if run.state.ema is not None:
        model.load_state_dict(run.state.ema.module.state_dict())
    if logits is None:  # all epochs were done before the resume
        logits = _validate(run)
    model.eval()
    return TrainReport(
        history=tuple(history),
        val_top1_pct=_top1_pct(logits, run),
        val_loss=mean_loss(logits, run.held_out),
        fingerprint=fingerprint(logits),
        device=device_name(run.device),
        precision=run.precision,
    )


def _prepare(model: nn.Module, setup: TrainSetup, before_step: BeforeStep | None) -> _Run:
    """The data, optimizer and schedule that the loop needs."""
    settings, device = setup.settings, next(model.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    part, held_out = load_part(setup.dataset, "train"), load_part(setup.dataset, "val")
    pixels, labels, targets, rows = with_pseudo_labelled(part, setup.pseudo_labelled)
    images, batch_size = torch.from_numpy(pixels), min(settings.batch_size, len(rows))
    fits = device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2  # the other half is for training
    if batch_size % world or batch_size < 2 * world:  # BatchNorm needs two images or more
        raise NasError(f"train.batch_size: {batch_size} images cannot be shared evenly by {world} process(es), two or more each")
    precision = pick_precision(settings.precision, device)
    model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    return _Run(
        setup=setup,
        images=images.to(device) if fits else images,
        labels=labels.to(device),
        targets=None if targets is None else targets.to(device),
        rows=rows,
        held_out=held_out,
        teacher=_teacher(setup, device),
        state=TrainState(
            model=model,
            ema=ModelEmaV3(model, decay=settings.ema_decay, use_warmup=True) if settings.ema_decay else None,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(device.type, enabled=precision == "float16"),  # float16 gradients underflow unscaled
        ),
        network=_distributed(model, changes=before_step is not None) if world > 1 else model,
        mix=_mix(settings, len(setup.dataset.classes)),
        schedule=_schedule(optimizer, settings, len(rows) // batch_size),
        precision=precision,
        batch_size=batch_size,
        rank=rank,
        world=world,
        before_step=before_step,
    )


def _teacher(setup: TrainSetup, device: torch.device) -> Teacher | None:
    """The teacher of a training, if it has one.

    Raises: NasError if it cannot be used, or is another than it must be.
    """
    if not setup.settings.is_taught:
        return None
    teacher = load_teacher(setup.settings.teacher, setup.dataset, device)
    if setup.teacher not in (None, teacher.name):
        where = setup.settings.teacher
        raise NasError(f"train.teacher: {where} has changed; it was {setup.teacher}, and now it is {teacher.name}; put it back")
    return teacher


def _distributed(model: nn.Module, *, changes: bool) -> nn.Module:
    """The model for a process group; with `changes`, each process uses other parameters in each step."""
    return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=changes)


def _mix(settings: TrainSettings, num_classes: int) -> nn.Module | None:
    """torchvision's mixup, CutMix or a random choice of both; None for none."""
    kinds = ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
    mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(mixes) if mixes else None


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> CosineLRScheduler:
    """Linear warm-up, then cosine decay to 0, updated at every step; an epoch has `steps` steps."""
    total = settings.epochs * steps
    warmup = min(round(settings.warmup_share * total), total - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        warmup_t=warmup,
        warmup_lr_init=settings.lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )


def _train_epoch(run: _Run, epoch: int, on_step: Callable[[int, int], None] | None) -> float:
    """Train one epoch; return its mean loss."""
    setup, settings = run.setup, run.setup.settings
    torch.manual_seed(_derive_seed(setup.seed, epoch, run.rank + 1))  # so that a resumed training gives equal bits
    generator = torch.Generator().manual_seed(_derive_seed(setup.seed, epoch))  # the same in every process
    share = slice(run.rank * run.batch_size // run.world, (run.rank + 1) * run.batch_size // run.world)
    run.network.train()
    losses = torch.empty(run.steps, device=run.device)
    order = run.rows[torch.randperm(len(run.rows), generator=generator)]
    for i, batch in enumerate(order[: run.steps * run.batch_size].split(run.batch_size)):
        update = (epoch - 1) * run.steps + i
        run.schedule.step_update(update)
        resolution = setup.resolution
        if run.before_step is not None:
            resolution = run.before_step(update, settings.epochs * run.steps, run.rank)
        preprocess = setup.preprocess(resolution_at(epoch, resolution, settings))
        augment = Augment(preprocess=preprocess, settings=settings, mirrors=setup.dataset.mirrors)
        crops = augment.draw(run.batch_size, (run.images.shape[1], run.images.shape[2]), generator)
        losses[i] = _step(run, augment, batch[share], crops[share])
        if run.state.ema is not None:
            run.state.ema.update(run.state.model, step=update)
        if run.device.type == "cpu":  # on a GPU this would wait for the step to end
            _check_finite(losses[: i + 1], epoch, run)
        if on_step is not None:
            on_step((update + 1) * run.batch_size, settings.epochs * run.steps * run.batch_size)
    if run.world > 1:
        distributed.all_reduce(losses)
        losses /= run.world
        for network in dict.fromkeys((run.state.model, run.state.evaluated)):
            distribute_bn(network, run.world, reduce=True)
    _check_finite(losses, epoch, run)  # a GPU's only wait in an epoch before validation, except float16's scaler
    return float(losses.mean())


def _step(run: _Run, augment: Augment, indices: Tensor, crops: Tensor) -> Tensor:
    """Take one optimizer step on a batch; return its mean loss."""
    state, settings = run.state, run.setup.settings
    state.optimizer.zero_grad(set_to_none=True)
    x = augment(run.images, indices, crops).to(run.device, non_blocking=True)
    y = (run.labels if run.targets is None else run.targets)[indices.to(run.device, non_blocking=True)]
    if run.mix is not None:
        x, y = run.mix(x, y)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, DTYPES[run.precision], enabled=run.precision != "float32"):
        logits = run.network(x)
        loss = functional.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
        if run.teacher is not None:
            distillation = distillation_loss(logits, run.teacher.logits(x, augment.preprocess), settings.teacher_temperature)
            loss = (1 - settings.teacher_share) * loss + settings.teacher_share * distillation
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return loss.detach()


def _check_finite(losses: Tensor, epoch: int, run: _Run) -> None:
    if torch.isfinite(losses[-1] if run.device.type == "cpu" else losses).all():
        return
    step = int((~torch.isfinite(losses)).nonzero()[0])
    raise DivergedError(
        f"the loss was {losses[step]:g} in epoch {epoch}, step {step + 1} of {run.steps}; "
        f"a lower learning rate than {run.setup.settings.lr:g} may help"
    )


def _validate(run: _Run) -> Tensor:
    return predict(run.state.evaluated, run.held_out, run.setup.preprocess(run.setup.resolution))


def _top1_pct(logits: Tensor, run: _Run) -> float:
    return 100.0 * num_correct(logits, run.held_out) / len(run.held_out)


def resolution_at(epoch: int, resolution: int, settings: TrainSettings) -> int:
    """The input resolution of an epoch in progressive resizing, pixels: a multiple of 8, or `resolution` itself."""
    if settings.start_resolution == 1 or epoch == settings.epochs:
        return resolution
    share = settings.start_resolution + (1 - settings.start_resolution) * (epoch - 1) / (settings.epochs - 1)
    return min(resolution, max(8, 8 * round(share * resolution / 8)))


def _derive_seed(*numbers: int) -> int:
    """A seed that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch with the highest val top-1; the last of equal ones."""
    return max(history, key=lambda epoch: (epoch.val_top1_pct, epoch.epoch))


def _identity(run: _Run, checkpoints: Checkpoints) -> dict[str, Any]:
    """What a checkpoint and a training must have in common, so that the training can resume from it."""
    setup, labels = run.setup, run.labels.cpu().numpy().tobytes()
    settings = {f"train.{name}": value for name, value in asdict(setup.settings).items() if name != "teacher"}  # a place
    return settings | {
        "teacher": run.teacher.name if run.teacher is not None else None,
        **(setup.pseudo_labelled.record if setup.pseudo_labelled is not None else {}),
        "teacher that labelled images": setup.pseudo_labelled.teacher if setup.pseudo_labelled is not None else None,
        "seed": setup.seed,
        "first weights": checkpoints.initial_weights,
        "resolution": setup.resolution,
        "precision": run.precision,
        "dataset": f"{setup.dataset.name}({', '.join(_settings(setup.dataset))})",
        "fingerprint of the images": checkpoints.images or None,
        "list of training labels": hashlib.sha256(labels).hexdigest()[:16],
        "stored image size": list(run.images.shape[1:]),
        "network": hashlib.sha256(repr(run.state.model).encode()).hexdigest()[:16],
        PROCESSES: run.world,
    }


def _settings(dataset: Dataset) -> list[str]:
    """A dataset's fields but its paths, as the same images may have moved."""
    if not is_dataclass(dataset):
        return []
    values = ((field.name, getattr(dataset, field.name)) for field in fields(dataset))
    return [f"{name}={value!r}" for name, value in values if not is_place(value)]


def _save(checkpoints: Checkpoints, run: _Run, history: list[Epoch]) -> None:
    try:
        _write(checkpoints, run, history)
    except NasError as error:
        if not checkpoints.optional:
            raise
        logger.warning("training continues without this checkpoint: %s", error)


def _write(checkpoints: Checkpoints, run: _Run, history: list[Epoch]) -> None:
    folder, best = checkpoints.folder, best_epoch(history)
    if checkpoints.keep_best and best == history[-1]:
        save_weights(run.state.evaluated, best_file(folder, best.epoch))
    save_last(folder, run.state, _identity(run, checkpoints), history)
    for file in folder.glob("best-*.safetensors"):  # after save_last, so that the saved history always has its best file
        if file != best_file(folder, best.epoch):
            file.unlink()
