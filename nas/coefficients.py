"""The alpha, beta and gamma that scale a trained network best: a run that trains each triple of a grid once, and its best.

Read `scale_commands.py` next.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nas.architecture import Architecture
from nas.costs import cost
from nas.description import as_json, describe, experiment_of
from nas.driver import Watch, resume, search, unwatched
from nas.errors import NasError
from nas.experiment import Experiment
from nas.family import ScalingRule
from nas.objectives import objective
from nas.runs import EXPERIMENT_FILE, read_experiment
from nas.statistics import standard_error_pct
from nas.table import history, num_ended, results, rows
from nas.triples import GRID, TOLERANCE, TripleSpace, trained_network, triple_space
from nas.trust import TOP1

logger = logging.getLogger(__name__)

SAME: Final = ("space", "dataset", "objectives", "train", "seed")  # of two fits whose outcomes are alike
UNDER_WAY: Final = ("running", "interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a fit has found."""

    run: Path
    """The run folder in which the triples were trained."""
    rule: ScalingRule
    """The best triple."""
    table: pd.DataFrame
    """A row per triple, the best first: trial, status, alpha, beta, gamma, growth (alpha * beta^2 * gamma^2), resolution,
    macs_m, macs_ratio (to the network that is scaled) and val_top1_pct."""
    verdict: str
    """The best triple against the next, in one sentence."""


def fit_scaling(
    run: str | PathLike[str],
    *,
    trial: int | None = None,
    grid: Iterable[tuple[float, float]] = GRID,
    watch: Watch = unwatched,
) -> Fit:
    """Find the alpha, beta and gamma that scale a network of a run best, under the run's very recipe, images and seed.

    The network is that of `trial`, by default of the best on the run's first objective. Each triple of the `grid` of alphas and
    betas (`triple_space` says which) is trained once, to its end, at phi = 1, in a run folder beside the run. The one with the
    highest val_top1_pct is taken, of equals the one of fewer multiply-adds. Called again, a fit that was killed goes on and a
    finished one is read.

    Raises: NasError as `search` and `resume` do, and where no triple could be trained. KeyboardInterrupt, when what had ended is
    kept.
    """
    folder = Path(run).resolve()
    described = read_experiment(folder)
    _, base = trained_network(folder, trial)
    asked = experiment_of(described, folder.parent)
    pairs = tuple(grid)
    space = triple_space(base, pairs, num_classes=len(asked.dataset.classes))
    logger.info(
        "%d of %d pairs of alpha and beta come within %.0f %% of twice the multiply-adds",
        len(space.triples),
        len(pairs),
        100 * TOLERANCE,
    )
    texts = tuple(architecture.to_json() for architecture in space.architectures.values())
    experiment = replace(
        asked,
        space=space,
        objectives=(objective(TOP1), objective("macs_m")),
        limits=(),
        latency=None,
        sampler="random",  # which is not asked, as there are no more trials than starts
        trials=len(texts),
        start=texts,
        reuse=(),
        early_stopping=False,
        keep_all=False,
    )
    name = f"{described['name']}-scaling"
    fit = _earlier(experiment, name)
    if fit is None:
        fit = search(experiment, name=name, watch=watch)
    elif not _is_finished(fit, len(texts)):
        fit = resume(fit, watch=watch)
    return _read(fit, space, base)


def _earlier(experiment: Experiment, name: str) -> Path | None:
    """The newest run folder in which the same triples were trained in the same way, or began to be."""
    here = as_json(describe(experiment, name))
    for file in sorted(Path(experiment.runs).glob(f"{name}-*/{EXPERIMENT_FILE}"), reverse=True):
        try:
            there = read_experiment(file.parent)
        except NasError as error:
            logger.warning("%s; it is left out", error)
            continue
        if all(there.get(field) == here[field] for field in SAME):
            return file.parent
    return None


def _is_finished(run: Path, trials: int) -> bool:
    past = rows(run)
    return num_ended(past) >= trials and not any(row["status"] in UNDER_WAY for row in past)


def _read(run: Path, space: TripleSpace, base: Architecture) -> Fit:
    """What a finished fit has found.

    Raises: NasError if no triple is done.
    """
    df = results(run)
    df = df[df["trial"].notna() & ~df["is_baseline"]]
    rules = [space.rules[name] for name in df["params.triple"]]
    classes = len(read_experiment(run)["dataset"]["classes"])
    table = pd.DataFrame(
        {
            "trial": df["trial"],
            "status": df["status"],
            "alpha": [rule.alpha for rule in rules],
            "beta": [rule.beta for rule in rules],
            "gamma": [rule.gamma for rule in rules],
            "growth": [rule.growth for rule in rules],
            "resolution": [Architecture.from_json(text).resolution for text in df["architecture"]],
            "macs_m": df["macs_m"],
            "macs_ratio": df["macs_m"] / (cost(base, classes).macs / 1e6),
            TOP1: df[TOP1].where(df["status"] == "done"),
        }
    ).sort_values([TOP1, "macs_m", "trial"], ascending=[False, True, True], ignore_index=True)
    done = table[table["status"] == "done"]
    if done.empty:
        first = df.iloc[0]
        raise NasError(f"none of {len(df)} triples is done; trial {first['trial']} failed ({first['reason']}): {first['error']}")
    verdict = _verdict(done, int(history(run)["val_images"].max()))
    return Fit(run=run, rule=_rule(done.iloc[0]), table=table, verdict=verdict)


def _rule(row: "pd.Series[Any]") -> ScalingRule:
    return ScalingRule(alpha=float(row["alpha"]), beta=float(row["beta"]), gamma=float(row["gamma"]))


def _verdict(done: pd.DataFrame, images: int) -> str:
    best = f"{_rule(done.iloc[0])} is the best, {TOP1} {done[TOP1].iloc[0]:.2f} over {images:,} images"
    if len(done) == 1:
        return f"{best}; no other triple is done, so nothing tells how much better"
    ahead = done[TOP1].iloc[0] - done[TOP1].iloc[1]
    error = math.hypot(*(standard_error_pct(top1, images) for top1 in done[TOP1].iloc[:2]))
    how = "more" if ahead > error else "no more"
    return (
        f"{best}; the next, {_rule(done.iloc[1])}, is {ahead:.2f} points behind, {how} than the standard error of the "
        f"difference, {error:.2f} points (binomial; each was trained once)"
    )
