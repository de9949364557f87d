"""Draws the table of the line as SVG: top-1 over multiply-adds, parameters and latency, with a number at each network."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import product
from typing import Final, NamedTuple

import pandas as pd

AXES: Final = {"macs_m": "multiply-adds, M", "params_m": "parameters, M", "latency_ms": "latency, ms, one thread"}
FILLS: Final = ("#e69f00", "#cc79a7", "#56b4e9", "#009e73")  # one for each kind of images, after Okabe and Ito's palette
WIDTH, HEIGHT = 250, 300  # pixels, of one panel
LEFT, TOP, GAP = 46, 26, 34
LEGEND: Final = 210  # its width, pixels
SIDE: Final = 13  # of a number, pixels: no two numbers are nearer
STYLE: Final = """
.line{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif;fill:currentColor}
.line .axis{stroke:currentColor;stroke-width:1;opacity:.2}
.line .middle{text-anchor:middle}
.line .end{text-anchor:end}
.line .thread{stroke:currentColor;stroke-width:.7;opacity:.5}
@media(prefers-color-scheme:dark){.line:root{color:#e8eaed}}
"""


class Scale(NamedTuple):
    """A logarithmic axis from 10^low to 10^high, over WIDTH pixels."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """The place of a value, pixels from the left."""
        return WIDTH * (math.log10(value) - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """The powers of ten on the axis."""
        return [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1)]


def draw_line(df: pd.DataFrame) -> str:
    """The SVG of a line's table: a panel for each cost. Networks without a top-1 or a cost are left out of the panel."""
    names = list(dict.fromkeys(df["images"]))
    fills = [FILLS[names.index(name) % len(FILLS)] for name in df["images"]]
    panels = "".join(
        f'<g transform="translate({LEFT + i * (WIDTH + GAP)},{TOP})">{"".join(_panel(df, cost, title, fills))}</g>'
        for i, (cost, title) in enumerate(AXES.items())
    )
    legend = "".join(_legend(df, names, fills))
    left = LEFT + len(AXES) * (WIDTH + GAP)
    width, height = left + LEGEND, max(TOP + HEIGHT + 48, TOP + 16 * (len(df) + len(names) + 1))
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="line" {size} role="img" aria-label="top-1 over costs">'
        f'<style>{STYLE}</style>{panels}<g transform="translate({left},{TOP})">{legend}</g></svg>\n'
    )


def _panel(df: pd.DataFrame, cost: str, title: str, fills: Sequence[str]) -> Iterator[str]:
    """Axes, points and their numbers."""
    for pct in range(0, 101, 20):
        yield f'<path class="axis" d="M0 {_y(pct):.1f}h{WIDTH}"/>'
        yield f'<text class="end" x="-6" y="{_y(pct) + 4:.1f}">{pct}</text>' if cost == next(iter(AXES)) else ""
    yield f'<text class="middle" x="{WIDTH / 2}" y="{HEIGHT + 36}">{title}</text>'
    yield '<text x="-38" y="-12">top-1 on the test part, %</text>' if cost == next(iter(AXES)) else ""
    drawn = df[df[cost].notna() & df["test_top1_pct"].notna()]
    if drawn.empty:
        return
    logs = [math.log10(value) for value in (drawn[cost].min(), drawn[cost].max())]
    scale = Scale(logs[0] - 0.2, logs[1] + 0.2)
    for tick in scale.ticks:
        yield f'<path class="axis" d="M{scale.x(tick):.1f} 0v{HEIGHT}"/>'
        yield f'<text class="middle" x="{scale.x(tick):.1f}" y="{HEIGHT + 17}">{tick:g}</text>'
    points = {row: (scale.x(drawn[cost][row]), _y(drawn["test_top1_pct"][row])) for row in drawn.index}
    labels = _place(list(points.values()))
    for (row, (x, y)), (at_x, at_y) in zip(points.items(), labels, strict=True):
        yield f'<path class="thread" d="M{x:.1f} {y:.1f}L{(x + at_x) / 2:.1f} {(y + at_y) / 2:.1f}"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fills[row]}"/>'
        yield f'<text class="middle" x="{at_x:.1f}" y="{at_y + 4:.1f}">{row + 1}</text>'


def _y(pct: float) -> float:
    return HEIGHT * (1 - pct / 100)


def _place(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A place beside each point for its number, as near as it can be without lying on a point or another number."""
    around = [(radius, 2 * math.pi * turn / 16) for radius, turn in product((13, 19, 26, 34, 44), range(16))]
    placed: list[tuple[float, float]] = []
    for x, y in points:
        places = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for radius, angle in around]
        inside = [(a, b) for a, b in places if 0 <= a <= WIDTH and 0 <= b <= HEIGHT]
        free = [
            place for place in inside if all(math.dist(place, other) >= SIDE for other in (*placed, *points) if other != (x, y))
        ]
        placed.append((free or inside)[0])
    return placed


def _legend(df: pd.DataFrame, names: Sequence[str], fills: Sequence[str]) -> Iterator[str]:
    """The networks by number, under the name of their images."""
    y = 4
    for name in names:
        rows = df.index[df["images"] == name]
        yield f'<circle cx="6" cy="{y - 4}" r="5" fill="{fills[rows[0]]}"/><text x="18" y="{y}" font-weight="600">{name}</text>'
        for row in rows:
            y += 16
            yield f'<text class="end" x="14" y="{y}">{row + 1}</text><text x="22" y="{y}">{escape(df["network"][row])}</text>'
        y += 22
