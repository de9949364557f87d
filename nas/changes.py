"""The experiment of a run's next session: as it was, with what may be changed. Read `driver.py` next."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from nas.description import as_json, describe, experiment_of, from_plain
from nas.earlier import named
from nas.errors import NasError, unknown
from nas.experiment import Changes, Experiment
from nas.objectives import Limit
from nas.places import asks_latency, measuring, with_latency
from nas.plugins import check_kind
from nas.runs import EXPERIMENT_FILE, LATENCY_FILE
from nas.study import SAMPLERS

logger = logging.getLogger(__name__)

CHANGEABLE: Final = tuple(field.name for field in fields(Changes))


def changed(described: Mapping[str, Any], run: Path, experiment: Experiment | None, changes: Mapping[str, Any]) -> Experiment:
    """The experiment of a run's next session.

    Raises: NasError for a change of what must not change, as the run's outcomes would no longer be alike.
    """
    given = {field: value for field, value in changes.items() if value is not None}
    wrong = [field for field in given if field not in CHANGEABLE]
    if wrong:
        raise unknown("change", wrong[0], CHANGEABLE)
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
        kept = {field: from_plain(described[field]) for field in CHANGEABLE if field in described}
        given = {field: value for field, value in kept.items() if field not in ("limits", "sampler")} | given
    if "limits" in changes:
        for limit in given["limits"]:
            check_kind("limits", limit, Limit)
        given["limits"] = _merged(before.limits, given["limits"])
    after = with_latency(replace(before, **given), look=not asks_latency(before))
    if isinstance(after.sampler, str) and after.sampler not in SAMPLERS and "sampler" not in changes:
        raise NasError(f"{run}: its sampler was an object, {after.sampler}; give a sampler with --sampler")
    gone = [name for name in after.reuse if not (Path(name) / EXPERIMENT_FILE).is_file()]
    if gone and "reuse" not in changes:
        logger.warning("reuse: %s is not there any more, and nothing is taken over from it", ", ".join(gone))
        after = replace(after, reuse=tuple(name for name in after.reuse if name not in gone))
    if "start" not in changes:
        after = replace(after, start=tuple(filter(_is_there, after.start)))
    return after


def _is_there(start: str) -> bool:
    """Whether a network to start from can still be found."""
    try:
        named(start)
    except NasError as error:
        logger.warning("start: %s", error)
        return False
    return True


def _merged(before: Sequence[Limit], given: Sequence[Limit]) -> tuple[Limit, ...]:
    """The limits, each bound that is given in the place of the one on the same objective."""
    merged = {limit.objective.name: limit for limit in before}
    for limit in given:
        old = merged.get(limit.objective.name, limit)
        low = limit.low if limit.low > -math.inf else old.low
        high = limit.high if limit.high < math.inf else old.high
        merged[limit.objective.name] = Limit(objective=limit.objective, low=low, high=high)
    return tuple(merged.values())
