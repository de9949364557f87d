"""Optuna's side of a search: the sampler, the study that is asked and told, and the journal that others can open."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nas.errors import unknown
from nas.experiment import Experiment
from nas.feasibility import Examined, examine
from nas.files import append_line
from nas.objectives import Objective
from nas.spaces import Params

SAMPLERS: Final = ("frontier", "random", "tpe", "nsga2", "nsga3", "gp", "qmc")
JOURNAL_FILE: Final = "optuna.log"


def make_sampler(experiment: Experiment, *, session: int = 0) -> BaseSampler:
    """The sampler of an experiment, by its short name or as it was given; each session of a run has draws of its own.

    Raises: NasError for a name that is not known.
    """
    sampler, seed = experiment.sampler, experiment.seed
    if isinstance(sampler, BaseSampler):
        return sampler
    if session:
        seed = int(np.random.SeedSequence((seed, session)).generate_state(1)[0])
    if sampler == "frontier":
        return _frontier(experiment, seed)
    return plain_sampler(sampler, seed)


def plain_sampler(name: str, seed: int) -> BaseSampler:
    """One of Optuna's samplers, that is told nothing of the space.

    Raises: NasError for a name that is not known.
    """
    makers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        # With these three, TPE proposes few networks twice (3 to 6 of 200 against 25 to 59 with its defaults).
        "tpe": lambda: optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
        "nsga3": lambda: optuna.samplers.NSGAIIISampler(population_size=20, seed=seed),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    }
    if name not in makers:
        raise unknown("sampler", name, SAMPLERS)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return makers[name]()


def _frontier(experiment: Experiment, seed: int) -> BaseSampler:
    """Our own, told of each network what is known before it is trained."""
    from nas.samplers import FrontierSampler

    @lru_cache(maxsize=1)  # asked three things of the same network in turn
    def look(items: tuple[tuple[str, Any], ...]) -> Examined:
        return examine(experiment, dict(items))

    def costs(params: Params) -> list[float | None]:
        values = look(tuple(params.items())).values
        return [None if objective.needs_training else values[objective.name] for objective in experiment.objectives]

    return FrontierSampler(
        unchanging(experiment.space.parameters),
        costs=costs,
        identity=lambda params: look(tuple(params.items())).id,
        admits=lambda params: look(tuple(params.items())).admitted,
        seed=seed,
    )


class _Choices(CategoricalDistribution):
    """Choices that never change: Optuna compares and copies those of every parameter with every ask and tell."""

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, CategoricalDistribution) and CategoricalDistribution.__eq__(other, self))

    __hash__ = CategoricalDistribution.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Choices":
        return self


_Choices.__name__ = "CategoricalDistribution"  # as which journals have it


def unchanging(parameters: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """The same distributions, such that a study of many parameters is asked and told in about two thirds of the time."""
    return {
        name: _Choices(distribution.choices) if isinstance(distribution, CategoricalDistribution) else distribution
        for name, distribution in parameters.items()
    }


def create_study(objectives: Sequence[Objective], sampler: BaseSampler, name: str) -> optuna.Study:
    """A study in memory: one on a disk waits for it at every parameter of every ask."""
    return _create(objectives, name, storage=InMemoryStorage(), sampler=sampler)


def _create(objectives: Sequence[Objective], name: str, **options: Any) -> optuna.Study:
    directions = [StudyDirection[objective.direction.upper()] for objective in objectives]
    study = optuna.create_study(study_name=name, directions=directions, **options)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study.set_metric_names([objective.name for objective in objectives])
    return study


class Journal:
    """Optuna's journal of a run, begun anew: each ended trial is written to it, for optuna-dashboard and others to open."""

    def __init__(self, run: Path, objectives: Sequence[Objective]) -> None:
        for left in (JOURNAL_FILE, f"{JOURNAL_FILE}.lock"):  # a driver that was killed may have left its lock
            (run / left).unlink(missing_ok=True)
        file = run / JOURNAL_FILE
        _create(objectives, run.name, storage=JournalStorage(JournalFileBackend(str(file))))
        self._storage = JournalStorage(_Appended(file))

    def add(self, trial: FrozenTrial) -> None:
        """One more trial.

        Raises: NasError if the disk is full.
        """
        self._storage.create_new_trial(0, template_trial=trial)


class _Appended(BaseJournalBackend):
    """A journal whose only writer reads no more of it than it must, the study and one trial.

    Else each trial were parsed again, kept in memory, and searched with the next.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._begun = list(JournalFileBackend(str(file)).read_logs(0))
        self._enough = len(self._begun) + 1

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        yield from self._begun[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            append_line(self._file, log)
        self._begun += logs[: self._enough - len(self._begun)]
