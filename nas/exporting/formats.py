"""Writes a network's export folder in the formats of timm, torch and ONNX Runtime, and compares each with the network."""

import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from torch import nn

from nas.datasets import Dataset, ImageData
from nas.datasets.images import open_image
from nas.errors import MachineBusyError, NasError, describe_error
from nas.exporting.fresh_process import BATCH, INT8_FILE, onnx_run
from nas.exporting.proof import kept_side, proof_images, prove, sample_of, unmappable, warn_of_timms_reader
from nas.exporting.readme import readme
from nas.files import atomic_folder
from nas.models import standalone
from nas.models.export_folder import (
    CLASS_MAP_FILE,
    CONFIG_FILE,
    IMAGES_FILE,
    MODEL_FILE,
    ONNX_FILE,
    README_FILE,
    TORCH_FILE,
    check_replaceable,
    with_weights,
    write_digests,
)
from nas.models.network import ARCHITECTURE_FILE, CARD_FILE, WEIGHTS_FILE, Network, OwnNetwork, TimmNetwork
from nas.models.onnx import OPSET, onnx_model
from nas.objectives.latency.measure import measure
from nas.runs.serialization import package_versions
from nas.training.predict import Preprocess, evenly_spaced, fingerprint, num_correct, predict

TORCHS_OPSET: Final = 18  # the lowest that torch's exporter writes
CALIBRATION_IMAGES: Final = 512  # of the training part


def write_export(
    target: Path,
    network: Network,
    weights: Path,
    card: Mapping[str, Any],
    parts: Mapping[str, ImageData],
    *,
    int8: bool = False,
) -> None:
    """Write an export folder, whole or not at all, once every format is proven; an earlier export stays until then.

    `parts` of the dataset: `val` to compare the formats on; with `int8` also `train` to calibrate on, and `test`. Empty if the
    dataset cannot be read. Raises: NasError for a file whose logits differ, or a folder that cannot be written.
    """
    with atomic_folder(target, check_replaceable) as folder:
        (folder / ARCHITECTURE_FILE).write_text(network.to_json() + "\n", encoding="utf-8")
        shutil.copyfile(weights, folder / WEIGHTS_FILE)
        model = with_weights(network, len(card["classes"]), folder / WEIGHTS_FILE)
        opset = write_formats(folder, network, model, card)
        card = dict(card) | {"onnx_opset": opset, "latency": latency_of(network, len(card["classes"]))}
        how = card["preprocess"]
        preprocess = Preprocess(resolution=how["resolution"], mean=tuple(how["mean"]), std=tuple(how["std"]))
        if int8:
            card["accuracy"] |= {"int8": quantise(folder / ONNX_FILE, folder / INT8_FILE, preprocess, parts)}
        sample = sample_of(parts["val"], how["bits"]) if "val" in parts else None
        names = write_class_map(folder, card)
        card["proof"], read = prove(folder, model, *proof_images(preprocess, sample), sample=sample, class_folders=names)
        if read is not None:
            card["image_files"] = read
            warn_of_timms_reader(read, how["bits"])
        card["exported_with"] = package_versions()
        (folder / README_FILE).write_text(readme(card), encoding="utf-8")
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_digests(folder)


def measure_accuracy(
    model: nn.Module, resolution: int, dataset: Dataset, parts: Mapping[str, ImageData], device: torch.device
) -> tuple[dict[str, float | int], str]:
    """(top-1 on the search validation and the test part, with their sizes; the fingerprint of the validation logits)."""
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


def write_class_map(folder: Path, card: Mapping[str, Any]) -> list[str]:
    """Write class_map.txt, for timm's --class-map; returns the folders' names, none if timm could not read them from it."""
    names: list[str] = card["class_folders"]
    if unmappable(names):
        return []
    (folder / CLASS_MAP_FILE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return names


def write_formats(folder: Path, network: Network, model: nn.Module, card: Mapping[str, Any]) -> int:
    """Write config.json, model.py, model.pt2 and model.onnx into a folder that has the weights; returns the ONNX opset."""
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    config = json.dumps(timm_config(network, card), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
    shutil.copyfile(standalone.__file__, folder / MODEL_FILE)
    shutil.copyfile(open_image.__file__, folder / IMAGES_FILE)
    example = torch.zeros(2, 3, network.resolution, network.resolution)
    any_batch = ({0: torch.export.Dim("batch", min=1)},)
    with quiet():
        written = io.BytesIO()
        try:
            torch.export.save(torch.export.export(model, (example,), dynamic_shapes=any_batch), written)
        except (RuntimeError, TypeError, ValueError) as error:
            raise NasError(f"torch cannot export {network.id}: {describe_error(error)}") from None
        (folder / TORCH_FILE).write_bytes(written.getbuffer())
        if isinstance(network, OwnNetwork):
            weights = {name: value.numpy() for name, value in model.state_dict().items()}
            graph, opset = onnx_model(network.architecture, len(card["classes"]), batch="batch", weights=weights), OPSET
        else:
            named: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "opset_version": TORCHS_OPSET}
            made: Any = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=any_batch, verbose=False, **named)
            graph, opset = made.model_proto, TORCHS_OPSET
    (folder / ONNX_FILE).write_bytes(graph.SerializeToString())
    return opset


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of images for onnxruntime's calibration."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(({"image": batch} for batch in self.batches), None)


