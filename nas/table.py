"""Run folder → DataFrame, a row per trial whatever happened to it. Needs neither torch nor Ray; works while the search runs."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nas.errors import NasError, unknown
from nas.runs import TRIALS_FILE, is_running, read_experiment, read_log

LATENCY: Final = "latency_ms"

# What an event makes of a row; the end of a trial brings its own status.
STATUSES: Final = {
    "start": "running",
    "retry": "running",
    "resume": "running",
    "interrupt": "interrupted",
    "infeasible": "infeasible",
    "repeated": "repeated",
}

# Columns beside the objectives, the limits' values and the space's parameters (`params.` and the name), with their types.
COLUMNS: Final = {
    "trial": "Int64",  # in the order of proposal, from 0; none for an ask that was turned down
    "id": "str",  # of the architecture
    # done; stopped (early, with its values so far); failed; running; interrupted (it can be gone on with); and of asks that were
    # never trained infeasible (beyond a limit) and repeated (of a network that has a trial)
    "status": "str",
    "reason": "str",  # of a failure: oom, nan, crash, timeout or node; limit for what a later limit stopped
    # search; the published network that it is, or `like` one, whose choices it has at another width or size; `start` and the name
    # it was given by; the run and trial whose outcome was taken over; of a repeated ask the trial of its network
    "source": "str",
    "is_front": "bool",  # done, within the limits, and no other such row is as good on every objective and better on one
    "epochs": "Int64",
    "seconds": "float64",  # of building, training and validating
    "fingerprint": "str",  # of the classes predicted for every validation image
    "device": "str",
    "precision": "str",
    "micro_batch": "Int64",  # images that went through the network at once; fewer than a step's where memory was short
    "peak_memory_mb": "float64",  # of the GPU, 10^6 bytes
    "reused": "bool",  # whether the outcome was taken over from another run
    "retries": "Int64",  # after its worker process or machine was lost
    "crashes": "Int64",  # of those, when only the process was
    "seed": "int64",
    "error": "str",  # the failure in one sentence
    "architecture": "str",  # the canonical text; none for an ask that was turned down
}


def results(run: str | PathLike[str]) -> pd.DataFrame:
    """Every trial of a run folder, and every ask that was turned down, in the order of proposal.

    `attrs["directions"]` maps each objective to its direction; `attrs["latency_error_pct"]` is the mean error of the latency table,
    None where none was used or it was not checked.

    Raises: NasError if `run` is not a run folder, or is damaged.
    """
    folder = Path(run)
    described = read_experiment(folder)
    directions = {objective["name"]: objective["direction"] for objective in described["objectives"]}
    try:
        df = _typed(pd.DataFrame(rows(folder)).assign(seed=described["seed"]), directions)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NasError(f"{folder / TRIALS_FILE} is damaged: an event lacks a field or has a wrong one ({error})") from None
    df.attrs["directions"] = directions
    df.attrs["latency_error_pct"] = described["latency_error_pct"]
    limits = described["limits"]
    df.attrs["limits"] = {limit["objective"]["name"]: (float(limit["low"]), float(limit["high"])) for limit in limits}
    df["is_front"] = _on_front(df[_within(df)], directions).reindex(df.index, fill_value=False)
    return df


def rows(run: Path) -> list[dict[str, Any]]:
    """One row of plain values a trial or ask that was turned down, of all that the events of a run folder say.

    Raises: NasError for a damaged log.
    """
    try:
        return _rows(run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NasError(f"{run / TRIALS_FILE} is damaged: an event lacks a field or has a wrong one ({error})") from None


def _rows(run: Path) -> list[dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    so_far: dict[int, list[str]] = {}
    for line, event in enumerate(read_log(run / TRIALS_FILE)):
        row = found.setdefault(event.get("trial", f"line {line}"), {})
        values, params = event.pop("values", {}), event.pop("params", {})
        kind = event.pop("event")
        if kind in STATUSES:
            row["status"] = STATUSES[kind]
        if kind == "end":
            for name in so_far.pop(event["trial"], ()):  # what it had when it was interrupted
                row.pop(name, None)
        if kind == "interrupt":
            so_far[event["trial"]] = [name for name in values if name not in row]
        row.update(event)
        row.update(values)
        row.update({f"params.{name}": value for name, value in params.items()})
    if not is_running(run):  # a driver that was killed wrote no end
        for row in found.values():
            if row["status"] == "running":
                row["status"] = "interrupted"
    return list(found.values())


def num_ended(found: Iterable[Mapping[str, Any]]) -> int:
    """Trials, of the rows of a run, that were trained and have ended."""
    ended = (row for row in found if row["status"] in ("done", "failed", "stopped"))
    return sum("reused" not in row and row.get("reason") != "limit" for row in ended)


def _within(df: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows meet the limits of the run's last session; earlier ones may have had wider limits."""
    within = pd.Series(data=True, index=df.index)
    for name, (low, high) in df.attrs.get("limits", {}).items():
        if name in df:  # else it is new, and nothing has been measured yet
            within &= df[name].between(low, high) | df[name].isna()
    return within


