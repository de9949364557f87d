"""Trains one network in full: many epochs, checkpoints to resume from after a kill, and an export folder at the end."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from nas.datasets import Dataset, load_part
from nas.errors import NasError, describe_error
from nas.exporting.formats import about_images, make_card, measure_accuracy, write_export
from nas.files import is_locked, locked
from nas.machine import usable_cores
from nas.models.architecture import Architecture
from nas.models.export_folder import read_export, sha256, with_weights
from nas.models.network import WEIGHTS_FILE, Network, export_folder, find_network
from nas.models.pretrained import classifier_of, pretrained
from nas.paths import absolute, with_absolute_paths
from nas.plugins import check_type
from nas.runs.serialization import package_versions
from nas.training.checkpoint import Checkpoints, best_file
from nas.training.device import is_out_of_memory, pick_device
from nas.training.loop import DivergedError, TrainSetup, best_epoch, check_settings, resolution_at, train
from nas.training.settings import Epoch, TrainReport, TrainSettings

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
    workers: int = 1
    """Processes that share every batch, each with its own GPU; without GPUs, each with a share of the CPU cores."""
    output: str | None = None
    """The folder to write, by default exports/NETWORK-DATASET."""

    def __post_init__(self) -> None:
        check_type("dataset", self.dataset, Dataset)
        if not 0 <= self.seed < 2**32:
            raise NasError(f"seed: {self.seed} is not from 0 to {2**32 - 1}")
        if self.workers < 1:
            raise NasError(f"workers: {self.workers} is not 1 or more")

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


def train_network(
    training: FullTraining,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """Train one network and write its export folder; the same call resumes a training that was killed.

    Exports the epoch with the best top-1 on the search validation part, the latest one in a tie. Its weights are loaded from
    their file and measured on the test part, which is read only then.

    Raises: NasError for an invalid network, setting or resolution, a folder that exists or is in use, a loss that is not finite,
    or a batch that does not fit in memory.
    """
    check_settings(training.train)
    network = find_network(training.network, resolution=training.resolution)
    training = replace(training, dataset=with_absolute_paths(training.dataset), output=str(training.target))  # for the workers
    dataset, target = training.dataset, training.target
    _check_absent(target)
    resolutions = {resolution_at(epoch, network.resolution, training.train) for epoch in range(1, training.train.epochs + 1)}
    network.check(len(dataset.classes), sorted(resolutions))
    first = initial_weights(training, network)  # may download timm's weights
    images = dataset.fingerprint().key  # decoded once, here, where its progress shows, and not in every process
    with _checkpoint_folder(training):
        _check_absent(target)  # again, now that the lock is held
        if training.workers > 1:
            from nas.searching.distributed import train_on_workers  # imports Ray

            work = partial(run_training, training, network, first, images=images)
            report = train_on_workers(work, workers=training.workers, storage=training.checkpoints, on_epoch=on_epoch)
        else:
            report = run_training(training, network, first, images=images, on_epoch=on_epoch, on_step=on_step)
        _export(training, network, first, report)
        shutil.rmtree(training.checkpoints)
    return target


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
        if not is_locked(lock) and folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {"lock"}:
            shutil.rmtree(folder)


def _export(training: FullTraining, network: Network, first: FirstWeights, report: TrainReport) -> None:
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
        train=asdict(training.train)
        | {"device": report.device, "precision": report.precision}
        | {"initial_weights": first.what, "workers": training.workers, "seconds": report.seconds},
        versions=package_versions(),
    )
    write_export(training.target, network, weights, card, parts)


def run_training(
    training: FullTraining,
    network: Network,
    first: FirstWeights,
    *,
    images: str = "",
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train in this process, from the initial weights or the last checkpoint; `images` is the key of their fingerprint."""
    settings = training.train
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch itself knows no CPU quota
    torch.manual_seed(training.seed)  # so that new weights depend on the seed alone
    model = network.build(len(training.dataset.classes), drop_rate=settings.drop_rate, drop_path_rate=settings.drop_path_rate)
    if first.state is not None:
        load_first(model, first.state, classifier=first.classifier)
    return train(
        model.to(pick_device()),
        TrainSetup(dataset=training.dataset, settings=settings, resolution=network.resolution, seed=training.seed),
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
