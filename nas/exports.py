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
from nas.datasets import Dataset
from nas.errors import NasError
from nas.modules import build
from nas.runs import dataset_of, read_experiment
from nas.table import best as best_row
from nas.table import results
from nas.train import Preprocess, predict

ARCHITECTURE_FILE: Final = "architecture.json"
WEIGHTS_FILE: Final = "model.safetensors"
CARD_FILE: Final = "card.json"


def export(
    run: str | PathLike[str], *, trial: int | None = None, best: str | None = None, output: str | PathLike[str] | None = None
) -> Path:
    """The folder of one trained network of a run: `trial`, or the `best` on an objective.

    Written to `output`, by default `exports/trial<N>` in the run folder. The network is loaded from its weights and must
    classify the search validation part as its trial did; the test part is read here, once, and nowhere else.

    Raises: NasError for a trial that has no weights, a folder that is in use, or weights that do not classify as they did.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    row = _chosen(results(folder), trial, best)
    number = int(row["trial"])
    weights = folder / "checkpoints" / f"{number}.safetensors"
    if not weights.is_file():
        raise NasError(f"trial {number} has no weights at {weights}; export another trial of this run")
    target = Path(output) if output is not None else folder / "exports" / f"trial{number}"
    if target.exists() and not (target.is_dir() and ({CARD_FILE} <= set(_names(target)) or not _names(target))):
        raise NasError(f"{target} is there already and is not an export; give another folder with --output")

    architecture = Architecture.from_json(row["architecture"])
    classes = described["dataset"]["classes"]
    model = _with_weights(architecture, len(classes), weights)
    scores = _scores(model, architecture, dataset_of(described))
    if "val_top1_pct" in row and scores["val_top1_pct"] != row["val_top1_pct"]:
        raise NasError(
            f"trial {number} classified {row['val_top1_pct']:.4f} % of the search validation part right and its weights now "
            f"{scores['val_top1_pct']:.4f} %; export on a machine like that of the search ({row['device']})"
        )
    card = _card(described, row, architecture, scores, folder.name)
    _write(target, architecture, weights, card)
    return target


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


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


def _scores(model: nn.Module, architecture: Architecture, dataset: Dataset) -> dict[str, Any]:
    """Top-1 of a model on the search validation and test parts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the trial, so that sums are taken in the same order
    scores: dict[str, Any] = {}
    try:
        preprocess = Preprocess(resolution=architecture.resolution, mean=dataset.mean, std=dataset.std)
        for part in ("val", "test"):
            data = dataset.load(part)
            correct = int((predict(model, data, preprocess).argmax(1) == torch.from_numpy(data.labels)).sum())
            scores |= {f"{part}_top1_pct": 100.0 * correct / len(data), f"{part}_images": len(data)}
    finally:
        torch.set_num_threads(threads)
    return scores


def _card(
    described: dict[str, Any], row: "pd.Series[Any]", architecture: Architecture, scores: dict[str, Any], run: str
) -> dict[str, Any]:
    dataset = described["dataset"]
    costs = cost(architecture, len(dataset["classes"]))
    return {
        "id": architecture.id,
        "classes": dataset["classes"],
        "preprocess": {"resolution": architecture.resolution, "mean": dataset["mean"], "std": dataset["std"]},
        "accuracy": scores | {"dataset": dataset["name"], "seed": int(row["seed"])},
        "cost": {"params": costs.params, "macs": costs.macs, "activation_bytes": costs.activation_bytes},
        "train": described["train"] | {"device": row["device"], "precision": row["precision"], "seconds": float(row["seconds"])},
        "run": run,
        "trial": int(row["trial"]),
        "versions": described["versions"],
    }


def _write(target: Path, architecture: Architecture, weights: Path, card: dict[str, Any]) -> None:
    """The folder, in place at once or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / ARCHITECTURE_FILE).write_text(architecture.to_json() + "\n", encoding="utf-8")
        shutil.copyfile(weights, partial / WEIGHTS_FILE)
        (partial / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
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
        text = (source / ARCHITECTURE_FILE).read_text(encoding="utf-8")
        num_classes = len(json.loads((source / CARD_FILE).read_text(encoding="utf-8"))["classes"])
    except (ValueError, KeyError, TypeError):
        raise NasError(f"{source / CARD_FILE} is damaged: it has no list of classes; export the network again") from None
    return _with_weights(Architecture.from_json(text.strip()), num_classes, source / WEIGHTS_FILE)


def _with_weights(architecture: Architecture, num_classes: int, weights: Path) -> nn.Module:
    model = build(architecture, num_classes)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise NasError(f"{weights} does not hold the weights of architecture {architecture.id}: {reason}") from None
    return model.eval().to(memory_format=torch.channels_last)
