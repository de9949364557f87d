"""Run folder → DataFrame, a row per trial whatever happened to it. Needs neither torch nor Ray; works while the search runs."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.errors import UndefinedVariableError

from nas.errors import NasError, unknown_name, user_code
from nas.files import read_records
from nas.models.network import CARD_FILE
from nas.objectives import loss
from nas.runs.columns import HISTORY_TYPES, TYPES
from nas.runs.folder import EXPERIMENT_FILE, FULL, HISTORY_FILE, read_experiment
from nas.runs.pareto import Losses, non_dominated
from nas.runs.trial import Status, Trial
from nas.runs.trial_log import read_trials

logger = logging.getLogger(__name__)


def results(*runs: str | PathLike[str]) -> pd.DataFrame:
    """Every trial of the runs, and every proposal that was skipped, in the order of proposal; `RESULTS.md` has every column.

    Each of `runs` is a run folder, or a folder of them. `attrs` tells what the run asked for: `directions`, `limits`,
    `learning_curve` and `table_error_pct`, which `RESULTS.md` describes too; of several runs the largest error counts.

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
    return tables[0] if len(tables) == 1 else _joined(tables)


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several runs.

    Raises: NasError if they do not agree on an objective's direction.
    """
    directions: dict[str, str] = {}
    errors: dict[str, float] = {}
    for table in tables:
        for name, direction in table.attrs["directions"].items():
            if directions.setdefault(name, direction) != direction:
                raise NasError(f"objective {name} is minimized in one of these runs and maximized in another")
        for name, error_pct in table.attrs["table_error_pct"].items():
            errors[name] = max(error_pct, errors.get(name, 0.0))
    df = _ordered(pd.concat([table.astype(object) for table in tables], ignore_index=True), directions)
    curves = [table.attrs["learning_curve"] for table in tables if table.attrs["learning_curve"]]
    df.attrs = {"directions": directions, "limits": {}, "learning_curve": next(iter(curves), None), "table_error_pct": errors}
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
    objectives = described["objectives"]
    full = _full_columns(folder).to_dict("index")
    df = pd.DataFrame([_row(trial) | full.get(trial.number, {}) for trial in read_trials(folder)])
    df = df.assign(seed=described["seed"], run=folder.resolve().name, is_front=False, within_limits=False)
    directions = {objective["name"]: objective["direction"] for objective in objectives}
    df = _ordered(df, directions)
    error_pct = described["latency_error_pct"]
    df.attrs = {
        "directions": directions,
        "limits": {one["objective"]["name"]: (float(one["low"]), float(one["high"])) for one in described["limits"]},
        "learning_curve": next((one["name"] for one in objectives if one["learning_curve"]), None),
        "table_error_pct": {one["name"]: error_pct for one in objectives if one["has_table_error"] and error_pct is not None},
    }
    df["within_limits"] = _within_limits(df)
    df["is_front"] = _on_front(df[df["within_limits"]], directions).reindex(df.index, fill_value=False)
    return df


def _ordered(df: pd.DataFrame, objectives: Iterable[str]) -> pd.DataFrame:
    """The same rows with every column there, in order, of its own type: of parameters, the space's own.

    Parameters that differ in type between runs become texts.
    """
    params = [column for column in df.columns if column.startswith("params.")]
    measured = list(dict.fromkeys([*objectives, *(column for column in df.columns if column not in (*TYPES, *params))]))
    names = list(TYPES)
    front = names.index("is_front")
    df = df.reindex(columns=[*names[:front], *measured, *names[front:], *params])
    for name in ("started", "ended"):
        df[name] = pd.to_datetime(df[name], utc=True)
    typed = df[params].convert_dtypes()  # whole numbers and truths too, where some are missing
    df[params] = typed.astype({name: "str" for name in params if typed[name].dtype == object})
    return df.astype(TYPES | dict.fromkeys(measured, "float64"))


def history(*runs: str | PathLike[str]) -> pd.DataFrame:
    """Every epoch of every trial of the runs, each a run folder or a folder of them; `RESULTS.md` has every column.

    Raises: NasError if one is not a run folder, or is damaged.
    """
    lines = [line | {"run": run.resolve().name} for run in run_folders(*runs) for line in read_records(run / HISTORY_FILE)]
    try:
        return pd.DataFrame(lines, columns=list(HISTORY_TYPES)).astype(HISTORY_TYPES)
    except (TypeError, ValueError) as error:
        raise NasError(f"{HISTORY_FILE} of {', '.join(map(str, runs))} is damaged: {error}") from None


def _row(trial: Trial) -> dict[str, Any]:
    """The columns of a trial."""
    known = {name: getattr(part, name) for part in (trial.outcome, trial) for name in TYPES if hasattr(part, name)}
    again = {"trial": trial.number, "retries": trial.retries or None, "crashes": trial.crashes or None}
    return known | again | dict(trial.values) | {f"params.{name}": value for name, value in trial.params.items()}


def full_trainings(run: Path) -> pd.DataFrame:
    """A run's trainings to the end (`nas verify`): `trial`, `epochs`, `val_top1_pct` and `test_top1_pct` of each.

    Raises: NasError for a card that is damaged.
    """
    rows = []
    for file in sorted((run / FULL).glob(f"trial*-seed*-epochs*/{CARD_FILE}")):
        try:
            card = json.loads(file.read_text(encoding="utf-8"))
            trial, accuracy = int(file.parent.name.removeprefix("trial").partition("-")[0]), card["accuracy"]
            top1 = (float(accuracy[f"{part}_top1_pct"]) for part in ("val", "test"))
            rows.append((trial, int(card["train"]["epochs"]), *top1))
        except (ValueError, KeyError, TypeError):
            raise NasError(f"{file} is damaged; remove its folder, and `nas verify` trains it again") from None
    return pd.DataFrame(rows, columns=["trial", "epochs", "val_top1_pct", "test_top1_pct"])


def _full_columns(run: Path) -> pd.DataFrame:
    """Trial → what its full trainings of the most epochs came to."""
    full = full_trainings(run)
    longest = full[full["epochs"] == full.groupby("trial")["epochs"].transform("max")]
    return longest.groupby("trial").agg(
        full_val_top1_pct=("val_top1_pct", "mean"),
        full_test_top1_pct=("test_top1_pct", "mean"),
        full_test_sd_pct=("test_top1_pct", "std"),
        full_seeds=("epochs", "size"),
        full_epochs=("epochs", "max"),
    )


def _within_limits(df: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are points of the space within the limits of the run's last session; earlier ones may have had wider limits."""
    params = [column for column in df.columns if column.startswith("params.")]
    within = df[params].notna().any(axis=1)
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
    another network is nearer than the latency table's error.
    """
    directions: Mapping[str, str] = df.attrs["directions"]
    if objective not in directions:
        raise unknown_name("objective", objective, directions)
    done = df[(df["status"] == Status.DONE) & df["within_limits"]].dropna(subset=list(directions))
    if done.empty:
        raise NasError(f"no trial here is done, so none is best on {objective}; see `nas table`")
    order = [objective, *(name for name in directions if name != objective)]
    ranked = done.sort_values([*order, "trial"], ascending=[*(directions[name] == "minimize" for name in order), True])
    chosen, others = ranked.iloc[0], ranked[ranked["id"] != ranked.iloc[0]["id"]]
    if not within_error and not others.empty and not _told_apart(df, objective, chosen[objective], others.iloc[0][objective]):
        two = " and ".join(f"trial {row['trial']} ({row[objective]:.4g})" for row in (chosen, others.iloc[0]))
        raise NasError(
            f"{two} are nearer on {objective} than the {df.attrs['table_error_pct'][objective]:.1f} % by which the latency table "
            "errs; measure them with `nas measure`, or rank them all the same with --within-error"
        )
    return chosen


def _told_apart(df: pd.DataFrame, objective: str, *values: float) -> bool:
    """Whether two values differ by more than the latency table errs."""
    error_pct = df.attrs["table_error_pct"].get(objective)
    return error_pct is None or max(values) > min(values) * (1 + error_pct / 100)


def close_pairs(df: pd.DataFrame) -> dict[str, list[tuple[int, int]]]:
    """Objective → trials of the front, next to each other on it, that are nearer than the latency table's error."""
    found = {}
    for name in df.attrs["table_error_pct"]:
        chosen = front(df).drop_duplicates("id").sort_values(name)
        trials, values = chosen["trial"].tolist(), chosen[name].tolist()
        pairs = [i for i in range(len(trials) - 1) if not _told_apart(df, name, values[i], values[i + 1])]
        found[name] = [(trials[i], trials[i + 1]) for i in pairs]
    return {name: pairs for name, pairs in found.items() if pairs}


