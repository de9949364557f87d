"""The folder that a network leaves in, and loading it again.

`architecture.json` is the canonical text, `model.safetensors` the weights; `config.json`, `model.py`, `model.pt2` and
`model.onnx` run in timm, torch and ONNX Runtime without this project; `card.json` and `README.md` say what is known of it. Read
`trainer.py` next.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from nas.artefacts import MODEL_FILE, ONNX_FILE, TORCH_FILE, prove, write_artefacts
from nas.cards import CONFIG_FILE, README_FILE, latency_of, make_card, readme
from nas.datasets import Dataset, ImageData, load_part
from nas.description import dataset_of, package_versions
from nas.devices import device_name, pick_device
from nas.errors import NasError
from nas.files import whole_folder
from nas.networks import ARCHITECTURE_FILE, Network, parse_network
from nas.predict import Preprocess, evenly, fingerprint, num_correct, predict
from nas.proof import INT8_FILE
from nas.quantise import quantise
from nas.runs import CARD_FILE, WEIGHTS, read_experiment
from nas.table import best as best_row
from nas.table import front, history, results, select
from nas.weights import WEIGHTS_FILE, built_empty, read_plain, sha256, with_weights

BINARY_FILES: Final = (WEIGHTS_FILE, TORCH_FILE, ONNX_FILE, INT8_FILE)
FILES: Final = frozenset((*BINARY_FILES, ARCHITECTURE_FILE, CONFIG_FILE, MODEL_FILE, CARD_FILE, README_FILE))
MAX_BYTES: Final = 2**22  # of a card, or an architecture's text
PROOF_IMAGES: Final = (100, 128)  # least and most


def export(
    run: str | PathLike[str],
    *,
    trial: int | None = None,
    best: str | None = None,
    conditions: str = "",
    within_error: bool = False,
    output: str | PathLike[str] | None = None,
    dataset: Dataset | None = None,
    int8: bool = False,
) -> Path:
    """The folder of one trained network of a run: `trial`, or the `best` on an objective of those that meet the conditions.

    Written to `output`, by default `exports/trial<N>` in the run folder. The network is loaded from its weights and has to put
    every image of the search validation part into the class that it did at the end of its trial; on another device than the
    trial's, where sums round otherwise, the card says both accuracies instead. A search never reads the test part; this does.
    Every file is run in a process without this project, and has to give the same logits. `dataset` stands in for the run's own,
    which is rebuilt from experiment.json; where it is gone, the card has the accuracy of the trial, and the files are compared on
    generated images. `int8` adds a quantised ONNX file, and what it costs in accuracy.

    Raises: NasError for a trial that has no weights, a folder that is in use, weights that do not classify as they did, or a file
    that gives other logits.
    """
    folder = Path(run).resolve()
    row = _chosen(results(folder), trial, best, conditions, within_error=within_error)
    target = Path(output).resolve() if output is not None else folder / "exports" / f"trial{row['trial']}"
    return _export(folder, row, target, partial(_images_of, folder, dataset, int8=int8), int8=int8)


def export_front(
    run: str | PathLike[str],
    *,
    conditions: str = "",
    output: str | PathLike[str] | None = None,
    dataset: Dataset | None = None,
    int8: bool = False,
    on_done: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Path]:
    """The folders of all networks on a run's front that meet the conditions, as `export` writes them: `trial<N>` in `output`.

    Raises: NasError as `export` does, and for a front without such a network.
    """
    folder = Path(run).resolve()
    place = Path(output).resolve() if output is not None else folder / "exports"
    rows = front(results(folder))
    rows = select(rows, conditions) if conditions else rows
    if rows.empty:
        raise NasError(f"{folder} has no network on its front{' that meets the conditions' if conditions else ' yet'}")
    folders, images = [], cache(partial(_images_of, folder, dataset, int8=int8))  # read once
    on_done(0, len(rows))
    for _, row in rows.iterrows():
        folders.append(_export(folder, row, place / f"trial{row['trial']}", images, int8=int8))
        on_done(len(folders), len(rows))
    return folders


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    """What a run was trained on, if it is still there."""

    dataset: Dataset | None
    parts: Mapping[str, ImageData]
    gone: str = ""
    """Why it is not."""


def _images_of(run: Path, dataset: Dataset | None, *, int8: bool) -> _Images:
    """Raises: NasError where they are gone and needed."""
    try:
        found = dataset or dataset_of(read_experiment(run))
        parts = ("train", "val", "test") if int8 else ("val", "test")
        return _Images(dataset=found, parts={part: load_part(found, part) for part in parts})
    except NasError as gone:
        if int8:
            raise
        return _Images(dataset=None, parts={}, gone=str(gone))


def _export(run: Path, row: "pd.Series[Any]", target: Path, images_of: Callable[[], _Images], *, int8: bool) -> Path:
    described, number = read_experiment(run), int(row["trial"])
    weights = run / WEIGHTS / f"{number}.safetensors"
    if not weights.is_file():
        raise NasError(
            f"trial {number} has no weights at {weights}: they were removed, nothing in this run needed training, or it is a "
            "baseline that is no point of the space, which keeps them with --keep-all alone"
        )
    check_replaceable(target)  # before time is spent
    network = parse_network(row["architecture"])
    model, images = with_weights(network, len(described["dataset"]["classes"]), weights), images_of()
    if images.dataset is None:
        accuracy = _accuracy_of_trial(run, described, row, images.gone)
    else:
        accuracy = _accuracy(model, network, images.dataset, images.parts, row)
    recipe = described["train"] | {"device": row["device"], "precision": row["precision"], "seconds": float(row["seconds"])}
    card = make_card(
        network, described["dataset"], accuracy=accuracy, train=recipe, versions=described["sessions"][-1]["versions"]
    )
    write_export(target, network, weights, card | {"run": run.name, "trial": number}, images.parts, int8=int8)
    return target


def is_export(folder: Path) -> bool:
    """Whether a folder holds what an export writes and nothing else, so that a new one may take its place."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()} - {"__pycache__"}
    return not names or (names <= FILES and {ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE} <= names)


