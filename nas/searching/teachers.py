"""The teachers that the trials of a search learn from: whether they can be used, and are still those that a run began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.runs.experiment import Experiment
from nas.runs.run_folder import read_experiment
from nas.training.settings import NO_TEACHER
from nas.training.tuned import TEACHER


def find_teachers(experiment: Experiment) -> dict[str, str]:
    """Teacher as the settings name it → its network and a digest of its weights, for every teacher that a trial may have.

    Raises: NasError for a teacher that cannot be used, or a run to reuse that had another one.
    """
    if not any(objective.needs_training for objective in experiment.objectives):
        return {}
    tuned: Any = experiment.search_space.parameters.get(TEACHER)
    names = [name for name in (tuned.choices if tuned is not None else (experiment.train.teacher,)) if name != NO_TEACHER]
    if not names:
        return {}
    import torch

    from nas.training.teacher import load_teacher  # imports torch, which a search without teachers does not need

    teachers = {name: load_teacher(name, experiment.dataset, torch.device("cpu")).name for name in names}
    for run in experiment.reuse:
        described = read_experiment(Path(run))
        check_same_teachers(f"reuse {run}", described, teachers, advice="its results are not comparable")
    return teachers


def check_same_teachers(what: str, described: Mapping[str, Any], now: Mapping[str, str], *, advice: str) -> None:
    """Check that the teachers of a run are these.

    Raises: NasError for one that has other weights by now.
    """
    for name, teacher in now.items():
        if (before := described["teachers"].get(name, teacher)) != teacher:
            raise NasError(f"{what}: its teacher {name} was {before}, and now it is {teacher}; {advice}")
