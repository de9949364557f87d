"""What an experiment names, found: files and folders from wherever it is gone on with, and its latency table.

Read `feasibility.py` next.
"""

import logging
import random
from dataclasses import replace
from pathlib import Path

from nas.architecture import is_text
from nas.errors import NasError
from nas.experiment import Experiment
from nas.latency.table import newest_table
from nas.runs import LATENCY_FILE
from nas.spaces import sample

logger = logging.getLogger(__name__)


def located(experiment: Experiment) -> Experiment:
    """The same with paths that mean the same from every folder, as a run may be gone on with from another."""
    storage = experiment.storage
    if storage is not None and "://" not in storage and "::" not in storage:
        storage = str(Path(storage).resolve())
    start, reuse = (tuple(map(_absolute, names)) for names in (experiment.start, experiment.reuse))
    return replace(experiment, storage=storage, start=start, reuse=reuse)


def asks_latency(experiment: Experiment) -> bool:
    """Whether an objective or a limit is a latency."""
    asked = (*experiment.objectives, *(limit.objective for limit in experiment.limits))
    return any(objective.needs_latency for objective in asked)


def with_latency(experiment: Experiment, *, look: bool = True) -> Experiment:
    """The same with the latency table that it is to use, if it asks for a latency; where there is none, trials measure it.

    With `look`, the newest table that was built here serves where none is given.
    Raises: NasError without a table for a limit on a latency, or a search that trains nothing.
    """
    if not asks_latency(experiment):
        return replace(experiment, latency=None)
    file = Path(experiment.latency).resolve() if experiment.latency is not None else None
    if file is None and look:
        space, generator = experiment.space, random.Random(experiment.seed)
        some = [space.decode(sample(space.parameters, generator)) for _ in range(100)]
        file = newest_table(space.name, some, len(experiment.dataset.classes))
    if file is not None:
        experiment = replace(experiment, latency=str(file))
        logger.info("latencies by %s: %s", file, experiment.latency_table)
        return experiment
    none = (
        f"no latency table was built here for space {experiment.space.name}, its resolution and "
        f"{len(experiment.dataset.classes)} classes"
    )
    how = "`nas latency build` makes one; or give another device's with --latency"
    if any(limit.objective.needs_latency for limit in experiment.limits):
        raise NasError(f"limit on latency_ms: {none}, and a limit must be known before the training: {how}")
    if not any(objective.needs_training for objective in experiment.objectives):
        raise NasError(f"objective latency_ms: {none}, and trials that do not train do not measure either: {how}")
    logger.info("%s: each trial measures its own, which takes seconds and an idle CPU; %s", none, how)
    return measuring(experiment)


def measuring(experiment: Experiment) -> Experiment:
    """The same with latencies that trials measure, where there is no table."""
    if experiment.latency is not None:
        return experiment
    measured = (replace(one, needs_training=True) if one.needs_latency else one for one in experiment.objectives)
    return replace(experiment, objectives=tuple(measured))


def with_own_table(experiment: Experiment, run: Path) -> Experiment:
    """The same with the run's copy of its latency table, as all its latencies are to be of one."""
    table = experiment.latency_table
    if table is None:
        return experiment
    if not (run / LATENCY_FILE).is_file():
        table.write(run / LATENCY_FILE)
    return replace(experiment, latency=str(run / LATENCY_FILE))


def _absolute(name: str) -> str:
    if is_text(name) or not Path(name).exists():
        return name
    return str(Path(name).resolve())