def check_replaceable(target: Path) -> None:
    """Refuse a place for an export where something else is.

    Raises: NasError.
    """
    if target.exists() and not is_export(target):
        raise NasError(f"{target} is there already and is not an export; give another folder with --output")


def _chosen(df: pd.DataFrame, trial: int | None, best: str | None, conditions: str, *, within_error: bool) -> "pd.Series[Any]":
    """The row to export."""
    df = select(df, conditions) if conditions else df
    if (trial is None) == (best is None):
        raise NasError("export takes either a trial's number or the objective to be best on; give --trial or --best")
    if best is not None:
        return best_row(df, best, within_error=within_error)
    rows = df[df["trial"] == trial]
    done = ", ".join(map(str, df["trial"][df["status"] == "done"]))
    if rows.empty:
        raise NasError(
            f"trial {trial} is not in this run{', or does not meet the conditions' if conditions else ''}; done: {done or 'none'}"
        )
    if rows.iloc[0]["status"] != "done":
        raise NasError(f"trial {trial} is {rows.iloc[0]['status']}, and only a done one has a network; done: {done or 'none'}")
    return rows.iloc[0]


def _accuracy(
    model: nn.Module, network: Network, dataset: Dataset, parts: Mapping[str, ImageData], row: "pd.Series[Any]"
) -> dict[str, Any]:
    """Top-1 of a reloaded model on the search validation and test parts.

    Raises: NasError if it classifies the validation part otherwise than in its trial, on the same device.
    """
    threads, device = torch.get_num_threads(), pick_device()
    torch.set_num_threads(1)  # as in the trial, so that sums are taken in the same order
    try:
        accuracy, classified = measure_accuracy(model, network.resolution, dataset, parts, device)
        same_device = device_name(device) == row["device"]
    finally:
        torch.set_num_threads(threads)
    identical = classified == row["fingerprint"]
    if not identical and same_device:
        raise NasError(
            f"the weights of trial {row['trial']} do not classify the search validation part as in the trial on this same "
            f"device: {accuracy['val_top1_pct']:.4f} % are right; the dataset or the weights have changed"
        )
    return {
        "dataset": dataset.name,
        "seed": int(row["seed"]),
        **accuracy,
        "identical_to_trial": identical,
        "trial_val_top1_pct": row.get("val_top1_pct"),
    }


def _accuracy_of_trial(run: Path, described: Mapping[str, Any], row: "pd.Series[Any]", why: str) -> dict[str, Any]:
    """What the trial ended with, where its images are gone."""
    epochs = history(run)
    last = epochs[epochs["trial"] == row["trial"]].iloc[-1]
    return {
        "dataset": described["dataset"]["name"],
        "seed": int(row["seed"]),
        "val_top1_pct": float(last["val_top1_pct"]),
        "val_images": int(last["val_images"]),
        "not_measured": why,
    }


def measure_accuracy(
    model: nn.Module, resolution: int, dataset: Dataset, parts: Mapping[str, ImageData], device: torch.device
) -> tuple[dict[str, float | int], str]:
    """(top-1 on the search validation and the test part, with their sizes; the fingerprint of the validation part)."""
    model.to(device)
    preprocess = Preprocess(resolution=resolution, mean=dataset.mean, std=dataset.std)
    accuracy: dict[str, float | int] = {}
    prints = {}
    for part in ("val", "test"):
        data = parts[part]
        logits = predict(model, data, preprocess)
        prints[part] = fingerprint(logits)
        accuracy |= {f"{part}_top1_pct": 100.0 * num_correct(logits, data) / len(data), f"{part}_images": len(data)}
    return accuracy, prints["val"]