def quantise(source: Path, target: Path, preprocess: Preprocess, parts: Mapping[str, ImageData]) -> dict[str, float]:
    """Write `source` with 8-bit weights and activations; returns top-1, percent, on the validation and test parts.

    Weights are quantised per channel; activations by their smallest and largest value on training images (static quantisation).
    """
    with quiet():  # onnxruntime advises to preprocess the graph, which has nothing left to fold
        quantize_static(
            source,
            target,
            _Calibration(_batches(preprocess, parts["train"].images[evenly_spaced(parts["train"], CALIBRATION_IMAGES)])),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # 7-bit weights: on CPUs without VNNI, the sum of two 8-bit products overflows 16 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    run, top1 = onnx_run(target), {}
    for part in ("val", "test"):
        data = parts[part]
        classes = np.concatenate([run(images).argmax(1) for images in _batches(preprocess, data.images)])
        top1[part] = 100.0 * float((classes == data.labels).mean())
    return top1


def _batches(preprocess: Preprocess, images: Any) -> Iterator[Any]:
    for start in range(0, len(images), BATCH):
        yield preprocess(torch.from_numpy(images[start : start + BATCH])).contiguous().numpy()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' infos and warnings while the block runs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def about_images(dataset: Dataset, parts: Mapping[str, ImageData]) -> dict[str, Any]:
    """What a card says of the images of a dataset with these parts."""
    values = {name: list(getattr(dataset, name)) for name in ("classes", "class_folders", "mean", "std")}
    return values | {"bits": dataset.bits, "side": kept_side(parts["val"].images)}


def unread_images(described: Mapping[str, Any], dataset: Dataset | None) -> dict[str, Any]:
    """What a card says of images that cannot be read, from experiment.json."""
    folders = described["classes"]
    if dataset is not None and type(dataset).class_folders is not Dataset.class_folders:  # by other names than the classes'
        with suppress(NasError):  # a folder of images may be gone, or have other classes by now
            folders = list(dataset.class_folders) if list(dataset.classes) == folders else folders
    fields = {name: described[name] for name in ("classes", "mean", "std")}
    return fields | {"class_folders": folders, "bits": None, "side": None}


def make_card(network: Network, images: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a network; `images` is from `about_images`, and `sections` are accuracy, train and versions."""
    return {
        "id": network.id,
        "classes": images["classes"],
        "class_folders": images["class_folders"],
        "preprocess": {"resolution": network.resolution} | {name: images[name] for name in ("side", "bits", "mean", "std")},
        "cost": network.costs(len(images["classes"])),
        **sections,
    }


def latency_of(network: Network, num_classes: int) -> dict[str, Any]:
    """The latency on this machine's CPU, in onnxruntime on one thread; or a sentence why it was not measured."""
    if isinstance(network, TimmNetwork):
        return {"not_measured": "it is not one of our architectures"}
    try:
        latency = measure(network.architecture, num_classes, attempts=2)
    except MachineBusyError as error:
        return {"not_measured": str(error)}
    times = {name: getattr(latency, name) for name in ("median_ms", "q25_ms", "q75_ms", "runs")}
    return times | {"device": latency.device, "runtime": f"onnxruntime {latency.runtime_version}", "threads": 1, "batch": 1}


def timm_config(network: Network, card: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `config.json`, from which timm.create_model("local-dir:FOLDER", pretrained=True) makes the network.

    It preprocesses images as the training does: their middle square, resized bilinearly.
    """
    preprocess, side, classes, config = card["preprocess"], network.resolution, card["classes"], network.timm_config()
    how = {
        "custom_load": False,
        "input_size": [3, side, side],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(preprocess["mean"]),
        "std": list(preprocess["std"]),
        "num_classes": len(classes),
        "label_names": list(classes),
    }
    return config | {"num_classes": len(classes), "pretrained_cfg": how | config["pretrained_cfg"]}