def losses(df: pd.DataFrame, directions: Mapping[str, str]) -> list[Losses]:
    """The values of objectives in each row, each the lower the better.

    Raises: NasError for a direction that does not exist.
    """
    for name, direction in directions.items():
        if direction not in ("minimize", "maximize"):
            raise NasError(f"{name}: {direction!r} is not one of minimize, maximize")
    columns = ([loss(float(value), direction) for value in df[name]] for name, direction in directions.items())
    return list(zip(*columns, strict=True))


def _on_front(df: pd.DataFrame, directions: Mapping[str, str]) -> "pd.Series[bool]":
    """Which rows are done and not dominated."""
    done = df[df["status"] == Status.DONE].dropna(subset=list(directions))  # of a baseline not everything may be known
    kept = pd.Series(non_dominated(losses(done, directions)), index=done.index, dtype=bool)
    return kept.reindex(df.index, fill_value=False)


def select(df: pd.DataFrame, conditions: str) -> pd.DataFrame:
    """The rows that meet conditions such as `macs_m < 60 and status == 'done'`, as `DataFrame.query` takes them.

    `params.stage3.depth` and others with dots may be written as they are.
    Raises: NasError for what is not a condition, or a column that is not there.
    """
    dotted = re.sub(r"(?<![\w`.'\"])params(\.\w+)+", r"`\g<0>`", conditions)
    with user_code(f"where {conditions!r}"):
        try:
            meets = df.eval(dotted, engine="python")
        except UndefinedVariableError as error:
            name = str(error).split("'")[1].removeprefix("BACKTICK_QUOTED_STRING_").replace("_DOT_", ".")
            raise unknown_name("column", name, df.columns) from None
    if not isinstance(meets, pd.Series) or not pd.api.types.is_bool_dtype(meets):
        raise NasError(f"where {conditions!r} is not true or false of a row; write such as \"macs_m < 60 and status == 'done'\"")
    return df[meets.fillna(value=False).astype(bool)]
