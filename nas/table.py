"""Run folder → DataFrame, a row per trial whatever happened to it. Needs neither torch nor Ray; works while the search runs."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nas.columns import HISTORY_TYPES, TYPES
from nas.errors import NasError, unknown
from nas.files import read_lines
from nas.pareto import non_dominated
from nas.runs import CARD_FILE, EXPERIMENT_FILE, FULL, HISTORY_FILE, TRIALS_FILE, read_experiment
from nas.trial import Trial
from nas.trial_log import read_trials

logger = logging.getLogger(__name__)

LATENCY: Final = "latency_ms"

# Columns that are fields of a trial's outcome.
OF_OUTCOME: Final = (*("reason", "error", "epochs", "seconds", "fingerprint", "device", "precision", "peak_memory_mb"),)


def results(*runs: str | PathLike[str]) -> pd.DataFrame:
    """Every trial of the runs, and every ask that was turned down, in the order of proposal; `RESULTS.md` has every column.

    Each of `runs` is a run folder, or a folder of them. `attrs["directions"]` maps each objective to its direction;
    `attrs["latency_error_pct"]` is the mean error of the latency table, the largest of several, None where none was used or it
    was not checked.

    Raises: NasError if one is not a run folder, or is damaged, or if they do not agree on an objective's direction.
    """
    tables = []
    for run in run_folders(*runs):
        try:
            tables.append(_results(run))
        except NasError as error:
            if run in map(Path, runs):
                raise
            logger.warning("%s; it is left out", error)  # one of a folder of runs
    if not tables:
        raise NasError("no run is given that can be read; give run folders, or folders of them")
    if len(tables) == 1:
        return tables[0]
    directions: dict[str, str] = {}
    for table in tables:
        for name, direction in table.attrs["directions"].items():
            if directions.setdefault(name, direction) != direction:
                raise NasError(f"objective {name} is minimized in one of these runs and maximized in another")
    columns = dict.fromkeys(column for table in tables for column in table.columns if column not in TYPES)
    params = [column for column in columns if column.startswith("params.")]
    measured = [column for column in columns if column not in params]
    df = pd.concat([table.astype(object) for table in tables], ignore_index=True)
    errors = [table.attrs["latency_error_pct"] for table in tables if table.attrs["latency_error_pct"] is not None]
    df = _ordered(df, list(dict.fromkeys([*directions, *measured])), params)
    df[params] = _own_types(df[params])
    df.attrs = {"directions": directions, "limits": {}, "latency_error_pct": max(errors, default=None)}
    return df


def run_folders(*runs: str | PathLike[str]) -> list[Path]:
    """The run folders that are given, or that lie in the folders that are given, each once.

    Raises: NasError for a folder that neither is one nor has any.
    """
    found: list[Path] = []
    for run in runs:
        folder = Path(run)
        inside = (
            [] if (folder / EXPERIMENT_FILE).exists() else sorted(file.parent for file in folder.glob(f"*/{EXPERIMENT_FILE}"))
        )
        if not inside:
            read_experiment(folder)  # raises where it is none
        found += inside or [folder]
    return list({folder.resolve(): folder for folder in found}.values())


def _results(folder: Path) -> pd.DataFrame:
    described = read_experiment(folder)
    directions = {objective["name"]: objective["direction"] for objective in described["objectives"]}
    full = _full_columns(folder)
    trials = read_trials(folder)
    try:
        df = pd.DataFrame([_row(trial) | full.get(trial.number, {}) for trial in trials])
        own = {"seed": described["seed"], "run": folder.resolve().name, "is_front": False, "within_limits": False}
        df = df.assign(**own)
        params = [column for column in df.columns if column.startswith("params.")]
        measured = [column for column in df.columns if column not in (*TYPES, *params)]
        df = _ordered(df, list(dict.fromkeys([*directions, *measured])), params)
        df[params] = _own_types(df[params])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NasError(f"{folder / TRIALS_FILE} is damaged: an event lacks a field or has a wrong one ({error})") from None
    limits = described["limits"]
    df.attrs["directions"] = directions
    df.attrs["limits"] = {limit["objective"]["name"]: (float(limit["low"]), float(limit["high"])) for limit in limits}
    df.attrs["latency_error_pct"] = described["latency_error_pct"]
    df["within_limits"] = _within_limits(df)
    df["is_front"] = _on_front(df[df["within_limits"]], directions).reindex(df.index, fill_value=False)
    return df


def _own_types(params: pd.DataFrame) -> pd.DataFrame:
    """Parameters as the space has them, whole numbers and truths too where some are missing; as texts where runs differ."""
    typed = params.convert_dtypes()
    mixed = [name for name in typed.columns if typed[name].dtype == object]
    return typed.astype(dict.fromkeys(mixed, "str"))


def _ordered(df: pd.DataFrame, measured: list[str], params: list[str]) -> pd.DataFrame:
    """The same rows with every column there, in order, of its own type."""
    names = list(TYPES)
    order = [*names[: names.index("is_front")], *measured, *names[names.index("is_front") :], *params]
    df = df.reindex(columns=order)
    for name in ("started", "ended"):
        df[name] = pd.to_datetime(df[name], utc=True)
    return df.astype(TYPES | dict.fromkeys(measured, "float64"))


def history(*runs: str | PathLike[str]) -> pd.DataFrame:
    """Every epoch of every trial of the runs, each a run folder or a folder of them; `RESULTS.md` has every column.

    Raises: NasError if one is not a run folder, or is damaged.
    """
    lines = [line | {"run": run.resolve().name} for run in run_folders(*runs) for line in read_lines(run / HISTORY_FILE)]
    try:
        return pd.DataFrame(lines, columns=list(HISTORY_TYPES)).astype(HISTORY_TYPES)
    except (TypeError, ValueError) as error:
        raise NasError(f"{HISTORY_FILE} of {', '.join(map(str, runs))} is damaged: {error}") from None


def _row(trial: Trial) -> dict[str, Any]:
    """The columns of a trial."""
    own = {name: getattr(trial, name) for name in ("id", "source", "name", "started", "ended", "architecture", "is_baseline")}
    of_outcome = {name: getattr(trial.outcome, name, None) for name in OF_OUTCOME}
    again = {"retries": trial.retries or None, "crashes": trial.crashes or None}
    params = {f"params.{name}": value for name, value in trial.params.items()}
    values = dict(trial.values)
    return {"trial": trial.number, "status": trial.status.value} | own | of_outcome | again | values | params


@dataclass(frozen=True, slots=True, kw_only=True)
class FullTraining:
    """What came of a training to the end (`nas verify`)."""

    trial: int
    epochs: int
    val_top1_pct: float
    test_top1_pct: float


def full_trainings(run: Path) -> list[FullTraining]:
    """Those of a run, in no order.

    Raises: NasError for a card that is damaged.
    """
    found = []
    for file in sorted((run / FULL).glob(f"trial*-seed*-epochs*/{CARD_FILE}")):
        try:
            card = json.loads(file.read_text(encoding="utf-8"))
            found.append(
                FullTraining(
                    trial=int(file.parent.name.removeprefix("trial").partition("-")[0]),
                    epochs=int(card["train"]["epochs"]),
                    val_top1_pct=float(card["accuracy"]["val_top1_pct"]),
                    test_top1_pct=float(card["accuracy"]["test_top1_pct"]),
                )
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            raise NasError(f"{file} is damaged; remove its folder, and `nas verify` trains it again") from None
    return found


def _full_columns(run: Path) -> dict[Any, dict[str, float]]:
    """Trial → its full trainings of the most epochs."""
    of_trials: dict[int, list[FullTraining]] = {}
    for training in full_trainings(run):
        of_trials.setdefault(training.trial, []).append(training)
    columns: dict[Any, dict[str, float]] = {}
    for trial, trainings in of_trials.items():
        epochs = max(training.epochs for training in trainings)
        tests = pd.Series([training.test_top1_pct for training in trainings if training.epochs == epochs])
        vals = pd.Series([training.val_top1_pct for training in trainings if training.epochs == epochs])
        columns[trial] = {
            "full_val_top1_pct": float(vals.mean()),
            "full_test_top1_pct": float(tests.mean()),
            "full_test_sd_pct": float(tests.std()),
            "full_seeds": len(tests),
            "full_epochs": epochs,
        }
    return columns


def _within_limits(df: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are points of the space within the limits of the run's last session; earlier ones may have had wider limits."""
    params = [column for column in df.columns if column.startswith("params.")]
    within = df[params].notna().any(axis=1) if params else pd.Series(data=True, index=df.index)
    for name, (low, high) in df.attrs["limits"].items():
        if name in df:  # else it is new, and nothing has been measured yet
            within &= df[name].between(low, high) | df[name].isna()
    return within.astype(bool)


