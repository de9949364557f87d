"""Writes a network's export folder in the formats of timm, torch and ONNX Runtime, and compares each with the network."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any, Final

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from nas.datasets import Dataset, ImageData
from nas.errors import MachineBusyError, NasError, describe_error
from nas.exporting import fresh_process
from nas.exporting.export_folder import (
    CONFIG_FILE,
    MODEL_FILE,
    ONNX_FILE,
    README_FILE,
    TORCH_FILE,
    check_replaceable,
    with_weights,
    write_digests,
)
from nas.exporting.fresh_process import BATCH, FORMATS, INT8_FILE, onnx_run
from nas.files import atomic_folder
from nas.models import standalone
from nas.models.network import ARCHITECTURE_FILE, CARD_FILE, WEIGHTS_FILE, Network, OwnNetwork, TimmNetwork
from nas.models.onnx import OPSET, onnx_model
from nas.objectives.latency.measure import measure
from nas.runs.serialization import package_versions
from nas.training.predict import Preprocess, evenly_spaced, fingerprint, num_correct, predict

TORCHS_OPSET: Final = 18  # the lowest that torch's exporter writes
TOLERANCE: Final = 1e-3  # largest difference, relative to the largest logit: each format adds in its own order
SAME_CLASS: Final = 0.99  # smallest share of the images that a format must put into the network's class
SECONDS: Final = 1800.0  # longest time of the proof
PROOF_IMAGES: Final = 128
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
        card["proof"] = prove(folder, model, *_proof_images(preprocess, parts.get("val")))
        card["exported_with"] = package_versions()
        (folder / README_FILE).write_text(readme(card), encoding="utf-8")
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_digests(folder)


def _proof_images(preprocess: Preprocess, data: ImageData | None) -> tuple[Tensor, str]:
    """(PROOF_IMAGES preprocessed images, generated ones if validation images are too few; how many of each, in words)."""
    side = preprocess.resolution
    images = [] if data is None else [preprocess(torch.from_numpy(evenly_spaced(data, PROOF_IMAGES)))]
    number = sum(map(len, images))
    if missing := PROOF_IMAGES - number:
        pixels = np.random.default_rng(0).integers(0, 256, (missing, side, side, 3), dtype=np.uint8)
        images.append(preprocess(torch.from_numpy(pixels)))
    names = [f"{count} {what}" for count, what in ((number, "of the validation part"), (missing, "generated")) if count]
    return torch.cat(images), ", ".join(names)


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


def write_formats(folder: Path, network: Network, model: nn.Module, card: Mapping[str, Any]) -> int:
    """Write config.json, model.py, model.pt2 and model.onnx into a folder that has the weights; returns the ONNX opset."""
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    config = json.dumps(timm_config(network, card), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
    shutil.copyfile(standalone.__file__, folder / MODEL_FILE)
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


def prove(folder: Path, model: nn.Module, images: Tensor, source: str) -> dict[str, Any]:
    """Compare each format, in a fresh process that cannot import this project, with the model.

    `images` are preprocessed; `source` says where they are from. Returns for each file the largest difference of a logit, and the
    share of images that get the same class.
    Shapes: images float32 (N, 3, resolution, resolution).
    Raises: NasError if a file gives other logits or does not run; the int8 file may give other logits.
    """
    model = model.cpu().eval()
    images = images.contiguous()
    with torch.inference_mode():
        wanted = torch.cat([model(part) for part in images.split(BATCH)]).numpy()
    proof = {}
    for name, logits in _logits_without_us(folder, images).items():
        difference, same = float(np.abs(logits - wanted).max()), float((logits.argmax(1) == wanted.argmax(1)).mean())
        proof[name] = {"logit_difference": difference, "same_class": same, "images": len(wanted), "source": source}
        exact = difference <= TOLERANCE * float(np.abs(wanted).max()) and same >= SAME_CLASS
        if not exact and name != INT8_FILE:  # int8 logits differ, and the card says by how much
            raise NasError(
                f"{folder / name} gives other logits than the network: they differ by up to {difference:.2g}, and "
                f"{100 * same:.1f} % of {len(wanted)} images get the same class"
            )
    return proof


def _logits_without_us(folder: Path, images: Tensor) -> dict[str, Any]:
    """The logits of each format in a folder, from a process that cannot import this project.

    Raises: NasError if a format does not run, or takes too long.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place, "images.npy")
        np.save(file, images.numpy())
        line = [sys.executable, "-P", str(fresh_process.__file__), str(folder.resolve()), str(file), place]
        threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        try:
            answer = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=place, env=threads)
        except subprocess.TimeoutExpired:
            raise NasError(f"the files of {folder} did not give {len(images)} logits in {SECONDS:.0f} s") from None
        if answer.returncode:
            last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            raise NasError(f"a file of {folder} does not run without this project: {last}")
        return {name: np.load(Path(place, f"{name}.npy")) for name in FORMATS if (folder / name).exists()}


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
            _Calibration(_batches(preprocess, evenly_spaced(parts["train"], CALIBRATION_IMAGES))),
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


