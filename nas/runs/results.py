"""Run folder → DataFrame, one row per trial of any status. Needs neither torch nor Ray; works while the search runs."""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from operator import itemgetter
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pandas.errors import UndefinedVariableError

from nas.errors import NasError, unknown_name, user_code
from nas.models.network import CARD_FILE
from nas.runs.alone import read_alone
from nas.runs.beliefs import Belief, read_beliefs
from nas.runs.columns import HISTORY_TYPES, PARAM_PREFIXES, SETTINGS, TYPES
from nas.runs.front import as_believed, rows_on_front
from nas.runs.run_folder import EXPERIMENT_FILE, FULL, directions_of, read_experiment
from nas.runs.trial import Status, Trial, Weights
from nas.runs.trial_log import read_history, read_trials
from nas.training.settings import TrainSettings
from nas.training.tuned import PREFIX, setting_changes, settings_with

logger = logging.getLogger(__name__)

SETTING_TYPES: Final = {float: "Float64", int: "Int64", str: "str"}  # type of a training setting → dtype of its column


def results(*runs: str | PathLike[str]) -> pd.DataFrame:
    """Every trial and every skipped proposal of the runs, in the order of proposal; `RESULTS.md` explains every column.

    Each of `runs` is a run folder or a folder of run folders; a damaged run in the latter is left out. `RESULTS.md` also explains
    `attrs`. For several runs, its `limits` are empty, and `table_error_pct` has the largest error of each objective.

    Raises: NasError if one is no run folder or is damaged, if none can be read, or if an objective's direction differs.
    """
    named = {Path(run).expanduser() for run in runs}
    read = (_results(run) if run in named else _readable(run) for run in run_folders(*runs))
    tables = [table for table in read if table is not None]
    if not tables:
        raise NasError("no run can be read; give run folders, or folders of them")
    return tables[0] if len(tables) == 1 else _joined(tables)


def _readable(run: Path) -> pd.DataFrame | None:
    """The table of a run; None, with a warning, if it is damaged."""
    try:
        return _results(run)
    except NasError as error:
        logger.warning("%s; it is left out", error)
        return None


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several runs in one table.

    Raises: NasError if the runs differ in an objective's direction.
    """
    directed = list(dict.fromkeys(chain.from_iterable(table.attrs["directions"].items() for table in tables)))
    directions = dict(directed)
    if len(directions) < len(directed):
        name = Counter(name for name, _ in directed).most_common(1)[0][0]
        raise NasError(f"objective {name} is minimized in one of these runs and maximized in another")
    pairs = chain.from_iterable(table.attrs["table_error_pct"].items() for table in tables)
    errors = dict(sorted(pairs, key=itemgetter(1)))  # the largest error of each objective comes last, and stays
    df = _ordered(pd.concat([table.astype(object) for table in tables], ignore_index=True), directions)
    curves = [table.attrs["learning_curve"] for table in tables if table.attrs["learning_curve"]]
    titles = dict(chain.from_iterable(table.attrs["titles"].items() for table in tables))
    df.attrs = {"directions": directions, "limits": {}, "titles": titles}
    df.attrs |= {"learning_curve": next(iter(curves), None), "table_error_pct": errors}
    df.attrs["proxies"] = list(dict.fromkeys(chain.from_iterable(table.attrs["proxies"] for table in tables)))
    return df


def run_folders(*runs: str | PathLike[str]) -> list[Path]:
    """The run folders among `runs`, and those inside the other folders; each once.

    Raises: NasError for a folder that neither is a run folder nor has one.
    """
    folders: list[Path] = []
    for folder in (Path(run).expanduser() for run in runs):
        is_run = (folder / EXPERIMENT_FILE).exists()
        inside = [] if is_run else sorted(file.parent for file in folder.glob(f"*/{EXPERIMENT_FILE}"))
        if not inside:
            read_experiment(folder)  # raises if it is no run folder
        folders += inside or [folder]
    return list({folder.resolve(): folder for folder in folders}.values())


def _results(folder: Path) -> pd.DataFrame:
    described = read_experiment(folder)
    objectives, limits = described["objectives"], described["limits"]
    directions = directions_of(described)
    proxies = [one["name"] for one in objectives if not one["steers"]]
    trials = list(read_trials(folder))
    full, alone = (columns.to_dict("index") for columns in (_full_columns(folder, trials), _alone_columns(folder)))
    beliefs = read_beliefs(folder)
    df = pd.DataFrame(
        _row(trial) | full.get(trial.id, {}) | alone.get(trial.number, {}) | _belief_of(trial, beliefs) for trial in trials
    )
    df = df.assign(run=folder.resolve().name, is_front=False, within_limits=False)
    df["seed"] = df["seed"].fillna(described["seed"]) if "seed" in df else described["seed"]
    df = _ordered(df, [*directions, *proxies])
    error_pct = described["latency_error_pct"]
    df.attrs = {
        "directions": directions,
        "limits": {one["objective"]["name"]: [_bound(one["low"]), _bound(one["high"])] for one in limits},
        "titles": {one["name"]: one["title"] for one in (*objectives, *(limit["objective"] for limit in limits))},
        "learning_curve": next((one["name"] for one in objectives if one["learning_curve"] and one["steers"]), None),
        "proxies": proxies,
        "table_error_pct": {one["name"]: error_pct for one in objectives if one["has_table_error"] and error_pct is not None},
    }
    df["gain_pct"] = _gain_pct(df)
    df["within_limits"] = _within_limits(df)
    ordered = df if df.attrs["learning_curve"] is None else df.sort_values(df.attrs["learning_curve"], kind="stable")
    within = as_believed(df).loc[ordered.index[ordered["within_limits"]]]  # of several seeds the most accurate comes last
    latest = within.drop_duplicates(["id", "status", *directions], keep="last")  # fine-tuning may change nothing
    df["is_front"] = rows_on_front(latest, directions).reindex(df.index, fill_value=False)
    return df


def _bound(value: float | str) -> float | None:
    """A limit's bound; None for an infinite one, which JSON does not have."""
    return float(value) if math.isfinite(float(value)) else None