def front(df: pd.DataFrame, directions: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Finished rows that no other row matches on every objective and beats on one; ties are kept. Best first objective first.

    `directions` maps objectives to `minimize` or `maximize`, by default those of the run, whose limits hold then too. Of several
    runs the networks of each run's front, unless `directions` are given.
    """
    chosen = df[df["is_front"] if directions is None else _on_front(df, directions)]
    directions = directions or df.attrs["directions"]
    first = next(iter(directions))
    return chosen.sort_values(first, ascending=directions[first] == "minimize", kind="stable")


def best(df: pd.DataFrame, objective: str, *, within_error: bool = False) -> "pd.Series[Any]":
    """The finished row within the limits best on one objective; of equals the best on the others in their order.

    Raises: NasError for an objective that the run has not, or a table without a finished trial; and, unless `within_error`, where
    another network's latency is nearer than the latency table's error.
    """
    directions: Mapping[str, str] = df.attrs["directions"]
    if objective not in directions:
        raise unknown("objective", objective, directions)
    done = df[(df["status"] == "done") & df["within_limits"]].dropna(subset=list(directions))
    if done.empty:
        raise NasError(f"no trial here is done, so none is best on {objective}; see `nas table`")
    order = [objective, *(name for name in directions if name != objective)]
    ranked = done.sort_values([*order, "trial"], ascending=[*(directions[name] == "minimize" for name in order), True])
    chosen, others = ranked.iloc[0], ranked[ranked["id"] != ranked.iloc[0]["id"]]
    if (
        objective == LATENCY
        and not within_error
        and not others.empty
        and not _told_apart(df, chosen[LATENCY], others[LATENCY].min())
    ):
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
    done = df[df["status"] == "done"].dropna(subset=list(signs))  # of a baseline not everything may be known
    losses = [tuple(row) for row in (done[list(signs)] * pd.Series(signs)).itertuples(index=False)]
    return pd.Series(non_dominated(losses), index=done.index, dtype=bool).reindex(df.index, fill_value=False)
