"""The folder that a network leaves in, and loading it again.

`architecture.json` is the canonical text, `model.safetensors` the weights, `card.json` what is known of them.
"""

import json
import shutil
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nas.architecture import Architecture
from nas.costs import cost
from nas.datasets import Dataset, load_part
from nas.errors import NasError
from nas.modules import build
from nas.runs import dataset_of, read_experiment
from nas.table import best as best_row
from nas.table import results
from nas.train import Preprocess, device_name, fingerprint, num_correct, pick_device, predict

ARCHITECTURE_FILE: Final = "architecture.json"
WEIGHTS_FILE: Final = "model.safetensors"
CARD_FILE: Final = "card.json"


def export(
    run: str | PathLike[str],
    *,
    trial: int | None = None,
    best: str | None = None,
    output: str | PathLike[str] | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """The folder of one trained network of a run: `trial`, or the `best` on an objective.

    Written to `output`, by default `exports/trial<N>` in the run folder. The network is loaded from its weights and has to put
    every image of the search validation part into the class that it did at the end of its trial; on another device than the
    trial's, where sums round otherwise, the card says both accuracies instead. The test part is read here and nowhere else.
    `dataset` stands in for the run's own, which is rebuilt from experiment.json.

    Raises: NasError for a trial that has no weights, a folder that is in use, or weights that do not classify as they did.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    row = _chosen(results(folder), trial, best)
    number = int(row["trial"])
    weights = folder / "checkpoints" / f"{number}.safetensors"
    if not weights.is_file():
        raise NasError(f"trial {number} has no weights at {weights}: they were removed, or nothing in this run needed training")
    target = Path(output).resolve() if output is not None else folder / "exports" / f"trial{number}"
    if target.exists() and not _is_export(target):
        raise NasError(f"{target} is there already and is not an export; give another folder with --output")

    architecture = Architecture.from_json(row["architecture"])
    classes = described["dataset"]["classes"]
    model = _with_weights(architecture, len(classes), weights)
    accuracy = _accuracy(model, architecture, dataset or dataset_of(described), row)
    _write(target, architecture, weights, _card(described, row, architecture, accuracy, folder.name))
    return target


def _is_export(folder: Path) -> bool:
    """Whether a folder holds what an export writes and nothing else, so that a new one may take its place."""
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} in (set(), {ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE})


def _chosen(df: pd.DataFrame, trial: int | None, best: str | None) -> "pd.Series[Any]":
    """The row to export."""
    if (trial is None) == (best is None):
        raise NasError("export takes either a trial's number or the objective to be best on; give --trial or --best")
    if best is not None:
        return best_row(df, best)
    rows = df[df["trial"] == trial]
    done = ", ".join(map(str, df["trial"][df["status"] == "done"]))
    if rows.empty:
        raise NasError(f"trial {trial} is not in this run; done: {done or 'none'}")
    if rows.iloc[0]["status"] != "done":
        raise NasError(f"trial {trial} is {rows.iloc[0]['status']}, and only a done one has a network; done: {done or 'none'}")
    return rows.iloc[0]


def _accuracy(model: nn.Module, architecture: Architecture, dataset: Dataset, row: "pd.Series[Any]") -> dict[str, Any]:
    """Top-1 of a reloaded model on the search validation and test parts.

    Raises: NasError if it classifies the validation part otherwise than in its trial, on the same device.
    """
    val, test = load_part(dataset, "val"), load_part(dataset, "test")
    threads, device = torch.get_num_threads(), pick_device()
    torch.set_num_threads(1)  # as in the trial, so that sums are taken in the same order
    model.to(device)
    same_device = device_name(device) == row["device"]
    preprocess = Preprocess(resolution=architecture.resolution, mean=dataset.mean, std=dataset.std)
    val_logits, test_logits = predict(model, val, preprocess), predict(model, test, preprocess)
    torch.set_num_threads(threads)
    identical, val_top1 = fingerprint(val_logits) == row["fingerprint"], 100.0 * num_correct(val_logits, val) / len(val)
    if not identical and same_device:
        raise NasError(
            f"the weights of trial {row['trial']} do not classify the search validation part as in the trial on this same "
            f"device: {val_top1:.4f} % are right; the dataset or the weights have changed"
        )
    return {
        "dataset": dataset.name,
        "seed": int(row["seed"]),
        "val_top1_pct": val_top1,
        "val_images": len(val),
        "identical_to_trial": identical,
        "trial_val_top1_pct": row.get("val_top1_pct"),
        "test_top1_pct": 100.0 * num_correct(test_logits, test) / len(test),
        "test_images": len(test),
    }


def _card(
    described: dict[str, Any], row: "pd.Series[Any]", architecture: Architecture, accuracy: dict[str, Any], run: str
) -> dict[str, Any]:
    dataset = described["dataset"]
    costs = cost(architecture, len(dataset["classes"]))
    return {
        "id": architecture.id,
        "classes": dataset["classes"],
        "preprocess": {"resolution": architecture.resolution, "mean": dataset["mean"], "std": dataset["std"]},
        "accuracy": accuracy,
        "cost": {"params": costs.params, "macs": costs.macs, "activation_bytes": costs.activation_bytes},
        "train": described["train"] | {"device": row["device"], "precision": row["precision"], "seconds": float(row["seconds"])},
        "run": run,
        "trial": int(row["trial"]),
        "versions": described["versions"],
    }


def _write(target: Path, architecture: Architecture, weights: Path, card: dict[str, Any]) -> None:
    """The folder, whole or not at all; an earlier export stays until the new one is ready."""
    partial, earlier = (target.with_name(f".{target.name}.{state}") for state in ("partial", "earlier"))
    try:
        for leftover in (partial, earlier):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / ARCHITECTURE_FILE).write_text(architecture.to_json() + "\n", encoding="utf-8")
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
    try:
        architecture = Architecture.from_json((source / ARCHITECTURE_FILE).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise NasError(f"{source / ARCHITECTURE_FILE} is damaged: it is not a text; export the network again") from None
    try:
        card = json.loads((source / CARD_FILE).read_text(encoding="utf-8"))
        num_classes, card_id = len(card["classes"]), card["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NasError(f"{source / CARD_FILE} is damaged: it has no classes or id; export the network again") from None
    if card_id != architecture.id:
        raise NasError(f"{source}: the card is of architecture {card_id!r} and {ARCHITECTURE_FILE} is {architecture.id}")
    return _with_weights(architecture, num_classes, source / WEIGHTS_FILE)


def _with_weights(architecture: Architecture, num_classes: int, weights: Path) -> nn.Module:
    model = build(architecture, num_classes)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise NasError(f"{weights} does not hold the weights of architecture {architecture.id}: {reason}") from None
    return model.eval().to(memory_format=torch.channels_last)