def _ordered(df: pd.DataFrame, objectives: Iterable[str]) -> pd.DataFrame:
    """The rows with every column of `RESULTS.md`, in its order and with its dtype.

    A parameter whose type differs between runs becomes a text.
    """
    params = [column for column in df.columns if column.startswith(PARAM_PREFIXES)]
    settings = {name: _setting_dtype(name) for name in params if name.startswith(SETTINGS)}
    measured = list(dict.fromkeys([*objectives, *measured_columns(df)]))
    names = list(TYPES)
    front = names.index("is_front")
    df = df.reindex(columns=[*names[:front], *measured, *names[front:], *params])
    for name in ("started", "ended"):
        df[name] = pd.to_datetime(df[name], utc=True).dt.tz_localize(None)  # Excel has no time zones
    typed = df[params].convert_dtypes()  # nullable dtypes, as some values are missing
    df[params] = typed.astype({name: "str" for name in params if typed[name].dtype == object} | settings)
    return df.astype(TYPES | dict.fromkeys(measured, "float64"))


def _setting_dtype(column: str) -> str:
    """The dtype of a training setting's column; whole numbers are no integers where the setting is none."""
    return SETTING_TYPES[type(getattr(TrainSettings(), column.removeprefix(SETTINGS)))]


def measured_columns(df: pd.DataFrame) -> list[str]:
    """The names of the columns of objectives, optimised, limited or only to look at."""
    return [name for name in df.columns if name not in TYPES and not name.startswith(PARAM_PREFIXES)]


def history(*runs: str | PathLike[str]) -> pd.DataFrame:
    """Every epoch of every trial of the runs, each a run folder or a folder of them; `RESULTS.md` explains every column.

    Raises: NasError if one is no run folder or is damaged.
    """
    lines = [
        asdict(epoch) | {"trial": trial, "run": run.resolve().name}
        for run in run_folders(*runs)
        for trial, epoch in read_history(run)
    ]
    return pd.DataFrame(lines, columns=list(HISTORY_TYPES)).astype(HISTORY_TYPES)


def _row(trial: Trial) -> dict[str, Any]:
    """The columns of a trial."""
    fields = {name: getattr(part, name) for part in (trial.outcome, trial) for name in TYPES if hasattr(part, name)}
    counts = {"trial": trial.number, "retries": trial.retries or None, "crashes": trial.crashes or None}
    settings = {SETTINGS + name: value for name, value in setting_changes(trial.params).items()}
    params = {f"params.{name}": value for name, value in trial.params.items() if not name.startswith(PREFIX)}
    return fields | counts | dict(trial.values) | params | settings


