"""The next session of a run: its experiment as it was, with what may change. Read `driver.py` next."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from nas.description import PLAIN, as_json, describe, describe_session, experiment_of, from_plain
from nas.errors import NasError, unknown
from nas.experiment import Experiment
from nas.objectives import Limit
from nas.plan import Plan, measuring, with_latency
from nas.plugins import check_kind
from nas.runs import LATENCY_FILE, write_experiment
from nas.study import SAMPLERS
from nas.trial import UNDER_WAY, Trial

logger = logging.getLogger(__name__)

# Fields of an Experiment that a session must share with the ones before it, as outcomes would no longer be alike.
FIXED: Final = ("space", "dataset", "objectives", "latency", "train", "storage", "seed", "runs")
CHANGEABLE: Final = tuple(field.name for field in fields(Experiment) if field.name not in FIXED)


def next_experiment(
    described: Mapping[str, Any], run: Path, experiment: Experiment | None, changes: Mapping[str, Any]
) -> Experiment:
    """The experiment of a run's next session.

    Raises: NasError for a change of what must not change.
    """
    for field in changes:
        if field in FIXED:
            raise NasError(
                f"{run}: {field} must stay as it is, or its outcomes are not alike; begin a new run, or change one of "
                f"{', '.join(CHANGEABLE)}"
            )
        if field not in CHANGEABLE:
            raise unknown("change", field, CHANGEABLE)
    before = experiment_of(described, run.parent) if experiment is None else experiment
    own = run / LATENCY_FILE
    before = measuring(replace(before, latency=str(own) if own.is_file() else described["latency"]))
    now = as_json(describe(before, described["name"]))
    for field in ("space", "dataset", "objectives", "train", "seed"):
        if now[field] != described[field]:
            raise NasError(
                f"{run}: its {field} was {described[field]}, and the experiment that is given has {now[field]}; begin a new run"
            )
    if experiment is not None:  # which says nothing of what earlier sessions changed
        kept = {field: from_plain(described[field]) for field in CHANGEABLE if field in PLAIN}
        before = replace(before, **kept)
    if "limits" in changes:
        changes = {**changes, "limits": _merged((*before.limits, *changes["limits"]))}
    after = with_latency(replace(before, **changes).resolved(), look=not before.needs_latency)
    if isinstance(after.sampler, str) and after.sampler not in SAMPLERS and "sampler" not in changes:
        raise NasError(f"{run}: its sampler was an object, {after.sampler}; give a sampler with --sampler")
    return after


def _merged(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """One limit for each objective: each bound is that of the last limit that has one."""
    merged: dict[str, Limit] = {}
    for limit in limits:
        check_kind("limits", limit, Limit)
        old = merged.get(limit.objective.name, limit)
        low = limit.low if limit.low > -math.inf else old.low
        high = limit.high if limit.high < math.inf else old.high
        merged[limit.objective.name] = Limit(objective=limit.objective, low=low, high=high)
    return tuple(merged.values())


def check_unfinished(run: Path, experiment: Experiment, plan: Plan, past: Sequence[Trial]) -> int:
    """How many trials are left to train.

    Raises: NasError if there are none.
    """
    ended = sum(trial.counts for trial in past)
    waiting = sum(trial.status in UNDER_WAY for trial in past)
    seen = {trial.id for trial in past if trial.number is not None}
    new = [point for point in plan.baselines.values() if point.id not in seen]
    if ended >= experiment.trials and not waiting and not new:
        raise NasError(
            f"{run} is finished: {ended} of {experiment.trials} trials have ended; extend it with more --trials, or --baselines"
        )
    logger.info("%d trials have ended, %d continue", ended, waiting)
    return max(0, experiment.trials - ended) + len(new)


def record_session(run: Path, described: Mapping[str, Any], after: Experiment) -> None:
    """Write the next session, and what was changed for it, into experiment.json."""
    now = as_json(describe(after, described["name"]))
    new = {field: (described[field], now[field]) for field in CHANGEABLE if field in now and now[field] != described[field]}
    record = {"sessions": [*described["sessions"], describe_session(new)], "exhausted": False}
    write_experiment(run, dict(described) | {field: now[field] for field in new} | record)