def make_card(network: Network, dataset: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a network; `dataset` has classes, mean and std, and `sections` are accuracy, train and versions."""
    return {
        "id": network.id,
        "classes": list(dataset["classes"]),
        "preprocess": {"resolution": network.resolution, "mean": list(dataset["mean"]), "std": list(dataset["std"])},
        "cost": network.costs(len(dataset["classes"])),
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


def readme(card: Mapping[str, Any]) -> str:
    """The export's README.md: the card in Markdown, with front matter for the Hugging Face hub."""
    cost, proof = card["cost"], card["proof"].items()
    return Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        id=card["id"],
        num_classes=f"{len(card['classes']):,}",
        side=card["preprocess"]["resolution"],
        params=f"{cost['params']:,}",
        macs=f"{cost['macs']:,}",
        source=f"; trial {card['trial']} of the search {card['run']}" if "trial" in card else "",
        accuracy="\n".join(_accuracy(card["accuracy"])),
        latency=_latency(card["latency"]),
        opset=card["onnx_opset"],
        proof="\n".join(
            f"| `{name}` | {one['logit_difference']:.2g} | {100 * one['same_class']:.2f} | {one['source']} |"
            for name, one in proof
        ),
        **{of: _pairs(card[of]) for of in ("train", "versions", "exported_with")},
        classes=", ".join(map(_plain, card["classes"][:1000])),
    )


def _plain(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _accuracy(accuracy: Mapping[str, Any]) -> Iterator[str]:
    yield f"On {_plain(accuracy['dataset'])}, trained with seed {accuracy['seed']}; a search ranks by val and never reads test.\n"
    yield "| part | images | top-1, % |\n|---|---|---|"
    for part in ("val", "test"):
        if f"{part}_top1_pct" in accuracy:
            yield f"| {part} | {accuracy[f'{part}_images']:,} | {accuracy[f'{part}_top1_pct']:.2f} |"
    for part, top1 in accuracy.get("int8", {}).items():
        yield f"| {part}, in int8 | {accuracy[f'{part}_images']:,} | {top1:.2f} |"
    if "int8" in accuracy:
        yield "\n`model_int8.onnx` takes and gives the same arrays as `model.onnx`."
    if "not_measured" in accuracy:
        yield f"\nAs its training ended; not measured again: {_plain(accuracy['not_measured'])}."


def _latency(latency: Mapping[str, Any]) -> str:
    if "not_measured" in latency:
        return f"Not measured: {latency['not_measured']}."
    spread = f"the middle half of {latency['runs']} runs from {latency['q25_ms']:.3g} to {latency['q75_ms']:.3g}"
    return f"{latency['median_ms']:.3g} ms ({spread}) on {latency['device']}, one thread, one image, {latency['runtime']}."
