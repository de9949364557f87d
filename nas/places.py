"""What an experiment names, found: files and folders from wherever it is gone on with, and its latency table.

Read `feasibility.py` next.
"""

import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.experiment import Experiment
from nas.latency.table import newest_table
from nas.runs import LATENCY_FILE
from nas.spaces import sample

logger = logging.getLogger(__name__)


def located(experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """The same with paths that mean the same from every folder, as a run may be gone on with from another."""
    storage = experiment.storage
    if storage is not None and "://" not in storage and "::" not in storage:
        storage = str(Path(storage).resolve())
    start, reuse = (tuple(map(_absolute, names)) for names in (experiment.start, experiment.reuse))
    return replace(experiment, storage=storage, start=start, reuse=reuse)


def with_latency(experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """The same with the latency table that it is to use, if it asks for a latency.

    Raises: NasError if there is none.
    """
    asked = {objective.name for objective in (*experiment.objectives, *(limit.objective for limit in experiment.limits))}
    if not {"latency_ms", "mnasnet_reward"} & asked:
        return replace(experiment, latency=None)
    if experiment.latency is None:
        space, generator = experiment.space, random.Random(experiment.seed)
        some = [space.decode(sample(space.parameters, generator)) for _ in range(100)]
        file = newest_table(space.name, some, len(experiment.dataset.classes))
        if file is None:
            raise NasError(
                f"no latency table was built here for space {space.name}, its resolution and {len(experiment.dataset.classes)} "
                "classes: `nas latency build` makes one; or give another device's with --latency"
            )
        experiment = replace(experiment, latency=str(file))
    logger.info("latencies by %s: %s", experiment.latency, experiment.latency_table)
    return replace(experiment, latency=str(Path(str(experiment.latency)).resolve()))


def with_own_table(experiment: Experiment[Any, Any], run: Path) -> Experiment[Any, Any]:
    """The same with the run's copy of its latency table, as all its latencies are to be of one."""
    table = experiment.latency_table
    if table is None:
        return experiment
    if not (run / LATENCY_FILE).is_file():
        table.write(run / LATENCY_FILE)
    return replace(experiment, latency=str(run / LATENCY_FILE))


def _absolute(name: str) -> str:
    if name.lstrip().startswith("{") or not Path(name).exists():
        return name
    return str(Path(name).resolve())
