"""Run folder → DataFrame, a row per trial whatever happened to it. Needs neither torch nor Ray; works while the search runs."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nas.errors import NasError, unknown
from nas.runs import TRIALS_FILE, read_experiment, read_log

STATUSES: Final = {"start": "running", "infeasible": "infeasible"}

# Columns beside the objectives, the limits' values and the space's parameters (`params.` and the name), with their types.
COLUMNS: Final = {
    "trial": "Int64",  # in the order of proposal, from 0; none for an ask that a limit turned down
    "id": "str",  # of the architecture
    "status": "str",  # done, failed, running (no outcome yet) or infeasible (a limit turned it down; never trained)
    "reason": "str",  # of a failure: oom, nan, crash or interrupted
    "source": "str",  # search; the published network that it is; or `like` one, whose choices it has at another width or size
    "is_front": "bool",  # done, and no other done row is as good on every objective and better on one
    "epochs": "Int64",
    "seconds": "float64",  # of building, training and validating
    "fingerprint": "str",  # of the classes predicted for every validation image
    "device": "str",
    "precision": "str",
    "micro_batch": "Int64",  # images that went through the network at once; fewer than a step's where memory was short
    "peak_memory_mb": "float64",  # of the GPU, 10^6 bytes
    "seed": "int64",
    "error": "str",  # the failure in one sentence
    "architecture": "str",  # the canonical text; none for an ask that a limit turned down
}


def results(run: str | PathLike[str]) -> pd.DataFrame:
    """Every trial of a run folder, and every ask that a limit turned down, in the order of proposal.

    `attrs["directions"]` maps each objective to its direction.

    Raises: NasError if `run` is not a run folder, or is damaged.
    """
    folder = Path(run)
    described = read_experiment(folder)
    directions = {objective["name"]: objective["direction"] for objective in described["objectives"]}
    try:
        rows = _rows(read_log(folder / TRIALS_FILE))
        df = _typed(pd.DataFrame(rows).assign(seed=described["seed"]), directions)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NasError(f"{folder / TRIALS_FILE} is damaged: an event lacks a field or has a wrong one ({error})") from None
    df.attrs["directions"] = directions
    df["is_front"] = _on_front(df, directions)
    return df


def _rows(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of plain values a trial, of all that its events say."""
    rows: dict[Any, dict[str, Any]] = {}
    for line, event in enumerate(events):
        row = rows.setdefault(event.get("trial", f"line {line}"), {})
        values, params = event.pop("values"), event.pop("params", {})
        kind = event.pop("event")
        row |= {"status": STATUSES[kind]} if kind in STATUSES else {}  # the end of a trial brings its own
        row |= event | values | {f"params.{name}": value for name, value in params.items()}
    return list(rows.values())


def _typed(df: pd.DataFrame, directions: Iterable[str]) -> pd.DataFrame:
    """The same rows with every column there, in order, of its own type."""
    params = [column for column in df.columns if column.startswith("params.")]
    measured = [column for column in df.columns if column not in COLUMNS and column not in params]
    measured = list(dict.fromkeys([*directions, *measured]))
    names = list(COLUMNS)
    order = [*names[: names.index("is_front")], *measured, *names[names.index("is_front") :], *params]
    df = df.reindex(columns=order)
    df["is_front"] = False
    return df.astype(COLUMNS | dict.fromkeys(measured, "float64"))


def front(df: pd.DataFrame, directions: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Finished rows that no other row matches on every objective and beats on one; ties are kept. Best first objective first.

    `directions` maps objectives to `minimize` or `maximize`, by default those of the run.
    """
    directions = directions or df.attrs["directions"]
    first = next(iter(directions))
    chosen = df[_on_front(df, directions)]
    return chosen.sort_values(first, ascending=directions[first] == "minimize", kind="stable")


def best(df: pd.DataFrame, objective: str) -> "pd.Series[Any]":
    """The finished row best on one objective; of equals the best on the others in their order, then the earliest.

    Raises: NasError for an objective that the run has not, or a run without a finished trial.
    """
    directions: Mapping[str, str] = df.attrs["directions"]
    if objective not in directions:
        raise unknown("objective", objective, directions)
    done = df[df["status"] == "done"]
    if done.empty:
        raise NasError(f"no trial of this run is done, so none is best on {objective}; see `nas table`")
    order = [objective, *(name for name in directions if name != objective)]
    ranked = done.sort_values([*order, "trial"], ascending=[*(directions[name] == "minimize" for name in order), True])
    return ranked.iloc[0]


def _on_front(df: pd.DataFrame, directions: Mapping[str, str]) -> "pd.Series[bool]":
    """Which rows are done and not dominated."""
    for name, direction in directions.items():
        if direction not in ("minimize", "maximize"):
            raise NasError(f"{name}: {direction!r} is not one of minimize, maximize")
    signs = {name: 1.0 if direction == "minimize" else -1.0 for name, direction in directions.items()}
    done = df[df["status"] == "done"]
    losses = [tuple(row) for row in (done[list(signs)] * pd.Series(signs)).itertuples(index=False)]
    return pd.Series(non_dominated(losses), index=done.index, dtype=bool).reindex(df.index, fill_value=False)


def non_dominated(losses: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other point matches on every loss and beats on one; equal points stand or fall together."""
    kept = [False] * len(losses)
    found: list[tuple[float, ...]] = []
    for i in sorted(range(len(losses)), key=losses.__getitem__):  # a point can only be dominated by one sorted before it
        if not any(other != losses[i] and all(map(float.__le__, other, losses[i])) for other in found):
            kept[i] = True
            found.append(losses[i])
    return kept
