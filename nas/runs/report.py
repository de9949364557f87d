"""The page of a run: one HTML file that works offline, made from the run folder alone, also while the search runs.

This file gathers the data; `page/` has the HTML, CSS and JavaScript: read `page/report.js` next. Needs neither torch nor Ray.
"""

import json
import math
import shlex
import warnings
import zlib
from base64 import b64encode
from bisect import bisect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from itertools import chain
from os import PathLike
from pathlib import Path
from string import Template
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import ArchitectureError, NasError
from nas.models.architecture import Architecture
from nas.models.draw import draw
from nas.runs.columns import PARAM_PREFIXES, SETTINGS
from nas.runs.compare import check_order, check_ranking, predictors
from nas.runs.front import as_believed, close_pairs, losses
from nas.runs.images import gone_images
from nas.runs.listing import RunSummary, summarize
from nas.runs.optuna_study import RunStudy
from nas.runs.pareto import Box
from nas.runs.results import history, measured_columns, results
from nas.runs.run_folder import directions_of, read_experiment
from nas.runs.shared_check import check_shared
from nas.runs.shared_weights import read_shared_record
from nas.runs.trial import Status, Weights
from nas.spaces import num_choices

REPORT_FILE: Final = "report.html"
SCRIPTS: Final = ("page.js", "figures.js", "report.js")  # each uses those before it
DIGITS: Final = 7  # significant digits of the numbers in the page's data
CURVE_POINTS: Final = 20_000  # of all learning curves together; longer histories are thinned out
MIN_IMPORTANCE_TRIALS: Final = 8  # done trials needed before importances are shown
MAX_IMPORTANCE_BARS: Final = 15  # most important parameters shown

TEXTS: Final = ("id", "status", "reason", "weights", "source", "name", "device", "precision", "error")
TITLES: Final = {  # columns of a training that can be an axis, and the words for it; an objective has its own title
    "val_top1_pct_believed": "believed top-1 on validation images, %",
    "val_top1_pct_believed_sd": "standard deviation of the believed top-1, %",
    "epochs": "epochs",
    "seconds": "time of the training, s",
    "peak_memory_mb": "peak GPU memory, MB",
    "retries": "retries",
    "val_loss": "cross-entropy on validation images, nat",
    "gain_pct": "gain over the score by shared weights, percentage points",
    "alone_val_top1_pct": "top-1 on validation images in further trainings, %",
    "full_val_top1_pct": "top-1 on validation images, %",
    "full_test_top1_pct": "top-1 on test images, %",
    "full_test_sd_pct": "standard deviation of top-1 on test images, %",
    "full_seeds": "seeds of full trainings",
    "full_epochs": "epochs of full trainings",
}


def write_report(run: str | PathLike[str], output: str | PathLike[str] | None = None) -> Path:
    """Write the page of a run, by default to `report.html` in its folder; returns its path.

    Raises: NasError if `run` is no run folder or is damaged, or the page cannot be written.
    """
    folder = Path(run).expanduser()
    page = _page(gather(folder))
    target = folder / REPORT_FILE if output is None else Path(output).expanduser()
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise NasError(f"{target} cannot be written: {error.strerror or error}; give another file with --output") from None
    return target


