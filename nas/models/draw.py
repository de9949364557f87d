"""Draws a network as plain SVG: one row per stage, one box per block, and the costs of each stage."""

import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

from nas.models.architecture import Architecture, Block, Stem
from nas.models.cost import cost
from nas.models.layers import Layer, Part, parts

FILLS: Final = {1: "#c3c9d0", 3: "#8cc8ee", 5: "#f0b64a", 7: "#5cc2a0"}
"""Kernel → colour of the box: light, for dark text, after Okabe and Ito's palette, which colour-blind readers can tell apart."""
LINE: Final = 6  # boxes per line; a longer stage takes several lines
BOX: Final = (94, 34)  # width and height, pixels
STEP: Final = (100, 47)  # from one box to the next, and from one line to the next, pixels
LEFT, TOP, COST, FOOT = 92, 58, 82, 10  # pixels: stage names, title, one column of costs, bottom margin
STYLE: Final = """
.network{font:11px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif;fill:currentColor}
.network .title{font-size:13px;font-weight:600}
.network .quiet{opacity:.7}
.network .inside{fill:#1b1f24;text-anchor:middle}
.network .number{text-anchor:end}
.network .share{opacity:.55}
.network .line{fill:none;stroke:currentColor;stroke-width:1.2;opacity:.7}
@media(prefers-color-scheme:dark){.network:root{color:#e8eaed}}
"""
"""The drawing has the colour of the text around it. In a file of its own, where it is the `:root`, dark mode sets the colour."""


