"""Trains one network in full: many epochs, checkpoints to resume from after a kill, and an export folder at the end."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn

from nas.datasets import Dataset, load_part
from nas.errors import NasError, describe_error
from nas.exporting.formats import about_images, make_card, measure_accuracy, write_export
from nas.exporting.tracked import tracked_training
from nas.files import is_locked, locked
from nas.machine import usable_cores
from nas.models.architecture import Architecture
from nas.models.export_folder import read_export, sha256, with_weights
from nas.models.network import CARD_FILE, WEIGHTS_FILE, Network, export_folder, find_network
from nas.models.pretrained import classifier_of, pretrained
from nas.paths import absolute, with_absolute_paths
from nas.plugins import absolute_plugin, check_plugins, check_type
from nas.runs.serialization import package_versions
from nas.trackers import JOBS_FILE, open_trackers
from nas.training.checkpoint import Checkpoints, best_file
from nas.training.device import is_out_of_memory, pick_device, pick_precision
from nas.training.loop import DivergedError, TrainSetup, best_epoch, check_settings, resolution_at, train
from nas.training.noisy_student import MIN_CONFIDENCE, PseudoLabelled, pseudo_labels, read_unlabelled
from nas.training.settings import NO_TEACHER, Epoch, TrainReport, TrainSettings, check_teacher_settings, without_teacher
from nas.training.teacher import Teacher, load_teacher

logger = logging.getLogger(__name__)

FULL_SETTINGS = TrainSettings(epochs=80, augment="trivial", erasing=0.1, drop_rate=0.2, ema_decay=0.999, weight_decay=0.05)


@dataclass(frozen=True, kw_only=True)
class FullTraining:
    """Which network to train, on which images and how."""

    network: Annotated[str | Architecture, tyro.conf.Positional, tyro.conf.arg(constructor=str)]
    """A published network's name (nas.references()), an export's folder, an architecture's file, or timm:NAME."""
    dataset: Dataset
    """The images to train on."""
    train: TrainSettings = field(default_factory=lambda: FULL_SETTINGS)
    """How to train it."""
    weights: Literal["own", "new", "pretrained"] = "own"
    """The initial weights. own: an export's, without its classifier if the classes differ; random ones for any other network.
    new: random ones. pretrained: timm's weights of the published network."""
    resolution: int | None = None
    """Side of the input images, pixels; by default the network's own."""
    seed: int = 0
    """The seed of random weights, batches and augmentation."""
    unlabelled: str | None = None
    """A folder of further images, in whatever folders, which the teacher labels (Noisy Student). Without --train.teacher, the
    network itself is first trained on the labelled images alone, and is the teacher."""
    rounds: int = 1
    """With --unlabelled: how many students are trained, each of which but the last is the teacher of the next."""
    min_confidence: float = MIN_CONFIDENCE
    """With --unlabelled: the least probability of its class, by the teacher, with which an image is used."""
    workers: int = 1
    """Processes that share every batch, each with its own GPU; without GPUs, each with a share of the CPU cores."""
    log: tuple[str, ...] = ()
    """Tools to log each epoch to as it ends: tensorboard, mlflow, wandb, trackio, or paths of files that export a TRACKER."""
    output: str | None = None
    """The folder to write, by default exports/NETWORK-DATASET."""

    def __post_init__(self) -> None:
        check_type("dataset", self.dataset, Dataset)
        check_plugins("tracker", self.log, field="log")
        if not 0 <= self.seed < 2**32:
            raise NasError(f"seed: {self.seed} is not from 0 to {2**32 - 1}")
        if self.workers < 1:
            raise NasError(f"workers: {self.workers} is not 1 or more")
        if self.rounds < 1:
            raise NasError(f"rounds: {self.rounds} is not 1 or more")
        if not 0 <= self.min_confidence <= 1:
            raise NasError(f"min-confidence: {self.min_confidence} is not from 0 to 1")
        if self.unlabelled is None:
            if (self.rounds, self.min_confidence) != (1, MIN_CONFIDENCE):
                raise NasError("rounds and min-confidence do nothing without images to label; give --unlabelled too")
            check_teacher_settings(self.train)

    @property
    def target(self) -> Path:
        """The export folder."""
        if self.output is not None:
            return absolute(self.output)
        network = self.network
        name = network.id if isinstance(network, Architecture) else Path(network).name.removesuffix(".json").replace(":", "_")
        return Path("exports", f"{name}-{self.dataset.name}").resolve()

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints during the training: the last and the best epoch."""
        return self.target.with_name(f"{self.target.name}.training")

    def resolved(self) -> "FullTraining":
        """The training with absolute paths, so that it means the same in every process."""
        return replace(
            self,
            dataset=with_absolute_paths(self.dataset),
            train=self.train.resolved(),
            unlabelled=None if self.unlabelled is None else str(absolute(self.unlabelled)),
            log=tuple(map(absolute_plugin, self.log)),
            output=str(self.target),
        )


@dataclass(frozen=True, slots=True)
class FirstWeights:
    """The initial weights of a training; random ones if `state` is None."""

    what: str = "new"
    state: dict[str, Tensor] | None = None
    classifier: bool = False


def initial_weights(training: FullTraining, network: Network) -> FirstWeights:
    """The initial weights of a training, read from its export or downloaded.

    Raises: NasError if the weights are missing or damaged, or cannot be downloaded.
    """
    if training.weights == "pretrained":
        name, state = pretrained(network)
        return FirstWeights(f"timm's {name}", state)
    source = export_folder(training.network)
    if training.weights == "new" or source is None:
        return FirstWeights()
    kept, classes, card = read_export(source)
    model = with_weights(kept, len(classes), source / WEIGHTS_FILE)
    digest = sha256(source / WEIGHTS_FILE)[:16]
    return FirstWeights(f"{card['id']}, {digest}", model.state_dict(), classes == list(training.dataset.classes))


def train_network(
    training: FullTraining,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """Train one network and write its export folder; the same call resumes a training that was killed.

    Exports the epoch with the best top-1 on the search validation part, the latest one in a tie. Its weights are loaded from
    their file and measured on the test part, which is read only then, except to leave its images out of those that a
    teacher labels. With such images, earlier rounds are exports beside the folder, NAME-teacher and NAME-round1 onwards.

    Raises: NasError for an invalid network, setting, teacher or resolution, a folder that exists or is in use, a loss that is
    not finite, or a batch that does not fit in memory.
    """
    training = training.resolved()
    target, teacher = training.target, training.train.teacher
    _check_absent(target)
    open_trackers(training.log)  # a library that is missing shows now, and not after the hours of a teacher
    if training.unlabelled is None:
        return _train(training, on_epoch=on_epoch, on_step=on_step)
    _network_of(training)
    _check_rounds(training)
    unlabelled, _ = read_unlabelled(training.dataset, Path(training.unlabelled))  # before the hours of a teacher
    if unlabelled.left_out:
        logger.warning("%s: left out: %s", training.unlabelled, unlabelled.left_out)
    if teacher == NO_TEACHER:
        logger.info("round 0 of %d: %s is trained on the labelled images alone, and teaches", training.rounds, training.network)
        alone = replace(training, unlabelled=None, rounds=1, min_confidence=MIN_CONFIDENCE, train=without_teacher(training.train))
        teacher = str(_train(replace(alone, output=f"{target}-teacher"), on_epoch=on_epoch, on_step=on_step))
    for number in range(1, training.rounds + 1):
        logger.info("round %d of %d: %s teaches", number, training.rounds, teacher)
        output = str(target) if number == training.rounds else f"{target}-round{number}"
        student = replace(training, train=replace(training.train, teacher=teacher), output=output)
        before, teacher = teacher, str(_train(student, on_epoch=on_epoch, on_step=on_step))
        _compare(before, teacher)
    return target


def _check_rounds(training: FullTraining) -> None:
    """Check that a checkpoint of the last round follows the round before it.

    Raises: NasError if it is of a training with another number of rounds.
    """
    if training.rounds == 1 and training.train.teacher != NO_TEACHER:
        return  # no round is before
    before = Path(f"{training.target}-{f'round{training.rounds - 1}' if training.rounds > 1 else 'teacher'}")
    if training.checkpoints.exists() and not before.exists():
        raise NasError(
            f"{training.checkpoints} holds a training with other --rounds, or with no --unlabelled: {before.name} is missing; "
            "give its options again, or another folder with --output, or remove it"
        )


def _compare(teacher: str, student: str) -> None:
    """Warn of a student that is less accurate than its teacher on the same images."""
    if not Path(teacher, CARD_FILE).is_file():
        return
    cards = [json.loads(Path(folder, CARD_FILE).read_text(encoding="utf-8")).get("accuracy", {}) for folder in (teacher, student)]
    before, after = (card.get("val_top1_pct") for card in cards)
    if cards[0].get("dataset") == cards[1]["dataset"] and before is not None and after < before:
        line = "the student %s is less accurate than its teacher: val_top1_pct %.2f, and the teacher's %.2f"
        logger.warning(line, student, after, before)


def _train(
    training: FullTraining, *, on_epoch: Callable[[Epoch], None] | None, on_step: Callable[[int, int], None] | None
) -> Path:
    """Train one network, and write its export; an earlier round that has ended is taken as it is."""
    network, dataset, settings, target = _network_of(training), training.dataset, training.train, training.target
    teacher = None if settings.teacher == NO_TEACHER else load_teacher(settings.teacher, dataset, pick_device())
    first = initial_weights(training, network)  # may download timm's weights
    images = dataset.fingerprint().key  # decoded once, here, where its progress shows, and not in every process
    with _checkpoint_folder(training):
        labelled = None
        if training.unlabelled is not None and teacher is not None:
            folder, least = Path(training.unlabelled), training.min_confidence
            labelled = pseudo_labels(dataset, folder, teacher, min_confidence=least)
        about = _about(training, first, teacher, labelled) | {"images": images}
        if target.exists():
            _check_round(target, network, about)
            shutil.rmtree(training.checkpoints)
            return target
        name = None if teacher is None else teacher.name
        work = partial(run_training, training, network, first, images=images, pseudo_labelled=labelled, teacher=name)
        params = about | {"network": network.id, "dataset": dataset.name}
        tracked = partial(tracked_training, training.log, network, target, checkpoints=training.checkpoints)
        with tracked(params=params, num_classes=len(dataset.classes)) as log_epoch:

            def on_each(epoch: Epoch) -> None:
                log_epoch(epoch)
                if on_epoch is not None:
                    on_epoch(epoch)

            _export(training, network, _report(training, work, on_epoch=on_each, on_step=on_step), about)
        shutil.rmtree(training.checkpoints)
    return target


def _report(
    training: FullTraining,
    work: Callable[..., TrainReport],
    *,
    on_epoch: Callable[[Epoch], None],
    on_step: Callable[[int, int], None] | None,
) -> TrainReport:
    """The report of `work`, done in this process or on several."""
    if training.workers == 1:
        return work(on_epoch=on_epoch, on_step=on_step)
    from nas.searching.distributed import train_on_workers  # imports Ray

    return train_on_workers(work, workers=training.workers, storage=training.checkpoints, on_epoch=on_epoch)


def _network_of(training: FullTraining) -> Network:
    """The network of a training.

    Raises: NasError if there is no such network, it cannot read images of some resolution, or the optimizer cannot be used.
    """
    check_settings(training.train)
    network, settings = find_network(training.network, resolution=training.resolution), training.train
    resolutions = {resolution_at(epoch, network.resolution, settings) for epoch in range(1, settings.epochs + 1)}
    network.check(len(training.dataset.classes), sorted(resolutions))
    return network


def _about(
    training: FullTraining, first: FirstWeights, teacher: Teacher | None, pseudo_labelled: PseudoLabelled | None
) -> dict[str, Any]:
    """What the card says of all that a training depends on, beside its network and its images."""
    settings = asdict(training.train) | {"teacher": NO_TEACHER if teacher is None else teacher.name, "seed": training.seed}
    settings["precision"] = pick_precision(training.train.precision, pick_device())
    unlabelled = {} if pseudo_labelled is None else pseudo_labelled.record
    return settings | {"initial_weights": first.what, "workers": training.workers} | unlabelled


def _check_round(target: Path, network: Network, about: Mapping[str, Any]) -> None:
    """Check that the export of an earlier round is that of the same training.

    Raises: NasError if it is of another one, or no export.
    """
    there, _, card = read_export(target)
    was, now = dict(card["train"]) | {"network": there.to_json()}, dict(about) | {"network": network.to_json()}
    if different := [name for name, value in now.items() if was.get(name) != value]:
        name = different[0]
        raise NasError(
            f"{target} is there already, from another training: its {name} was {was.get(name)}, and now it is {now[name]}; "
            "give another folder with --output, or remove it"
        )
    logger.info("%s is trained already", target)


def _check_absent(target: Path) -> None:
    if target.exists():
        raise NasError(f"{target} is there already; give another folder with --output, or remove it to train anew")


@contextmanager
def _checkpoint_folder(training: FullTraining) -> Iterator[None]:
    """Lock the folder of checkpoints; at the end remove it if it has none, or if the training diverged."""
    folder, lock = training.checkpoints, training.checkpoints / "lock"
    try:
        with locked(lock, busy=f"{folder} is in use by another training; wait for it, or give another folder with --output"):
            yield
    except DivergedError:
        shutil.rmtree(folder)  # the same settings would diverge again
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NasError(
            f"a batch does not fit in the memory: {describe_error(error)}; "
            "give a smaller --train.batch-size, --resolution or network"
        ) from None
    finally:
        if not is_locked(lock) and folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {"lock", JOBS_FILE}:
            shutil.rmtree(folder)


def _export(training: FullTraining, network: Network, report: TrainReport, about: Mapping[str, Any]) -> None:
    """Write the best epoch as an export; its accuracy is measured with the weights loaded again from their file."""
    dataset, best = training.dataset, best_epoch(report.history)
    weights = best_file(training.checkpoints, best.epoch)
    model = with_weights(network, len(dataset.classes), weights)
    parts = {part: load_part(dataset, part) for part in ("val", "test")}
    accuracy, _ = measure_accuracy(model, network.resolution, dataset, parts, pick_device())
    card = make_card(
        network,
        about_images(dataset, parts),
        accuracy={
            "dataset": dataset.name,
            "seed": training.seed,
            **accuracy,
            "epoch": best.epoch,
            "trained_val_top1_pct": best.val_top1_pct,
        },
        train=dict(about) | {"device": report.device, "seconds": report.seconds},
        versions=package_versions(),
    )
    write_export(training.target, network, weights, card, parts)


def run_training(
    training: FullTraining,
    network: Network,
    first: FirstWeights,
    *,
    images: str = "",
    pseudo_labelled: PseudoLabelled | None = None,
    teacher: str | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train in this process, from the initial weights or the last checkpoint.

    `images` is the key of their fingerprint, and `teacher` the name that the teacher's network must have.
    """
    settings = training.train
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch itself knows no CPU quota
    torch.manual_seed(training.seed)  # so that new weights depend on the seed alone
    model = network.build(len(training.dataset.classes), drop_rate=settings.drop_rate, drop_path_rate=settings.drop_path_rate)
    if first.state is not None:
        load_first(model, first.state, classifier=first.classifier)
    return train(
        model.to(pick_device()),
        TrainSetup(
            dataset=training.dataset,
            settings=settings,
            resolution=network.resolution,
            seed=training.seed,
            pseudo_labelled=pseudo_labelled,
            teacher=teacher,
        ),
        checkpoints=Checkpoints(folder=training.checkpoints, initial_weights=first.what, images=images),
        on_epoch=on_epoch,
        on_step=on_step,
    )


def load_first(model: nn.Module, state: Mapping[str, Tensor], *, classifier: bool) -> None:
    """Load initial weights into a new model; the classifier's only if `classifier` is true."""
    left_out = set() if classifier else classifier_of(model)
    kept = {name: value for name, value in state.items() if name not in left_out}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert set(missing) <= left_out, missing
    assert not unexpected, unexpected