def _typed(df: pd.DataFrame, directions: Iterable[str]) -> pd.DataFrame:
    """The same rows with every column there, in order, of its own type."""
    params = [column for column in df.columns if column.startswith("params.")]
    measured = [column for column in df.columns if column not in COLUMNS and column not in params]
    measured = list(dict.fromkeys([*directions, *measured]))
    names = list(COLUMNS)
    order = [*names[: names.index("is_front")], *measured, *names[names.index("is_front") :], *params]
    df = df.reindex(columns=order)
    df["is_front"] = False
    df["reused"] = df["reused"].eq(other=True)
    return df.astype(COLUMNS | dict.fromkeys(measured, "float64"))


def front(df: pd.DataFrame, directions: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Finished rows that no other row matches on every objective and beats on one; ties are kept. Best first objective first.

    `directions` maps objectives to `minimize` or `maximize`, by default those of the run, whose limits hold then too.
    """
    chosen = df[df["is_front"] if directions is None else _on_front(df, directions)]
    directions = directions or df.attrs["directions"]
    first = next(iter(directions))
    return chosen.sort_values(first, ascending=directions[first] == "minimize", kind="stable")


def best(df: pd.DataFrame, objective: str, *, within_error: bool = False) -> "pd.Series[Any]":
    """The finished row within the limits best on one objective; of equals the best on the others in their order.

    Raises: NasError for an objective that the run has not, or a run without a finished trial; and, unless `within_error`, where
    another network's latency is nearer than the latency table's error.
    """
    directions: Mapping[str, str] = df.attrs["directions"]
    if objective not in directions:
        raise unknown("objective", objective, directions)
    done = df[(df["status"] == "done") & _within(df)]
    if done.empty:
        raise NasError(f"no trial of this run is done, so none is best on {objective}; see `nas table`")
    order = [objective, *(name for name in directions if name != objective)]
    ranked = done.sort_values([*order, "trial"], ascending=[*(directions[name] == "minimize" for name in order), True])
    chosen, others = ranked.iloc[0], ranked[ranked["id"] != ranked.iloc[0]["id"]]
    if objective == LATENCY and not within_error and not others.empty and not _told_apart(df, chosen[LATENCY], others[LATENCY].min()):
        two = " and ".join(f"trial {row['trial']} ({row[LATENCY]:.4g} ms)" for row in (chosen, others.iloc[0]))
        raise NasError(
            f"{two} are nearer than the {df.attrs['latency_error_pct']:.1f} % by which the latency table errs; measure them with "
            "`nas measure`, or rank them all the same with --within-error"
        )
    return chosen


def _told_apart(df: pd.DataFrame, faster: float, slower: float) -> bool:
    error_pct = df.attrs.get("latency_error_pct")
    return error_pct is None or slower > faster * (1 + error_pct / 100)


def close_pairs(df: pd.DataFrame) -> list[tuple[int, int]]:
    """Trials of the front, next to each other by latency, that are nearer than the latency table's error."""
    if LATENCY not in df.attrs["directions"]:
        return []
    chosen = front(df).drop_duplicates("id").sort_values(LATENCY)
    trials, times = chosen["trial"].tolist(), chosen[LATENCY].tolist()
    return [(trials[i], trials[i + 1]) for i in range(len(trials) - 1) if not _told_apart(df, times[i], times[i + 1])]


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
        if not any(dominates(other, losses[i]) for other in found):
            kept[i] = True
            found.append(losses[i])
    return kept


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether the first losses are nowhere higher, and somewhere lower."""
    return one != other and all(map(float.__le__, one, other))


def hypervolume(losses: Iterable[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """The volume that points dominate, out to a reference point; what lies beyond it counts nothing.

    Exact, by slices along the last loss: fine for fronts of some hundred points and two or three losses.
    """
    inside = sorted({point for point in losses if all(map(float.__lt__, point, reference))}, key=lambda point: point[-1])
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - inside[0][0]
    ends = [*(point[-1] for point in inside[1:]), reference[-1]]
    volume = 0.0
    for i, (point, end) in enumerate(zip(inside, ends, strict=True)):
        volume += (end - point[-1]) * hypervolume((other[:-1] for other in inside[: i + 1]), reference[:-1])
    return volume
