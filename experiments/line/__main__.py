"""The line from a dense network to a searched one: each is trained anew, tested once, counted and timed.

Every network trains on its own images: small ones on MNIST and CIFAR-10, the others on Imagenette, at one resolution and with the
same settings, but for VGG's learning rate. Prints a table of top-1 on the test part, parameters, multiply-adds and latency (one
image, one thread, torch on the CPU), and writes it to FOLDER as line.csv, with a picture, line.svg. What is in FOLDER is not
measured again, so that a second start continues after the last whole training.

Usage: python -m experiments.line --mnist FOLDER --cifar FOLDER --imagenette FOLDER [--small] [--searched RUN] [--output FOLDER]
RUN is a run's folder, of which the most accurate network on the front joins the line, or an export. --small takes minutes: one
epoch of MNIST, digits in place of CIFAR-10, and a tenth of Imagenette at 64 px.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import pandas as pd
import torch
from pydantic import TypeAdapter
from torch import nn

import nas
from experiments.line.picture import draw_line
from nas import Architecture, NasError, TrainSettings
from nas.cli.app import USER_ERROR
from nas.datasets import Dataset, ImageData, load_part
from nas.datasets.cifar10 import CIFAR10
from nas.datasets.digits import Digits
from nas.datasets.imagenette import Imagenette
from nas.datasets.mnist import MNIST
from nas.errors import MachineBusyError, unknown_name
from nas.exporting.full_training import FULL_SETTINGS
from nas.files import write_atomically
from nas.machine import usable_cores
from nas.models.network import Network, count_costs, find_network
from nas.objectives.latency.measure import measure_module
from nas.objectives.latency.table import Setup
from nas.records import append_record, cut_torn_line, read_records
from nas.runs.run_folder import EXPERIMENT_FILE
from nas.training.device import pick_device
from nas.training.loop import DivergedError, TrainSetup, train
from nas.training.predict import evenly_spaced, num_correct, predict

LATENCY: Final = Setup(runtime="torch")  # any module runs in torch
SEARCHED: Final = "searched"
FOLDERS: Final = ("mnist", "cifar", "imagenette")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleNetwork:
    """A network of a few layers, with the methods of `nas.models.network.OwnNetwork` that the line needs."""

    id: str
    make: Callable[[int, int], nn.Module]
    """(resolution, number of classes) → the newly initialised module."""
    resolution: int = 32

    def at(self, resolution: int) -> "ModuleNetwork":
        """The same layers at another input resolution, pixels."""
        return replace(self, resolution=resolution)

    def build(self, num_classes: int) -> nn.Module:
        """The newly initialised module."""
        return self.make(self.resolution, num_classes)

    def costs(self, num_classes: int) -> dict[str, int]:
        """The params, and the macs of one image, by name."""
        return count_costs(partial(self.build, num_classes), self.resolution)


def dense(resolution: int, num_classes: int) -> nn.Module:
    """Two hidden layers. Shapes: (N, 3, resolution, resolution) → (N, num_classes)."""
    return nn.Sequential(nn.Flatten(), *_linear(3 * resolution**2, 512), *_linear(512, 512), nn.Linear(512, num_classes))


def convolutional(resolution: int, num_classes: int) -> nn.Module:
    """Two 3 x 3 convolutions, a max-pool and two dense layers. Shapes: (N, 3, resolution, resolution) → (N, num_classes)."""
    pooled = resolution // 2
    return nn.Sequential(*_convolutions(3, 32, 64), nn.Flatten(), *_linear(64 * pooled**2, 128), nn.Linear(128, num_classes))


def twice_convolutional(resolution: int, num_classes: int) -> nn.Module:
    """Twice two convolutions and a max-pool, then two dense layers. Shapes: (N, 3, resolution, resolution) → (N, num_classes)."""
    body = (*_convolutions(3, 32, 32), *_convolutions(32, 64, 64), nn.Flatten())
    return nn.Sequential(*body, *_linear(64 * (resolution // 4) ** 2, 512), nn.Linear(512, num_classes))


def _convolutions(width_in: int, middle: int, width: int) -> tuple[nn.Module, ...]:
    first, second = nn.Conv2d(width_in, middle, 3, padding=1), nn.Conv2d(middle, width, 3, padding=1)
    return first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)


def _linear(width_in: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width_in, width), nn.ReLU()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A network of the line."""

    network: str | Architecture | ModuleNetwork
    """A name as `nas.models.network.find_network` takes it, or a few layers."""
    images: str = "imagenette"
    lr: float | None = None
    """Its learning rate, if it cannot train with that of the others."""


