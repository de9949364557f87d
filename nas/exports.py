"""The folder that a network leaves in, and loading it again.

`architecture.json` is the canonical text, `model.safetensors` the weights, `card.json` what is known of them.
"""

import json
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nas.conditions import where
from nas.datasets import Dataset, load_part
from nas.description import dataset_of
from nas.devices import device_name, pick_device
from nas.errors import NasError
from nas.networks import ARCHITECTURE_FILE, Network, read_text
from nas.predict import Preprocess, fingerprint, num_correct, predict
from nas.runs import CARD_FILE, WEIGHTS, read_experiment
from nas.table import best as best_row
from nas.table import results

WEIGHTS_FILE: Final = "model.safetensors"


def export(
    run: str | PathLike[str],
    *,
    trial: int | None = None,
    best: str | None = None,
    conditions: str = "",
    within_error: bool = False,
    output: str | PathLike[str] | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """The folder of one trained network of a run: `trial`, or the `best` on an objective of those that meet the conditions.

    Written to `output`, by default `exports/trial<N>` in the run folder. The network is loaded from its weights and has to put
    every image of the search validation part into the class that it did at the end of its trial; on another device than the
    trial's, where sums round otherwise, the card says both accuracies instead. A search never reads the test part; this does.
    `dataset` stands in for the run's own, which is rebuilt from experiment.json.

    Raises: NasError for a trial that has no weights, a folder that is in use, or weights that do not classify as they did.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    row = _chosen(results(folder), trial, best, conditions, within_error=within_error)
    number = int(row["trial"])
    weights = folder / WEIGHTS / f"{number}.safetensors"
    if not weights.is_file():
        raise NasError(
            f"trial {number} has no weights at {weights}: they were removed, nothing in this run needed training, or it is a "
            "baseline that is no point of the space, which keeps them with --keep-all alone"
        )
    target = Path(output).resolve() if output is not None else folder / "exports" / f"trial{number}"
    if target.exists() and not is_export(target):
        raise NasError(f"{target} is there already and is not an export; give another folder with --output")

    network = Network.from_json(row["architecture"])
    num_classes = len(described["dataset"]["classes"])
    model = with_weights(network, num_classes, weights)
    accuracy = _accuracy(model, network, dataset or dataset_of(described), row)
    recipe = described["train"] | {"device": row["device"], "precision": row["precision"], "seconds": float(row["seconds"])}
    card = make_card(
        network, described["dataset"], accuracy=accuracy, train=recipe, versions=described["sessions"][-1]["versions"]
    )
    write_export(target, network, weights, card | {"run": folder.name, "trial": number})
    return target


def is_export(folder: Path) -> bool:
    """Whether a folder holds what an export writes and nothing else, so that a new one may take its place."""
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} in (set(), {ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE})


def _chosen(df: pd.DataFrame, trial: int | None, best: str | None, conditions: str, *, within_error: bool) -> "pd.Series[Any]":
    """The row to export."""
    df = where(df, conditions) if conditions else df
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


def _accuracy(model: nn.Module, network: Network, dataset: Dataset, row: "pd.Series[Any]") -> dict[str, Any]:
    """Top-1 of a reloaded model on the search validation and test parts.

    Raises: NasError if it classifies the validation part otherwise than in its trial, on the same device.
    """
    threads, device = torch.get_num_threads(), pick_device()
    torch.set_num_threads(1)  # as in the trial, so that sums are taken in the same order
    accuracy, classified = measure_accuracy(model, network.resolution, dataset, device)
    same_device = device_name(device) == row["device"]
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


def measure_accuracy(
    model: nn.Module, resolution: int, dataset: Dataset, device: torch.device
) -> tuple[dict[str, float | int], str]:
    """(top-1 on the search validation and the test part, with their sizes; the fingerprint of the validation part)."""
    model.to(device)
    preprocess = Preprocess(resolution=resolution, mean=dataset.mean, std=dataset.std)
    accuracy: dict[str, float | int] = {}
    prints = {}
    for part in ("val", "test"):
        data = load_part(dataset, part)
        logits = predict(model, data, preprocess)
        prints[part] = fingerprint(logits)
        accuracy |= {f"{part}_top1_pct": 100.0 * num_correct(logits, data) / len(data), f"{part}_images": len(data)}
    return accuracy, prints["val"]


def make_card(
    network: Network,
    dataset: Mapping[str, Any],
    *,
    accuracy: Mapping[str, Any],
    train: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What card.json holds of any network; `dataset` has its classes, mean and std."""
    return {
        "id": network.id,
        "classes": list(dataset["classes"]),
        "preprocess": {"resolution": network.resolution, "mean": list(dataset["mean"]), "std": list(dataset["std"])},
        "accuracy": dict(accuracy),
        "cost": network.costs(len(dataset["classes"])),
        "train": dict(train),
        "versions": dict(versions),
    }


def write_export(target: Path, network: Network, weights: Path, card: Mapping[str, Any]) -> None:
    """The folder, whole or not at all; an earlier export stays until the new one is ready."""
    partial, earlier = (target.with_name(f".{target.name}.{state}") for state in ("partial", "earlier"))
    try:
        for leftover in (partial, earlier):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / ARCHITECTURE_FILE).write_text(network.to_json() + "\n", encoding="utf-8")
        shutil.copyfile(weights, partial / WEIGHTS_FILE)
        (partial / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(earlier)
        partial.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise NasError(f"{target} cannot be written: {error.strerror}; give another folder with --output") from None


def load(folder: str | PathLike[str]) -> nn.Module:
    """The network of an exported folder with its weights, in eval mode, on the CPU.

    `card.json` says how to normalise what it reads. Nothing in the folder is unpickled.

    Shapes: (N, 3, resolution, resolution) → (N, classes).
    Raises: NasError if a file is missing or does not fit the others.
    """
    source = Path(folder)
    for file in (ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (source / file).is_file():
            raise NasError(f"{source} is not an exported network: it has no {file}; `nas export` writes one")
    network = Network.from_json(read_text(source / ARCHITECTURE_FILE))
    try:
        card = json.loads((source / CARD_FILE).read_text(encoding="utf-8"))
        num_classes, card_id = len(card["classes"]), card["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NasError(f"{source / CARD_FILE} is damaged: it has no classes or id; export the network again") from None
    if card_id != network.id:
        raise NasError(f"{source}: the card is of architecture {card_id!r} and {ARCHITECTURE_FILE} is {network.id}")
    return with_weights(network, num_classes, source / WEIGHTS_FILE)


def with_weights(network: Network, num_classes: int, weights: Path) -> nn.Module:
    """The network with the weights of a safetensors file, in eval mode, channels_last.

    Raises: NasError if the file does not hold them.
    """
    model = network.build(num_classes)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise NasError(f"{weights} does not hold the weights of architecture {network.id}: {reason}") from None
    return model.eval().to(memory_format=torch.channels_last)
