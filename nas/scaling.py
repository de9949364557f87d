"""Compound scaling: the same network deeper, wider and at another resolution, by EfficientNet's rounding rules."""

import math
from dataclasses import replace

from nas.architecture import RESOLUTIONS, Architecture, Block, round_width
from nas.errors import NasError


def scale(architecture: Architecture, depth: float = 1.0, width: float = 1.0, resolution: float = 1.0) -> Architecture:
    """`architecture` with every stage `depth` times as deep and every width `width` times as wide.

    `resolution` below 16 is a multiple too; from 16 up it is the new side in pixels, as EfficientNet's table gives it.
    Depths round up, widths to multiples of 8. A deeper stage repeats its last block, with a skip where the shapes allow one;
    a shallower one drops its last blocks. A last stage of one 1 x 1 convolution belongs to the head and is not repeated.

    Raises: NasError for a multiple that is not positive, or beyond reason; ArchitectureError for a network beyond the bounds.
    Source: EfficientNet, arXiv:1905.11946, section 3, and tensorflow/tpu efficientnet_builder.py (round_filters, round_repeats).
    """
    for name, value, most in (("depth", depth, 100), ("width", width, 100), ("resolution", resolution, RESOLUTIONS[1])):
        if not (isinstance(value, int | float) and 0 < value <= most):
            raise NasError(f"{name}: {value!r} is not a positive number up to {most}")
    pixels = resolution if resolution >= 16 else architecture.resolution * resolution
    stem = replace(architecture.stem, width=round_width(architecture.stem.width * width))
    old_in, new_in, stages = architecture.stem.width, stem.width, []
    for blocks in architecture.stages:
        stage: list[Block] = []
        wanted = scaled_depth(blocks, depth)
        for block, before in zip(blocks[:wanted], (old_in, *(block.width for block in blocks)), strict=False):
            stage.append(_scaled_block(block, before, new_in, width, repeated=False))
            new_in = stage[-1].width
        old_in = blocks[-1].width
        missing = wanted - len(stage)
        if missing:  # the last block again, now reading its own output, so that all the repeats are equal
            stage += [_scaled_block(blocks[-1], before, new_in, width, repeated=True)] * missing
        stages.append(tuple(stage))
    head = replace(architecture.head, width=round_width(architecture.head.width * width) if architecture.head.width else 0)
    return replace(architecture, resolution=round(pixels), stem=stem, stages=tuple(stages), head=head)


def scaled_depth(blocks: tuple[Block, ...], depth: float) -> int:
    """How many blocks a stage has at `depth` times its depth."""
    of_head = len(blocks) == 1 and blocks[0].op == "conv" and blocks[0].kernel == 1
    return 1 if of_head else math.ceil(round(len(blocks) * depth, 9))


def _scaled_block(block: Block, before: int, new_in: int, width: float, *, repeated: bool) -> Block:
    """`block`, which read `before` channels, reading `new_in`; its ratios of hidden and squeeze to input width are kept."""
    new_width = round_width(block.width * width)
    hidden = round_width(new_in * block.hidden / before) if block.hidden else 0
    squeeze = block.squeeze
    if block.gate == "hard_sigmoid":  # MobileNetV3: a part of the depthwise width, rounded like a width
        squeeze = round_width(block.squeeze * (hidden or new_in) / (block.hidden or before))
    elif block.gate == "sigmoid":  # MnasNet, EfficientNet: a part of the input width
        squeeze = max(1, round(block.squeeze * new_in / before))
    stride = 1 if repeated else block.stride
    return Block(
        op=block.op,
        kernel=block.kernel,
        stride=stride,
        width=new_width,
        hidden=hidden,
        squeeze=squeeze,
        gate=block.gate,
        activation=block.activation,
        linear=block.linear,
        skip=stride == 1 and new_in == new_width and (block.skip or (repeated and (block.linear or block.op == "conv"))),
    )