VGG_LR: Final = 1e-4  # a twentieth of the others', as VGG has no norms
LINE: Final[Mapping[str, Member]] = {
    "mnist_dense": Member(network=ModuleNetwork(id="mnist_dense", make=dense), images="mnist"),
    "mnist_convolutional": Member(network=ModuleNetwork(id="mnist_convolutional", make=convolutional), images="mnist"),
    "cifar_convolutional": Member(network=ModuleNetwork(id="cifar_convolutional", make=twice_convolutional), images="cifar"),
    "vgg16": Member(network="timm:vgg16", lr=VGG_LR),
    "vgg19": Member(network="timm:vgg19", lr=VGG_LR),
    "resnet34": Member(network="timm:resnet34"),
    "resnet50": Member(network="timm:resnet50"),
    "seresnet50": Member(network="timm:seresnet50"),  # ResNet-50's strides and stem, so that only the gates differ
    "mobilenetv1_100": Member(network="mobilenetv1_100"),
    "mobilenetv2_100": Member(network="mobilenetv2_100"),
    "semnasnet_100": Member(network="semnasnet_100"),  # MnasNet-A1
    "efficientnet_b0": Member(network="efficientnet_b0"),
    "mobilenetv3_small_100": Member(network="mobilenetv3_small_100"),
    "mobilenetv3_large_100": Member(network="mobilenetv3_large_100"),
    "mobilenetv4_conv_small": Member(network="mobilenetv4_conv_small"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenth(Dataset):
    """A tenth of Imagenette's photographs to train and validate on, of all classes; and all of those to test on."""

    whole: Imagenette
    name = "imagenette"
    classes = Imagenette.classes
    mean = Imagenette.mean
    std = Imagenette.std
    mirrors = True

    def load(self, part: str) -> ImageData:
        """The images of a part: uint8 (N, side, side, 3)."""
        data = self.whole.load(part)
        indices = evenly_spaced(data, len(data) if part == "test" else len(data) // 10)
        return ImageData(images=data.images[indices], labels=data.labels[indices])


def full_setups(folders: Mapping[str, Path], seed: int) -> dict[str, TrainSetup]:
    """How the networks train on each kind of images, which lie in `folders`."""
    thirty_times = TrainSettings(epochs=30, min_crop=0.8)
    as_nas_train = replace(FULL_SETTINGS, drop_rate=0.0)  # the smallest networks have no dropout
    photographs = Imagenette(root=folders["imagenette"], size="320px", side=256)
    return {
        "mnist": TrainSetup(dataset=MNIST(root=folders["mnist"]), settings=thirty_times, resolution=28, seed=seed),
        "cifar": TrainSetup(dataset=CIFAR10(root=folders["cifar"]), settings=thirty_times, resolution=32, seed=seed),
        "imagenette": TrainSetup(dataset=photographs, settings=as_nas_train, resolution=224, seed=seed),
    }


def small_setups(folders: Mapping[str, Path], seed: int) -> dict[str, TrainSetup]:
    """The same in minutes, with scikit-learn's digits in place of CIFAR-10."""
    once, ten_times = TrainSettings(epochs=1, min_crop=0.8), TrainSettings(epochs=10, batch_size=32, min_crop=0.8)
    photographs = Tenth(whole=Imagenette(root=folders["imagenette"], side=80))
    return {
        "mnist": TrainSetup(dataset=MNIST(root=folders["mnist"]), settings=once, resolution=28, seed=seed),
        "cifar": TrainSetup(dataset=Digits(), settings=ten_times, resolution=32, seed=seed),
        "imagenette": TrainSetup(dataset=photographs, settings=TrainSettings(epochs=5, batch_size=16), resolution=64, seed=seed),
    }


def make_setups(options: argparse.Namespace) -> dict[str, TrainSetup]:
    """How the networks train on each kind of images, by the options of the command line.

    Raises: NasError for a seed that is too small or too large, or CIFAR-10 with --small.
    """
    if not 0 <= options.seed < 2**32:
        raise NasError(f"seed: {options.seed} is not from 0 to {2**32 - 1}")
    if options.small and options.cifar is not None:
        raise NasError("--cifar does nothing with --small, which takes digits in place of CIFAR-10; leave one of them out")
    folders = {name: getattr(options, name) or Path("data") for name in FOLDERS}
    return (small_setups if options.small else full_setups)(folders, options.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A network of the line with its training."""

    name: str
    network: Network | ModuleNetwork
    setup: TrainSetup

    @property
    def num_classes(self) -> int:
        """Its outputs."""
        return len(self.setup.dataset.classes)

    @property
    def key(self) -> str:
        """All that its figures depend on, but for the place of the images; figures of another key are not its own."""
        setup = self.setup
        key = {"network": self.name, "id": self.network.id, "dataset": setup.dataset.name, "resolution": setup.resolution}
        return json.dumps(key | {"seed": setup.seed, "train": asdict(setup.settings)}, sort_keys=True)


def make_entries(setups: Mapping[str, TrainSetup], names: Sequence[str], searched: Path | None) -> list[Entry]:
    """The networks of the line by these names, in its order, and the searched one.

    Raises: NasError for a name that is not in the line, or a searched network that does not exist.
    """
    for name in names:
        if name not in LINE:
            raise unknown_name("network of the line", name, LINE)
    entries = [_entry(name, LINE[name], setups) for name in LINE if name in names]
    if searched is not None:
        entries.append(_entry(SEARCHED, Member(network=find_searched(searched)), setups))
    return entries


def _entry(name: str, member: Member, setups: Mapping[str, TrainSetup]) -> Entry:
    setup, network = setups[member.images], member.network
    if member.lr is not None:
        setup = replace(setup, settings=replace(setup.settings, lr=member.lr))
    ready = find_network(network) if isinstance(network, str | Architecture) else network
    return Entry(name=name, network=ready.at(setup.resolution), setup=setup)


def find_searched(source: Path) -> str | Architecture:
    """A run's best network on the run's first objective; of any other folder or file, its name.

    Raises: NasError for a run without a network that is done.
    """
    if not (source / EXPERIMENT_FILE).is_file():
        return str(source)
    df = nas.results(source)
    return Architecture.from_json(nas.best(df, next(iter(df.attrs["directions"])))["architecture"])


Figures: TypeAlias = dict[str, float | None]
LINES: Final = TypeAdapter(dict[str, Figures])


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The figures so far by an entry's key, in a file with one line per measurement."""

    file: Path
    figures: dict[str, Figures] = field(default_factory=dict)

    def add(self, entry: Entry, figures: Figures) -> None:
        """Keep further figures of an entry."""
        append_record(self.file, {entry.key: figures})
        self.figures[entry.key] = self.figures.get(entry.key, {}) | figures

    def of(self, entry: Entry) -> Figures:
        """The figures of an entry, empty if it is not measured."""
        return self.figures.get(entry.key, {})


def read_journal(file: Path) -> Journal:
    """The measurements in a file, which is made if it is missing.

    Raises: NasError if the file cannot be written or is damaged.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise NasError(f"{file} cannot be written: {error.strerror}; give another folder with --output") from None
    cut_torn_line(file)
    journal = Journal(file=file)
    for _, line in read_records(file, LINES):
        for key, figures in line.items():
            journal.figures[key] = journal.figures.get(key, {}) | figures
    return journal


def check_images(entries: Sequence[Entry]) -> None:
    """Open every dataset once, before hours of training.

    Raises: NasError for images that are not there.
    """
    for dataset in {entry.setup.dataset for entry in entries}:
        try:
            load_part(dataset, "train")
        except NasError as error:
            raise NasError(str(error).replace("--dataset.root", f"--{dataset.name.removesuffix('10')}")) from None


def train_entry(entry: Entry) -> Figures:
    """Train a newly initialised network; its costs, seconds, and top-1 on the test part, None if its loss was not finite."""
    setup = entry.setup
    costs = entry.network.costs(entry.num_classes)
    figures: Figures = {"params_m": costs["params"] / 1e6, "macs_m": costs["macs"] / 1e6}
    torch.manual_seed(setup.seed)
    model = entry.network.build(entry.num_classes).to(pick_device())
    try:
        report = train(model, setup)
    except DivergedError as error:
        print(f"{entry.name}: {error}", flush=True)
        return figures | {"test_top1_pct": None, "seconds": None}
    test = load_part(setup.dataset, "test")
    correct = num_correct(predict(model, test, setup.preprocess(setup.resolution)), test)
    return figures | {"test_top1_pct": 100 * correct / len(test), "seconds": report.seconds}


def measure_line(entries: Sequence[Entry], journal: Journal) -> None:
    """Measure what the journal lacks: first train every network, then time them all one after the other."""
    for entry in entries:
        if "test_top1_pct" not in journal.of(entry):
            journal.add(entry, train_entry(entry))
            print(f"{entry.name}: {_as_text(journal.of(entry))}", flush=True)
    for entry in entries:
        if "latency_ms" not in journal.of(entry):
            try:
                latency = measure_module(entry.network.build(entry.num_classes), entry.setup.resolution, LATENCY)
            except MachineBusyError as error:
                print(f"{entry.name}: {error}", flush=True)
            else:
                journal.add(entry, {"latency_ms": latency.median_ms})


def _as_text(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def make_table(entries: Sequence[Entry], journal: Journal) -> pd.DataFrame:
    """One row per network, in the line's order; a figure that is missing is NaN."""
    names = ("params_m", "macs_m", "latency_ms", "test_top1_pct", "seconds")
    rows = [
        {"network": entry.name, "images": entry.setup.dataset.name, "resolution": entry.setup.resolution}
        | {name: journal.of(entry).get(name) for name in names}
        for entry in entries
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(names, float))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="line", description=__doc__, formatter_class=how)
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path, help="the folder of its images, by default data")
    parser.add_argument("--small", action="store_true", help="few images and epochs: minutes on two cores")
    parser.add_argument("--networks", nargs="+", default=list(LINE), metavar="NAME", help="a part of the line, by name")
    parser.add_argument("--searched", type=Path, metavar="RUN", help="a run or an export, whose network ends the line")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights, the batches and augmentation")
    parser.add_argument("--output", type=Path, default=Path("line"), help="the folder of the results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print the table; the exit code."""
    options = parse(arguments)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch itself knows no CPU quota
    try:
        setups = make_setups(options)
        entries = make_entries(setups, options.networks, options.searched)
        journal = read_journal(options.output / "line.jsonl")
        check_images([entry for entry in entries if "test_top1_pct" not in journal.of(entry)])
        measure_line(entries, journal)
        table = make_table(entries, journal)
        write_atomically(options.output / "line.csv", table.to_csv(index=False))
        write_atomically(options.output / "line.svg", draw_line(table))
    except NasError as error:
        print(f"line: {error}", file=sys.stderr)
        return USER_ERROR
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
