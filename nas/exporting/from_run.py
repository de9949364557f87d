"""Exports networks of a run, one trial's or the whole front: measures each again, and proves its files."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from nas.datasets import Dataset, ImageData, load_part
from nas.datasets.images.splits import PARTS
from nas.errors import NasError
from nas.exporting.formats import about_images, make_card, measure_accuracy, unread_images, write_export
from nas.models.export_folder import check_replaceable, with_weights
from nas.models.network import Network, parse_network
from nas.paths import absolute
from nas.runs.front import best as best_row
from nas.runs.front import front
from nas.runs.images import changed_images, explaining_gone
from nas.runs.results import history, results, select, settings_of
from nas.runs.run_folder import read_experiment, weights_file
from nas.runs.serialization import dataset_of
from nas.runs.shared_weights import read_shared_record
from nas.runs.trial import Weights
from nas.searching.phases import fine_tuning_changes
from nas.training.device import device_name, pick_device
from nas.training.settings import TrainSettings

logger = logging.getLogger(__name__)


def export(
    run: str | PathLike[str],
    *,
    trial: int | None = None,
    best: str | None = None,
    output: str | PathLike[str] | None = None,
    dataset: Dataset | None = None,
    int8: bool = False,
) -> Path:
    """Export one trained network of a run, `trial` or the `best` on an objective; returns the folder.

    The folder is `output`, by default `exports/trial<N>` in the run folder. The network, loaded from its weights, must classify
    every image of the search validation part as at the end of its trial. (On another device sums round differently; then the card
    has both accuracies.) Unlike a search, an export reads the test part. Every format runs in a process without this project and
    must give the same logits. `dataset` replaces the run's own, which is rebuilt from experiment.json. If it cannot be read, or
    its validation images are not those of the run, the card has the trial's accuracy, and the proof uses generated images. `int8`
    adds a quantised ONNX file and its accuracy.

    Raises: NasError for a trial without weights, a target folder that is not an export, weights that classify differently, or a
    file that gives other logits.
    """
    folder = absolute(run).resolve()
    row = choose(results(folder), trial=trial, best=best)
    target = absolute(output) if output is not None else folder / "exports" / f"trial{row['trial']}"
    return _export(folder, {target: row}, dataset, int8=int8)[0]


def export_front(
    run: str | PathLike[str],
    *,
    conditions: str = "",
    output: str | PathLike[str] | None = None,
    dataset: Dataset | None = None,
    int8: bool = False,
    on_done: Callable[[Path], None] = lambda _: None,
) -> list[Path]:
    """Export every network on a run's front that meets the conditions; returns the folders, `trial<N>` in `output`.

    `on_done` is called with each folder once it is written.

    Raises: NasError as `export` does, and if no network on the front meets the conditions.
    """
    folder = absolute(run).resolve()
    parent = absolute(output) if output is not None else folder / "exports"
    rows = front(results(folder))
    rows = select(rows, conditions) if conditions else rows
    if rows.empty:
        raise NasError(f"{folder} has no network on its front{' that meets the conditions' if conditions else ' yet'}")
    targets = {parent / f"trial{row['trial']}": row for _, row in rows.iterrows()}
    return _export(folder, targets, dataset, int8=int8, on_done=on_done)


def choose(
    df: pd.DataFrame, *, trial: int | None = None, best: str | None = None, conditions: str = "", within_error: bool = False
) -> "pd.Series[Any]":
    """The row of a trial, or the `best` row on an objective, among a run's rows that meet the conditions.

    Raises: NasError if there is no such row, its trial is not done, or not exactly one of `trial` and `best` is set.
    """
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


def _export(
    run: Path,
    rows: Mapping[Path, "pd.Series[Any]"],
    dataset: Dataset | None,
    *,
    int8: bool,
    on_done: Callable[[Path], None] = lambda _: None,
) -> list[Path]:
    """Write the networks of the rows into their folders."""
    described = read_experiment(run)
    for target, row in rows.items():  # all of them before the first is measured
        if not (weights := weights_file(run, int(row["trial"]))).is_file():
            raise NasError(
                f"trial {row['trial']} has no weights at {weights}: a run keeps those of networks that may be on its front, and "
                "all only with --keep-all; `nas clean` removes the others, and nothing is kept where nothing needs training"
            )
        check_replaceable(target)
    unreadable, parts = "", {}
    try:
        with explaining_gone(run, described):
            dataset = dataset or dataset_of(described)
            parts = load_unchanged(described, dataset, int8=int8)
    except NasError as error:
        if int8:
            raise
        unreadable = str(error)
    for target, row in rows.items():
        network, weights = parse_network(row["architecture"]), weights_file(run, int(row["trial"]))
        if dataset is None or unreadable:
            accuracy = _accuracy_of_trial(run, row) | {"dataset": described["dataset"]["name"], "not_measured": unreadable}
            about = unread_images(described["dataset"], dataset)
        else:
            model = with_weights(network, len(described["dataset"]["classes"]), weights)
            accuracy = _accuracy(model, network, dataset, parts, row) | {"dataset": dataset.name}
            about = about_images(dataset, parts)
        card = make_card(
            network,
            about,
            accuracy=accuracy | {"seed": int(row["seed"])} | _weights(described, row),
            train=_training(run, described, row),
            versions=described["sessions"][-1]["versions"],
        )
        write_export(target, network, weights, card | {"run": run.name, "trial": int(row["trial"])}, parts, int8=int8)
        on_done(target)
    return list(rows)


def _training(run: Path, described: Mapping[str, Any], row: "pd.Series[Any]") -> dict[str, Any]:
    """The settings of the training that gave the network its weights, with its device, precision and seconds."""
    if row["weights"] == Weights.SHARED and (record := read_shared_record(run)) is not None:
        names = ("epochs", "processes", "seed", "device", "precision", "seconds")  # a run with a copy knows no more of it
        return {name: getattr(record, name) for name in names}
    settings: dict[str, Any] = asdict(settings_of(row, TrainSettings(**described["train"])))
    settings["teacher"] = described["teachers"].get(settings["teacher"], settings["teacher"])  # a folder means nothing elsewhere
    if row["weights"] == Weights.FINE_TUNED:
        settings |= fine_tuning_changes(int(row["epochs"]), lr=settings["lr"])
    return settings | {"device": row["device"], "precision": row["precision"], "seconds": round(float(row["seconds"]), 3)}


def _weights(described: Mapping[str, Any], row: "pd.Series[Any]") -> dict[str, Any]:
    """How the network came by its weights: trained, shared or fine-tuned, and for these the epochs and the learning rate."""
    if row["weights"] != Weights.FINE_TUNED:
        return {"weights": row["weights"]}
    changes = fine_tuning_changes(int(row["epochs"]), lr=described["train"]["lr"])
    return {"weights": row["weights"], "fine_tuning": {name: changes[name] for name in ("epochs", "lr")}}


def load_unchanged(described: Mapping[str, Any], dataset: Dataset, *, int8: bool) -> dict[str, ImageData]:
    """The parts that an export is measured on; with `int8` also the training part.

    Raises: NasError if they cannot be read, or if the run began with other images in them.
    """
    parts = {part: load_part(dataset, part) for part in PARTS if part != "train" or int8}
    now = dataset.fingerprint()
    if changed := changed_images(described, now, ["val", "test"]):
        raise NasError(f"the images have changed since the run began: {changed}; an accuracy on these would be another one")
    if changed := changed_images(described, now, ["train"]):
        logger.warning("the images have changed since the run began: %s; none of these is measured on", changed)
    return parts


def _accuracy(
    model: nn.Module, network: Network, dataset: Dataset, parts: Mapping[str, ImageData], row: "pd.Series[Any]"
) -> dict[str, Any]:
    """The top-1 of a reloaded model on the search validation and test parts.

    Raises: NasError if it classifies the validation part differently than in its trial, on the same device.
    """
    threads, device = torch.get_num_threads(), pick_device()
    torch.set_num_threads(1)  # as in the trial, so that sums are in the same order
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
    return accuracy | {"identical_to_trial": identical, "trial_val_top1_pct": row.get("val_top1_pct")}


def _accuracy_of_trial(run: Path, row: "pd.Series[Any]") -> dict[str, Any]:
    """The top-1 of the trial's last epoch or score, and the number of validation images."""
    described, epochs = read_experiment(run), history(run)
    if row["weights"] == Weights.SHARED:
        curve = next(one["name"] for one in described["objectives"] if one["learning_curve"])
        return {
            "val_top1_pct": float(row[curve]),
            "val_images": sum(described["dataset"]["fingerprint"]["counts"]["val"].values()),
        }
    last = epochs[epochs["trial"] == row["trial"]].iloc[-1]
    return {"val_top1_pct": float(last["val_top1_pct"]), "val_images": int(last["val_images"])}