def _page(data: Mapping[str, Any]) -> str:
    from plotly.offline import get_plotlyjs

    parts = files("nas.runs") / "page"
    return Template((parts / "report.html").read_text(encoding="utf-8")).substitute(
        style=(parts / "report.css").read_text(encoding="utf-8"),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
        script="\n".join((parts / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )


def gather(run: Path) -> dict[str, Any]:
    """The data of the page, as plain values.

    Raises: NasError if `run` is no run folder or is damaged.
    """
    described, df, curves = read_experiment(run), results(run), history(run)
    trials = df[df["trial"].notna()].reset_index(drop=True)
    summary = summarize(run)
    columns, groups = _columns(trials)
    return {
        "name": run.resolve().name,
        "folder": shlex.quote(str(run)),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "state": summary.state,
        "ended": _ended(summary, described, trials),
        "counts": {str(status): int(count) for status, count in df["status"].value_counts().items()},
        "started": _shown_time(described["sessions"][0]["started"]),
        "facts": [*_facts(described), *(["Images", gone] for gone in [gone_images(run, described)] if gone)],
        "details": json.dumps(described, indent=1, ensure_ascii=False),
        "objectives": [[name, direction] for name, direction in df.attrs["directions"].items()],
        "titles": TITLES | df.attrs["titles"],
        "limits": df.attrs["limits"],
        "learning_curve": df.attrs["learning_curve"],
        "table_error_pct": df.attrs["table_error_pct"],
        "columns": columns,
        "groups": groups,
        "networks": [_network(text, len(described["dataset"]["classes"])) for text in trials["architecture"]],
        "close": close_pairs(df),
        "convergence": convergence(df),
        "curves": _curves(curves),
        "order": [f"{one}." for one in check_order(df, curves, described["train"]["epochs"])],
        "importance": _importance(run, described, trials),
        "shared": _shared(run, trials),
        "time": _time(described, trials),
        "trust": str(check_ranking(run) or ""),
        "predictors": [[one.name, str(one.networks), str(one)] for one in predictors(df)],
    }


def _facts(described: Mapping[str, Any]) -> list[list[str]]:
    """Pairs of label and text: what the run searches, with which settings, on which machine."""
    train, dataset, machine = described["train"], described["dataset"], described["sessions"][-1]["machine"]
    limits = [
        f"{limit['objective']['name']} from {limit['low']} to {limit['high']}".replace(" from -inf", "").replace(" to inf", "")
        for limit in described["limits"]
    ]
    facts = {
        "Space": described["space"]["name"],
        "Dataset": f"{dataset['name']}, {len(dataset['classes'])} classes",
        "Objectives": ", ".join(f"{name} ({direction})" for name, direction in directions_of(described).items()),
        "Only to look at": ", ".join(one["name"] for one in described["objectives"] if not one["steers"]),
        "Limits": ", ".join(limits) or "none",
        "Settings": ", ".join(f"{name} {train[name]}" for name in ("epochs", "batch_size", "optimizer", "lr")),
        "Searched settings": ", ".join(described["tune"]),
        "Sampler": f"{described['sampler']}, seed {described['seed']}",
        "Latency table": described["latency_table"] or "",
        "Machine": f"{machine['processor']}, {machine['cpus']} CPUs",
    }
    return [[label, text] for label, text in facts.items() if text]


def _shared(run: Path, trials: pd.DataFrame) -> dict[str, Any] | None:
    """The training of the shared weights, the scores, the gains of fine-tuning and the check; None without shared weights."""
    record, scored = read_shared_record(run), _scored(trials)
    if record is None and scored.empty:
        return None
    fine_tuned = trials[(trials["weights"] == Weights.FINE_TUNED) & trials["gain_pct"].notna()]
    gains = fine_tuned.drop_duplicates("id", keep="last")["gain_pct"]  # a resume with another --fine-tune trains a network again
    check = check_shared(run)
    return {
        "training": record and asdict(record),
        "scored": len(scored),
        "seconds_each": _plain(scored["seconds"].median()),
        "gains": _values([len(gains), gains.mean(), gains.min(), gains.max()]),
        "difference": check and check.difference,
        "rankings": [[name, str(agreement)] for name, agreement in check.rankings] if check else [],
    }


def _ended(summary: RunSummary, described: Mapping[str, Any], trials: pd.DataFrame) -> str:
    if described["shared_weights"] != "none":
        return f"{summary.trials} networks are scored"
    scored = len(_scored(trials))
    before = f", and {scored} networks were scored by shared weights" if scored else ""  # in an earlier session
    return f"{summary.trials.removesuffix('/auto')} trials have ended{before}"


def _scored(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows with a score by shared weights."""
    return trials[(trials["weights"] == Weights.SHARED) & (trials["status"] == Status.DONE)]


def _shown_time(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _columns(trials: pd.DataFrame) -> tuple[dict[str, list[Any]], dict[str, list[str]]]:
    """The columns of the table, and the names of those that can be an axis, in groups."""
    objectives, proxies = list(trials.attrs["directions"]), trials.attrs["proxies"]
    names = list(trials.columns)
    params = [name for name in names if name.startswith(PARAM_PREFIXES) and pd.api.types.is_numeric_dtype(trials[name])]
    groups = {
        "objectives": objectives,
        "limits": [name for name in measured_columns(trials) if name not in (*objectives, *proxies)],
        "only to look at": proxies,
        "training": ["trial", *(name for name in TITLES if trials[name].notna().any())],
        "parameters": [name for name in params if not pd.api.types.is_bool_dtype(trials[name]) and trials[name].nunique() > 1],
    }
    settings = [name for name in names if name.startswith(SETTINGS)]
    columns = {name: _values(trials[name]) for name in dict.fromkeys([*TEXTS, *settings, *chain.from_iterable(groups.values())])}
    columns["is_front"] = [int(front) for front in trials["is_front"]]
    columns |= {name: _milliseconds(trials[name]) for name in ("started", "ended")}
    return columns, {group: names for group, names in groups.items() if names}


def _values(column: Iterable[Any]) -> list[Any]:
    return [_plain(value) for value in column]


def _plain(value: Any) -> Any:
    """The value as JSON has it; None for missing values, NaN and infinities."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _milliseconds(times: "pd.Series[Any]") -> list[int | None]:
    """Times as Plotly takes them: milliseconds since 1970, UTC."""
    return [None if pd.isna(time) else round(1000 * time.timestamp()) for time in times]


def _network(text: str, num_classes: int) -> str | None:
    """The drawing of a network, compressed with zlib and in base64: a fifth of its size. None for timm's own networks."""
    try:
        drawing = draw(Architecture.from_json(text), num_classes)
    except ArchitectureError:  # timm's own: describing it would load timm and torch
        return None
    return b64encode(zlib.compress(drawing.encode(), level=9)).decode()


def convergence(df: pd.DataFrame) -> dict[str, list[Any]]:
    """Hypervolume after each done trial, in the order of their ends, as a share of the box around all of them.

    Of the top-1 the believed one counts.
    Only networks of the space that meet the limits count, as for the front.
    """
    directions: Mapping[str, str] = df.attrs["directions"]
    done = as_believed(df)[(df["status"] == Status.DONE) & df["within_limits"]].dropna(subset=list(directions))
    done = done.sort_values("ended", kind="stable")
    points = losses(done, directions)
    shares = Box.around(points).shares(points) if points else []
    return {"trial": _values(done["trial"]), "ended": _milliseconds(done["ended"]), "share": _values(shares)}


def _curves(curves: pd.DataFrame) -> dict[str, Any]:
    """Validation top-1 over epochs; a long history keeps only every `every`-th epoch and the last of each trial."""
    df = curves.sort_values(["trial", "epoch"], kind="stable")
    every = max(1, math.ceil(len(df) / CURVE_POINTS))
    last = ~df["trial"].duplicated(keep="last")
    df = df[(df["epoch"] % every == 0) | last]
    return {"every": every} | {name: _values(df[name]) for name in ("trial", "epoch", "val_top1_pct")}


def _importance(run: Path, described: Mapping[str, Any], trials: pd.DataFrame) -> dict[str, Any]:
    """The most important parameters for each objective that needs training, or why there are none.

    Trials with other weights than most have do not count, as their accuracies do not compare.
    """
    steering = [one for one in described["objectives"] if one["steers"]]
    trained = {index: one["name"] for index, one in enumerate(steering) if one["needs_training"]}
    if not trained:
        return {"why": "No objective of this run needs training: a formula gives each of them from the parameters."}
    try:
        run_study = RunStudy(run)
    except (NasError, ImportError) as error:
        return {"why": f"There are no importances, as the space cannot be rebuilt here: {error}."}
    study, parameters = run_study.study, [name for name, one in run_study.parameters.items() if num_choices(one) > 1]
    alike = set(trials.loc[trials["weights"].isin(trials["weights"].mode()), "trial"])
    complete = study.get_trials(states=[TrialState.COMPLETE])
    done = [one for one in complete if one.user_attrs["trial"] in alike and one.params.keys() >= set(parameters)]
    if len(done) < MIN_IMPORTANCE_TRIALS or not parameters:
        return {"why": f"{len(done)} trials of the space are done; from {MIN_IMPORTANCE_TRIALS} on, importances are shown."}
    differing = {index: name for index, name in trained.items() if len({one.values[index] for one in done}) > 1}
    bars = {name: _ranked(study, parameters, index, alike) for index, name in differing.items()}
    return {"networks": len(done), "of": len(parameters), "bars": bars}


def _ranked(study: optuna.Study, parameters: list[str], objective: int, alike: set[int]) -> list[list[Any]]:
    """(parameter, importance) over the trials `alike`, for the objective with this index; the most important first."""
    sign = 1 if study.directions[objective] == StudyDirection.MINIMIZE else -1  # the evaluator takes low values as good

    def counts(trial: FrozenTrial) -> bool:
        return bool(trial.params) and trial.user_attrs["trial"] in alike  # baselines have no parameters

    with warnings.catch_warnings(action="ignore"):
        shares = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            params=parameters,
            target=lambda trial: sign * trial.values[objective] if counts(trial) else math.nan,
        )
    return [[name, _plain(share)] for name, share in shares.items()][:MAX_IMPORTANCE_BARS]


def _time(described: Mapping[str, Any], trials: pd.DataFrame) -> dict[str, Any]:
    """Seconds of training by status, of scoring, and of the wall clock: each session to its last start or end of a trial."""
    own = trials[trials["source"] != "reuse"]  # reused results took another run's time
    is_scored = own["weights"] == Weights.SHARED
    seconds = own[~is_scored].groupby("status")["seconds"].sum()
    starts = [pd.Timestamp(session["started"]).tz_convert(None) for session in described["sessions"]]
    logged = pd.concat([trials["started"], trials["ended"]]).dropna()
    last = logged.groupby(logged.map(lambda time: bisect(starts, time) - 1)).max()  # event of each session
    wall = sum((time - starts[session]).total_seconds() for session, time in last.items() if session >= 0)
    by_status = {str(name): _plain(total) for name, total in seconds.items() if total > 0}
    return {"by_status": by_status, "scoring": _plain(own.loc[is_scored, "seconds"].sum()), "wall": _plain(wall)}
