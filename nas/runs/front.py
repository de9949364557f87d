"""The Pareto front of a table of results, and the row that is best on an objective; both go by what is believed."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from nas.errors import NasError, unknown_name
from nas.objectives import loss
from nas.runs.pareto import Losses, non_dominated
from nas.runs.trial import Status, Weights


def as_believed(df: pd.DataFrame) -> pd.DataFrame:
    """The table with the believed top-1 in place of the measured one, where there is one; its `titles` say so.

    Without a belief, a network that was trained with several seeds has their mean.
    """
    name = df.attrs.get("learning_curve") or "val_top1_pct"  # a CSV file has no attrs
    if name not in df or "val_top1_pct_believed" not in df:
        return df
    believed = df["val_top1_pct_believed"]
    if {"run", "id", "source", "status", "weights"} <= set(df.columns):
        network = df["run"].astype(str) + df["id"].astype(str)
        trained = (df["status"] == Status.DONE) & (df["weights"] == Weights.TRAINED)
        repeated = trained & network.isin(network[df["source"] == "repeat"])
        believed = believed.fillna(df[name][repeated].groupby(network[repeated]).transform("mean"))
    replaced, titles = df.assign(**{name: believed.fillna(df[name])}), df.attrs.get("titles", {})
    if name in titles and believed.notna().any():
        replaced.attrs["titles"] = titles | {name: f"believed {titles[name]}"}
    return replaced


def objectives_of(df: pd.DataFrame, other: Mapping[str, str] | None = None, *, needs: Iterable[str] = ()) -> Mapping[str, str]:
    """`other`, or else the directions of the table's `attrs`: objective → `minimize` or `maximize`.

    Raises: NasError if the table has lost them, a direction is another word, or an objective or one of `needs` has no column.
    """
    directions: Mapping[str, str] | None = other or df.attrs.get("directions")
    if not directions:
        raise NasError(
            "this table does not say its objectives, as merge, concat and CSV files lose attrs; give "
            'directions={"val_top1_pct": "maximize", "macs_m": "minimize"} with yours, or set df.attrs["directions"] to that'
        )
    for name, direction in directions.items():
        if direction not in ("minimize", "maximize"):
            raise NasError(f"{name}: {direction!r} is not one of minimize, maximize")
    for name in (*directions, *needs):
        if name not in df:
            raise unknown_name("column", name, map(str, df.columns))
    return directions


def is_true(column: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each value of a column of booleans is true; those of a merged table or of a file may be missing, or texts."""
    return column.isin([True, "True", "TRUE"])


def front(df: pd.DataFrame, directions: Mapping[str, str] | None = None, *, measured: bool = False) -> pd.DataFrame:
    """The Pareto front: done rows that no other row dominates, ties included; the best on the first objective comes first.

    Networks are compared by their believed top-1, where they have one; with `measured`, by what was measured, which favours the
    luckiest trainings. Without `directions`, the front of each run under its own objectives and limits. With them (objective →
    `minimize` or `maximize`), one front of all rows under these objectives, without limits.

    Raises: NasError if the table has lost a column that this needs, or its `attrs` and `directions` are not given.
    """
    is_marked = not directions and not measured
    needs = ["is_front"] if is_marked else ["status"] if directions else ["status", "within_limits", "run"]
    named = objectives_of(df, directions, needs=needs)
    table = (df if measured else as_believed(df)).reset_index(drop=True)
    if is_marked:
        kept = table[is_true(table["is_front"])]
    else:
        groups = [table] if directions else [rows for _, rows in table[is_true(table["within_limits"])].groupby("run")]
        kept = pd.concat([table[:0], *(rows[rows_on_front(rows, named)] for rows in groups)])
    first = next(iter(named))
    return df.iloc[kept.sort_values(first, ascending=named[first] == "minimize", kind="stable").index]


def best(
    df: pd.DataFrame, objective: str, directions: Mapping[str, str] | None = None, *, within_error: bool = False
) -> "pd.Series[Any]":
    """The done row within the limits that is best on one objective; among equals, the best on the other objectives in order.

    Of the top-1 the believed one counts, where there is one.
    `directions` (objective → `minimize` or `maximize`) replaces those of the table's runs.

    Raises: NasError for an objective that is not the run's, a table that has lost what this needs, or has no done trial; and,
    unless `within_error`, if the second-best network differs by less than the latency table's error.
    """
    directions = objectives_of(df, directions, needs=("status", "within_limits", "trial", "id"))
    if objective not in directions:
        raise unknown_name("objective", objective, directions)
    table = as_believed(df).reset_index(drop=True)
    done = table[(table["status"] == Status.DONE) & is_true(table["within_limits"])].dropna(subset=list(directions))
    if done.empty:
        raise NasError(f"no trial here is done, so none is best on {objective}; see `nas table`")
    order = [objective, *(name for name in directions if name != objective)]
    ranked = done.sort_values([*order, "trial"], ascending=[*(directions[name] == "minimize" for name in order), True])
    first, others = ranked.iloc[0], ranked[ranked["id"] != ranked.iloc[0]["id"]]
    if not within_error and not others.empty and not _differ(df, objective, first[objective], others.iloc[0][objective]):
        two = " and ".join(f"trial {row['trial']} ({row[objective]:.4g})" for row in (first, others.iloc[0]))
        raise NasError(
            f"{two} differ on {objective} by less than the {df.attrs['table_error_pct'][objective]:.1f} % error of the latency "
            "table; measure them with `nas measure`, or rank them anyway with --within-error"
        )
    row: pd.Series[Any] = df.iloc[ranked.index[0]]
    return row


def _differ(df: pd.DataFrame, objective: str, *values: float) -> bool:
    """Whether values differ by more than the latency table's error; True for an objective without such an error."""
    error_pct = df.attrs.get("table_error_pct", {}).get(objective)
    return error_pct is None or max(values) > min(values) * (1 + error_pct / 100)


def close_pairs(df: pd.DataFrame) -> dict[str, list[tuple[int, int]]]:
    """Objective → pairs of neighbours on the front that differ by less than the latency table's error."""
    close = {}
    for name in df.attrs["table_error_pct"]:
        rows = front(df).drop_duplicates("id").sort_values(name)
        neighbours = pairwise(zip(rows["trial"].tolist(), rows[name].tolist(), strict=True))
        close[name] = [
            (one, other) for (one, value), (other, next_value) in neighbours if not _differ(df, name, value, next_value)
        ]
    return {name: pairs for name, pairs in close.items() if pairs}


def losses(df: pd.DataFrame, directions: Mapping[str, str]) -> list[Losses]:
    """The losses of each row: its values of the objectives, negated where higher is better."""
    columns = ([loss(float(value), direction) for value in df[name]] for name, direction in directions.items())
    return list(zip(*columns, strict=True))


def rows_on_front(df: pd.DataFrame, directions: Mapping[str, str]) -> "pd.Series[bool]":
    """Whether each row is done and not dominated."""
    done = df[df["status"] == Status.DONE].dropna(subset=list(directions))  # a baseline may lack a value
    on_front = pd.Series(non_dominated(losses(done, directions)), index=done.index, dtype=bool)
    return on_front.reindex(df.index, fill_value=False)
