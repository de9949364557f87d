"""Plotly figures of results, for notebooks and pages. The page of a run does not use them: its JavaScript draws its charts."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from plotly.graph_objects import Figure, Scatter

from nas.errors import NasError, unknown_name
from nas.objectives import loss
from nas.runs.front import as_believed, front, is_true, objectives_of
from nas.runs.trial import Status, Weights

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which the colour-blind tell apart."""
SYMBOLS: Final[Mapping[str, str]] = {Weights.FINE_TUNED: "diamond", Weights.SHARED: "circle-open"}  # circles for the others
OTHERS: Final = "#9aa3ad"  # trials off the front, where one run alone is drawn


def plot_front(df: pd.DataFrame, x: str | None = None, y: str | None = None) -> Figure:
    """The done trials of `nas.results` over two objectives, with the front of each run as a line through its networks.

    By default `y` is the run's first objective and `x` its second. With one objective, its values over the trials, and a line
    through each new best one. Of the top-1 the believed one is drawn, where there is one, and the axis says so. The front is
    over the two drawn objectives alone, within the limits. Networks by shared weights are rings, fine-tuned ones diamonds.

    Raises: NasError for an `x` or `y` that is no objective of the table, if both are the same, or a table without its `attrs`.
    """
    directions = objectives_of(df, needs=("run", "status", "within_limits", "trial", "id"))
    for name in (x, y):
        if name is not None and name not in directions:
            raise unknown_name("objective", name, directions)
    y = y or next(name for name in directions if name != x or len(directions) == 1)
    x = x or next((name for name in directions if name != y), "trial")
    if x == y:
        raise NasError(f"x and y are both {x!r}; draw two objectives out of {', '.join(directions)}, or leave x out")
    done = as_believed(df)[df["status"] == Status.DONE].dropna(subset=[x, y])
    runs = list(done["run"].unique())
    figure, titles = Figure(), done.attrs.get("titles", {})
    for run, colour in zip(runs, COLOURS * (len(runs) // len(COLOURS) + 1), strict=False):
        rows = done[done["run"] == run]
        best = _improvements(rows, y) if x == "trial" else _front_line(rows, x, y)
        prefix = f"{run}: " if len(runs) > 1 else ""
        others = {"color": colour, "opacity": 0.35} if prefix else {"color": OTHERS}
        rest = rows.drop(best.index)
        figure.add_trace(_trace(rest, x, y, mode="markers", name=f"{prefix}trials", marker=others | {"size": 7}))
        shape = "vh" if directions.get(x) == "maximize" else "hv"
        line = {"shape": shape, "width": 2, "color": colour}
        name = prefix + ("best so far" if x == "trial" else "front")
        figure.add_trace(_trace(best, x, y, mode="lines+markers", name=name, line=line, marker={"size": 10, "color": colour}))
    return figure.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        xaxis_title=titles.get(x, x),
        yaxis_title=titles.get(y, y),
    )


def _front_line(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The front of one run over both objectives, within the limits, from left to right."""
    directions: dict[str, str] = rows.attrs["directions"]
    line = front(rows[is_true(rows["within_limits"])], {y: directions[y], x: directions[x]})
    return line.sort_values(x, kind="stable")


def _improvements(rows: pd.DataFrame, y: str) -> pd.DataFrame:
    """The trials of one run, within the limits, that are better than every earlier one."""
    ordered = rows[is_true(rows["within_limits"])].sort_values("trial")
    losses = ordered[y].map(lambda value: loss(value, rows.attrs["directions"][y]))
    return ordered[losses < losses.cummin().shift(fill_value=float("inf"))]


def _trace(rows: pd.DataFrame, x: str, y: str, **style: Any) -> Scatter:
    """A trace that shows the trial, its weights, the id and every objective of the network under the pointer."""
    names, titles = list(rows.attrs["directions"]), rows.attrs.get("titles", {})
    weights = rows["weights"].astype(object).fillna("") if "weights" in rows else pd.Series("", index=rows.index)
    style["marker"]["symbol"] = [SYMBOLS.get(one, "circle") for one in weights]
    texts = [f"trial {trial}, {one}".removesuffix(", ") for trial, one in zip(rows["trial"], weights, strict=True)]
    shown = rows[["trial", "id", *names]].astype(object)
    values = "".join(f"<br>{titles.get(name, name)}: %{{customdata[{i}]:.4~g}}" for i, name in enumerate(names, start=2))
    template = f"%{{text}}<br>%{{customdata[1]}}{values}<extra>%{{fullData.name}}</extra>"
    data = {"x": rows[x].tolist(), "y": rows[y].tolist(), "text": texts, "customdata": shown.to_numpy()}
    return Scatter(**data, hovertemplate=template, **style)