def write_export(
    target: Path,
    network: Network,
    weights: Path,
    card: Mapping[str, Any],
    parts: Mapping[str, ImageData],
    *,
    int8: bool = False,
) -> None:
    """The folder with every file proven, whole or not at all; an earlier export stays until the new one is ready.

    `parts` are the dataset's, if they are there; `val` is what the files are compared on, `train` what int8 is calibrated on.
    Raises: NasError for a file that gives other logits than the weights, or a folder that cannot be written.
    """
    with whole_folder(target, check_replaceable) as folder:
        (folder / ARCHITECTURE_FILE).write_text(network.to_json() + "\n", encoding="utf-8")
        shutil.copyfile(weights, folder / WEIGHTS_FILE)
        model = with_weights(network, len(card["classes"]), folder / WEIGHTS_FILE)
        opset = write_artefacts(folder, network, model, card)
        card = dict(card) | {"onnx_opset": opset, "latency": latency_of(network, len(card["classes"]))}
        preprocess = _preprocess(card)
        if int8:
            card["accuracy"] |= {"int8": quantise(folder / ONNX_FILE, folder / INT8_FILE, preprocess, parts)}
        card["proof"] = prove(folder, model, *_proof_images(preprocess, parts.get("val")))
        card["exported_with"] = package_versions()
        card["sha256"] = {name: sha256(folder / name) for name in BINARY_FILES if (folder / name).exists()}
        (folder / README_FILE).write_text(readme(card), encoding="utf-8")
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _preprocess(card: Mapping[str, Any]) -> Preprocess:
    how = card["preprocess"]
    return Preprocess(resolution=how["resolution"], mean=tuple(how["mean"]), std=tuple(how["std"]))


def _proof_images(preprocess: Preprocess, data: ImageData | None) -> tuple[Tensor, str]:
    """(what a network reads of images of the validation part, or generated ones where there are too few; what they are)."""
    least, most = PROOF_IMAGES
    side, found, number = preprocess.resolution, [], 0
    if data is not None:
        chosen = evenly(data, most)
        found.append(preprocess(torch.from_numpy(chosen)))
        number = len(chosen)
    missing = max(0, least - number)
    if missing:
        pixels = np.random.default_rng(0).integers(0, 256, (missing, side, side, 3), dtype=np.uint8)
        found.append(preprocess(torch.from_numpy(pixels)))
    names = [f"{count} {what}" for count, what in ((number, "of the validation part"), (missing, "generated")) if count]
    return torch.cat(found), ", ".join(names)


def load(folder: str | PathLike[str]) -> nn.Module:
    """The network of an exported folder with its weights, in eval mode, on the CPU.

    `card.json` says how to normalise what it reads. Nothing in the folder is unpickled or run, and the weights are held against
    the architecture before memory is taken for them.

    Shapes: (N, 3, resolution, resolution) → (N, classes).
    Raises: NasError, and nothing else, if a file is missing, damaged, no plain file, or does not fit the others.
    """
    source = Path(folder)
    network, classes, _ = read_export(source)
    return with_weights(network, len(classes), source / WEIGHTS_FILE)


def read_export(source: Path) -> tuple[Network, list[str], dict[str, Any]]:
    """(the network of an exported folder, its classes, its card), held against each other; and its files against their digests.

    Raises: NasError.
    """
    for file in (ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (source / file).exists():
            raise NasError(f"{source} is not an exported network: it has no {file}; `nas export` writes one")
    text, told = (read_plain(source / file, MAX_BYTES, Path.read_bytes) for file in (ARCHITECTURE_FILE, CARD_FILE))
    try:
        architecture = text.decode()
    except UnicodeDecodeError:
        raise NasError(f"{source / ARCHITECTURE_FILE} is damaged: it is not a text; export the network again") from None
    network = parse_network(architecture)
    try:
        card = json.loads(told)
        classes, card_id, digests = card["classes"], card["id"], dict(card["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NasError(f"{source / CARD_FILE} is damaged: it has no classes, id or digests; export the network again") from None
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise NasError(f"{source / CARD_FILE} is damaged: its classes are not a list of names; export the network again")
    if card_id != network.id:
        raise NasError(f"{source}: the card is of architecture {str(card_id)[:100]!r} and {ARCHITECTURE_FILE} is {network.id}")
    most = 32 * sum(parameter.numel() for parameter in built_empty(network, len(classes)).parameters()) + 2**26
    for name in BINARY_FILES:
        path = source / name
        there = name == WEIGHTS_FILE or path.is_symlink() or path.exists()
        if there and read_plain(path, most, sha256) != digests.get(name):
            raise NasError(f"{path} is not what {CARD_FILE} was written for: its SHA-256 is another; export the network again")
    return network, classes, card