def settings_of(row: "pd.Series[Any]", train: TrainSettings) -> TrainSettings:
    """The settings of the trial of a row, where `train` are those that all trials of its run share."""
    own = {}
    for column, value in row.items():
        name = str(column).removeprefix(SETTINGS)
        if name != column and pd.notna(value):
            own[PREFIX + name] = type(getattr(train, name))(value)
    return settings_with(train, own)


def full_trainings(run: Path) -> pd.DataFrame:
    """A run's full trainings (`nas verify`), one row each: `trial`, `epochs`, `val_top1_pct`, `test_top1_pct`.

    Raises: NasError for a damaged card.
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


def _full_columns(run: Path, trials: Iterable[Trial]) -> pd.DataFrame:
    """For each network, by its id, means and standard deviation over the seeds of its longest full trainings."""
    full = full_trainings(run)
    full["id"] = full["trial"].map({trial.number: trial.id for trial in trials})
    longest = full[full["epochs"] == full.groupby("id")["epochs"].transform("max")]
    return longest.groupby("id").agg(
        full_val_top1_pct=("val_top1_pct", "mean"),
        full_test_top1_pct=("test_top1_pct", "mean"),
        full_test_sd_pct=("test_top1_pct", "std"),
        full_seeds=("epochs", "size"),
        full_epochs=("epochs", "max"),
    )


def _alone_columns(run: Path) -> pd.DataFrame:
    """For each trial, the mean over the seeds of its network's further trainings."""
    alone = pd.DataFrame(read_alone(run), columns=["trial", "val_top1_pct"])
    return alone.groupby("trial").agg(alone_val_top1_pct=("val_top1_pct", "mean"), alone_seeds=("val_top1_pct", "size"))


def _belief_of(trial: Trial, beliefs: Mapping[str, Belief]) -> dict[str, float]:
    """The columns of what is believed of a trial's network, for a done trial that the sampler chose."""
    belief = beliefs.get(trial.id)
    if belief is None or trial.status is not Status.DONE or trial.weights is not Weights.TRAINED or trial.is_baseline:
        return {}
    return {"val_top1_pct_believed": belief.mean, "val_top1_pct_believed_sd": belief.deviation}


def _gain_pct(df: pd.DataFrame) -> "pd.Series[Any]":
    """For each row, its top-1 minus that of the trial that its network comes from; missing for a row without such a trial."""
    if df.attrs["learning_curve"] is None:
        return pd.Series(math.nan, index=df.index)
    top1 = df.dropna(subset="trial").set_index("trial")[df.attrs["learning_curve"]]
    before = top1.reindex(df["from_trial"]).set_axis(df.index)
    gain: pd.Series[Any] = df[df.attrs["learning_curve"]] - before
    return gain


def _within_limits(df: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each row is in the space and within the limits of the last session; those of earlier sessions do not count."""
    params = [column for column in df.columns if column.startswith(PARAM_PREFIXES)]
    within = df[params].notna().any(axis=1)
    for name, (low, high) in df.attrs["limits"].items():
        if name in df:  # a new limit has no column before the first measurement
            bounds = (-math.inf if low is None else low, math.inf if high is None else high)
            within &= df[name].between(*bounds) | df[name].isna()
    return within.astype(bool)


def select(df: pd.DataFrame, conditions: str) -> pd.DataFrame:
    """The rows that meet a condition such as `macs_m < 60 and status == 'done'`, in the syntax of `DataFrame.query`.

    Names with dots, such as `params.stage3.depth` and `settings.lr`, need no quotes.
    Raises: NasError if it is no condition, or names a column that does not exist.
    """
    prefixes = "|".join(map(re.escape, PARAM_PREFIXES))
    dotted = re.sub(rf"(?<![\w`.'\"])({prefixes})\w+(\.\w+)*", r"`\g<0>`", conditions)
    with user_code(f"where {conditions!r}"):
        try:
            meets = df.eval(dotted, engine="python")
        except UndefinedVariableError as error:
            name = str(error).split("'")[1].removeprefix("BACKTICK_QUOTED_STRING_").replace("_DOT_", ".")
            raise unknown_name("column", name, df.columns) from None
    if not isinstance(meets, pd.Series) or not pd.api.types.is_bool_dtype(meets):
        raise NasError(
            f"where {conditions!r} is not true or false for each row; write for example \"macs_m < 60 and status == 'done'\""
        )
    return df[meets.fillna(value=False).astype(bool)]
