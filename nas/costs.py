"""Exact parameters, multiply-adds and activation memory of an Architecture, by arithmetic alone.

Each kind of layer has one formula, here. Read `modules.py` next for the same network in torch.
"""

from dataclasses import dataclass
from typing import Final

from nas.architecture import Architecture, Block

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
    """The cost of a network with `num_classes` outputs, at its own resolution."""
    resolution, width = architecture.resolution, architecture.stem.width
    size = -(-resolution // architecture.stem.stride)
    params, macs = (27 + 2) * width, 27 * width * size * size
    peak = 3 * resolution * resolution + width * size * size
    for stage in architecture.stages:
        for block in stage:
            size_out = -(-size // block.stride)
            more_params, more_macs, block_peak = _block(block, width, size, size_out)
            params, macs, peak = params + more_params, macs + more_macs, max(peak, block_peak)
            width, size = block.width, size_out
    more_params, more_macs, head_peak = _head(architecture, width, size, num_classes)
    return Cost(params=params + more_params, macs=macs + more_macs, activation_bytes=FLOAT32_BYTES * max(peak, head_peak))


def _block(block: Block, width: int, size: int, size_out: int) -> tuple[int, int, int]:
    """(params, macs, peak live numbers) of a block from `width` channels at `size` px to `size_out` px."""
    area, area_out, taps = size * size, size_out * size_out, block.kernel * block.kernel
    if block.op == "conv":
        weights = taps * width * block.width
        return weights + 2 * block.width, weights * area_out, width * area + block.width * area_out

    inner = block.hidden or width
    skipped = width * area if block.skip else 0
    params, macs, peak = 2 * inner, 0, 0  # the norm after the depthwise (or fused) convolution
    if block.op == "mbconv":
        expand = width * inner
        params, macs, peak = params + expand + 2 * inner, expand * area, (width + inner) * area
    spatial = taps * inner * (width if block.op == "fused" else 1)
    params, macs = params + spatial, macs + spatial * area_out
    first = width if block.op == "fused" else inner  # channels that the spatial convolution reads
    kept = skipped if block.op == "mbconv" else 0  # elsewhere the spatial convolution's input is the skip itself
    peak = max(peak, kept + first * area + inner * area_out)
    if block.squeeze:
        params += 2 * inner * block.squeeze + block.squeeze + inner
        macs += 2 * inner * block.squeeze
        peak = max(peak, skipped + inner * area_out + inner + block.squeeze)
    project = inner * block.width
    params, macs = params + project + 2 * block.width, macs + project * area_out
    return params, macs, max(peak, skipped + (inner + block.width) * area_out)


def _head(architecture: Architecture, width: int, size: int, num_classes: int) -> tuple[int, int, int]:
    """(params, macs, peak live numbers) of the head on a map of `width` channels at `size` px."""
    head, area = architecture.head, size * size
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
