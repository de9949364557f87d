"""Exact parameters, multiply-adds and activation memory of an Architecture, by arithmetic alone.

Each kind of layer has one formula, here. Read `modules.py` next for the same network in torch.
"""

from dataclasses import dataclass
from typing import Final

from nas.architecture import Architecture, Block
from nas.errors import NasError

FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a network costs, for one image."""

    params: int
    """Learned numbers: weights, biases, BatchNorm's scale and shift."""
    macs: int
    """Multiply-adds of convolutions and linear layers, as papers count them."""
    activation_bytes: int
    """Peak of what is alive at once in inference in float32: a layer's input and output, and any skip or squeezed map kept
    meanwhile. Layers are convolutions, pools and linear layers; norms, activations, gates and sums work in place."""


def cost(architecture: Architecture, num_classes: int = 1000) -> Cost:
    """The cost of a network with `num_classes` outputs (0 leaves the classifier out), at its own resolution.

    Raises: NasError for a negative number of classes.
    """
    if num_classes < 0:
        raise NasError(f"num_classes: {num_classes} is not 0 or more")
    resolution, width = architecture.resolution, architecture.stem.width
    size = -(-resolution // architecture.stem.stride)
    area = size * size
    params, macs = (27 + 2) * width, 27 * width * area
    peak = 3 * resolution * resolution + width * area
    for stage in architecture.stages:
        size = -(-size // stage[0].stride)  # only the first block of a stage may downsample
        area_out = size * size
        for block in stage:
            more_params, more_macs, block_peak = _block(block, width, area, area_out)
            params += more_params
            macs += more_macs
            peak = max(peak, block_peak)
            width, area = block.width, area_out
    more_params, more_macs, head_peak = _head(architecture, width, area, num_classes)
    return Cost(params=params + more_params, macs=macs + more_macs, activation_bytes=FLOAT32_BYTES * max(peak, head_peak))


def _block(block: Block, width: int, area: int, area_out: int) -> tuple[int, int, int]:
    """(params, macs, peak live numbers) of a block from `width` channels on `area` pixels to `area_out` pixels."""
    op, out, taps = block.op, block.width, block.kernel * block.kernel
    if op == "conv":
        weights = taps * width * out
        return weights + 2 * out, weights * area_out, width * area + out * area_out

    inner = block.hidden or width
    skipped = width * area if block.skip else 0  # kept until the sum
    project = inner * out
    if op == "mbconv":
        expand, spatial = width * inner, taps * inner
        params = expand + spatial + project + 4 * inner + 2 * out  # a norm after each convolution
        macs = expand * area + (spatial + project) * area_out
        peak = max((width + inner) * area, skipped + inner * (area + area_out), skipped + (inner + out) * area_out)
    else:  # the spatial convolution comes first, so that its input is itself what a skip keeps
        spatial = taps * inner * (width if op == "fused" else 1)
        params = spatial + project + 2 * inner + 2 * out
        macs = (spatial + project) * area_out
        peak = max(width * area + inner * area_out, skipped + (inner + out) * area_out)
    squeeze = block.squeeze
    if squeeze:
        gate = 2 * inner * squeeze
        return params + gate + squeeze + inner, macs + gate, max(peak, skipped + inner * area_out + inner + squeeze)
    return params, macs, peak


def _head(architecture: Architecture, width: int, area: int, num_classes: int) -> tuple[int, int, int]:
    """(params, macs, peak live numbers) of the head on a map of `width` channels and `area` pixels."""
    head = architecture.head
    features = head.width or width
    classifier = features * num_classes
    params, macs, peak = classifier + num_classes, classifier, features + num_classes
    if head.kind == "mobilenetv3":
        weights = width * features
        return params + weights + features, macs + weights, max(peak, width * area + width, width + features)
    if head.width:
        weights = width * features
        params, macs, peak = params + weights + 2 * features, macs + weights * area, max(peak, (width + features) * area)
    return params, macs, max(peak, features * area + features)
