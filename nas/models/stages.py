"""A paper's table as stages: rows with ratios become blocks with final widths. Read next: `zoo.py`, which has the tables."""

from functools import lru_cache
from typing import NamedTuple

from nas.models.architecture import EXPANDING_OPS, Block, round_width


class Row(NamedTuple):
    """One row of a paper's table: a block and its repeats, with ratios and widths that are not yet multiplied and rounded."""

    width: float
    """Output channels before multiplying and rounding."""
    repeats: int = 1
    op: str = "mbconv"
    kernel: int = 3
    stride: int = 1
    """Stride of the first repeat; the others have stride 1."""
    expansion: float = 6.0
    """Hidden channels / input channels."""
    squeeze: str = "none"
    """Squeeze-and-excite width. `none`; `input`: a quarter of the input channels, sigmoid gate (MnasNet, EfficientNet);
    `hidden`: a quarter of the depthwise channels, rounded, hard sigmoid gate (MobileNetV3)."""
    activation: str = "relu"
    skip: bool = True
    """True for a skip wherever the shapes allow one."""
    linear: bool = True
    """True for no activation after the last convolution; `conv` always has one."""
    start_kernel: int = 0
    """Kernel of the depthwise convolution before the expansion; `uib` only."""


@lru_cache(maxsize=100_000)  # a search makes the same few blocks again and again
def make_block(row: Row, width_in: int, width: int, stride: int) -> Block:
    """A block of the row, with `width_in` input channels and `width` output channels."""
    hidden = round_width(width_in * row.expansion) if row.op in EXPANDING_OPS else 0
    squeeze, gate = 0, None
    if row.squeeze == "input" and row.op != "conv":
        squeeze, gate = width_in // 4, "sigmoid"
    elif row.squeeze == "hidden" and row.op != "conv":
        squeeze, gate = round_width((hidden or width_in) / 4), "hard_sigmoid"
    return Block(
        op=row.op,
        kernel=row.kernel,
        stride=stride,
        width=width,
        hidden=hidden,
        squeeze=squeeze,
        gate=gate,
        activation=row.activation,
        linear=row.linear and row.op != "conv",
        skip=row.skip and stride == 1 and width_in == width,
        start_kernel=row.start_kernel,
    )


def make_stages(width_in: int, table: tuple[tuple[Row, ...], ...], multiple: float = 1.0) -> tuple[tuple[Block, ...], ...]:
    """The stages of a paper's table (one tuple of rows per stage), with every width multiplied by `multiple` and rounded."""
    stages: list[tuple[Block, ...]] = []
    for rows in table:
        stages.append(_make_stage(width_in, rows, multiple))
        width_in = stages[-1][-1].width
    return tuple(stages)


def _make_stage(width_in: int, rows: tuple[Row, ...], multiple: float) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for row in rows:
        width = round_width(row.width * multiple)
        blocks.append(make_block(row, width_in, width, row.stride))
        blocks += [make_block(row, width, width, 1)] * (row.repeats - 1)
        width_in = width
    return tuple(blocks)