class Drawing(str):
    """The text of an SVG; a notebook shows it as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


class Box(NamedTuple):
    """One box of a row."""

    name: str
    result: str
    """Second line of its text: expansion, output channels, SE."""
    details: str
    """Text shown under the mouse pointer."""
    kernel: int = 1
    skip: bool = False


class Row(NamedTuple):
    """The stem, a stage or the head."""

    name: str
    sizes: tuple[int, int]
    """Sides of the input map and the output map, pixels."""
    boxes: list[Box]
    params: int
    macs: int


def draw(architecture: Architecture, num_classes: int = 1000) -> Drawing:
    """The SVG of a network with `num_classes` outputs: every block, and the params and MACs of every stage.

    A box names the operation and its kernel (`/2`: stride 2), the expansion, the output channels, and SE for
    squeeze-and-excite. `uib 5+3` has kernel 5 before its expansion and 3 inside; 0 is none. An arc over the box is a skip.
    Raises: NasError for a negative number of classes.
    """
    total, rows = cost(architecture, num_classes), list(_rows(architecture, num_classes))
    per_line = min(LINE, max(len(row.boxes) for row in rows))
    right = LEFT + per_line * STEP[0]
    tops = list(itertools.accumulate((-(-len(row.boxes) // per_line) * STEP[1] for row in rows), initial=TOP))
    width, height = right + 2 * COST, tops[-1] + FOOT
    side, activation = architecture.resolution, architecture.activation
    title = f"{_short(total.params)} params, {_short(total.macs)} MACs at {side} × {side} px"
    shares = [(right + COST, "params", [row.params for row in rows]), (width, "MACs", [row.macs for row in rows])]
    return Drawing(
        "".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="network" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" role="img" aria-label="{title}"><style>{STYLE}</style>',
                _text(0, 15, title, "title"),
                _text(0, 31, f"{num_classes} classes; {activation} in stem and head; {architecture.convention} padding", "quiet"),
                *(_row(row, top, per_line) for row, top in zip(rows, tops, strict=False)),
                *(_costs(x, label, values, tops) for x, label, values in shares),
                "</svg>",
            ]
        )
    )


def _rows(architecture: Architecture, num_classes: int) -> Iterator[Row]:
    stem, *blocks, head = parts(architecture, num_classes)
    rest = iter(blocks)
    stages = [list(itertools.islice(rest, len(stage))) for stage in architecture.stages]
    names = ["stem", *(f"stage {number}" for number in range(1, len(stages) + 1)), "head"]
    for name, members in zip(names, [[stem], *stages, [head]], strict=True):
        layers = [layer for part in members for layer in part.layers()]
        boxes = [_head_box(layer) for layer in layers] if name == "head" else list(map(_box, members))
        sizes = (members[0].size, layers[-1].size_out)
        yield Row(name, sizes, boxes, sum(layer.params for layer in layers), sum(layer.macs for layer in layers))


def _box(part: Part) -> Box:
    value = part.value
    if isinstance(value, Stem):
        details = f"conv, kernel 3, stride {value.stride}\n{part.width} to {value.width} channels\n{part.activation}"
        return Box("conv 3×3" + "/2" * (value.stride == 2), f"→ {value.width}", details, 3)
    assert isinstance(value, Block)  # the head's boxes are its layers
    expansion = f"×{value.hidden / part.width:.3g} " if value.hidden else ""
    kernels = f"{value.start_kernel}+{value.kernel}" if value.op == "uib" else f"{value.kernel}×{value.kernel}"
    name = f"{value.op} {kernels}" + "/2" * (value.stride == 2)
    result = f"{expansion}→ {value.width}" + " SE" * bool(value.squeeze)
    return Box(name, result, _details(value, part.width), max(1, value.start_kernel, value.kernel), value.skip)


def _details(block: Block, width_in: int) -> str:
    inside = f", {block.hidden} inside" if block.hidden else ""
    start = f", kernel {block.start_kernel} before the expansion" if block.start_kernel else ""
    squeeze = f"\nsqueeze-and-excite to {block.squeeze} channels, gate {block.gate}" if block.squeeze else ""
    return (
        f"{block.op}, kernel {block.kernel}, stride {block.stride}\n{width_in} to {block.width} channels{inside}{start}{squeeze}"
        f"\n{block.activation}{', skip' if block.skip else ''}"
    )


def _head_box(layer: Layer) -> Box:
    name = "conv 1×1" if layer.kind == "conv" else layer.kind
    result = "→ 1×1" if layer.kind == "pool" else f"→ {layer.width}"
    return Box(name, result, f"{name}\n{layer.width_in} to {layer.width} channels")


def _row(row: Row, top: int, per_line: int) -> str:
    before, behind = row.sizes
    sizes = f"{before} → {behind} px" if before != behind else f"{behind} px"
    boxes = (_draw_box(box, LEFT + i % per_line * STEP[0], top + i // per_line * STEP[1]) for i, box in enumerate(row.boxes))
    return _text(0, top + 15, row.name) + _text(0, top + 29, sizes, "quiet") + "".join(boxes)


def _draw_box(box: Box, x: int, y: int) -> str:
    (width, height), middle = BOX, x + BOX[0] // 2
    arc = f'<path class="line" d="M{x + 9} {y}c0 -9 {width - 18} -9 {width - 18} 0"/>' if box.skip else ""
    return (
        f'<g class="box"><title>{box.details}</title>{arc}'
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{FILLS[box.kernel]}"/>'
        f"{_text(middle, y + 14, box.name, 'inside')}{_text(middle, y + 28, box.result, 'inside')}</g>"
    )


def _costs(right: int, label: str, values: list[int], tops: list[int]) -> str:
    """A column with a number and a bar per stage; the longest bar belongs to the costliest stage."""
    cells, most = [_text(right, TOP - 12, label, "number quiet")], max(values)
    for value, top in zip(values, tops, strict=False):
        length = round((COST - 14) * value / most, 1)
        cells.append(_text(right, top + 15, _short(value), "number"))
        cells.append(f'<rect class="share" x="{right - length:g}" y="{top + 21}" width="{length:g}" height="5" rx="1"/>')
    return "".join(cells)


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}"' + f' class="{kind}"' * bool(kind) + f">{text}</text>"


def _short(count: int) -> str:
    """A count with three digits: `5.48 M`."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:#.3g}".removesuffix(".") + unit
    return str(count)
