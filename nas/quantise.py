"""A network's ONNX file in eight bits, and what that costs in accuracy."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from nas.datasets import ImageData
from nas.predict import Preprocess, evenly
from nas.proof import BATCH, onnx_run

CALIBRATION_IMAGES: Final = 512  # of the training part


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Training images, evenly from the whole part, as onnxruntime asks for them."""

    def __init__(self, preprocess: Preprocess, data: ImageData) -> None:
        self.batches = _batches(preprocess, evenly(data, CALIBRATION_IMAGES))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantise(source: Path, target: Path, preprocess: Preprocess, parts: Mapping[str, ImageData]) -> dict[str, float]:
    """Write `source` with weights and activations of eight bits; gives top-1, percent, on the validation and test parts.

    Weights are quantised by channel, activations by the least and largest values over training images (static quantisation).
    """
    with quiet():  # onnxruntime advises to preprocess a graph, and this one has nothing to fold
        quantize_static(
            source,
            target,
            _Images(preprocess, parts["train"]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: where a CPU has no VNNI, sums of two products of 8 bits overflow 16
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
    """While an exporter runs that logs what concerns nobody."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
