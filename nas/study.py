"""Optuna's side of a search: the sampler, the study that is asked and told, and the journal that others can open."""

import json
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nas.errors import unknown
from nas.objectives import Objective

SAMPLERS: Final = ("random", "tpe", "nsga2", "nsga3", "gp", "qmc")
JOURNAL_FILE: Final = "optuna.log"
# What a full disk, or a driver that was killed, makes of the journal.
JOURNAL_ERRORS: Final = (OSError, json.JSONDecodeError)


def make_sampler(sampler: str | BaseSampler, seed: int, *, session: int = 0) -> BaseSampler:
    """An Optuna sampler by its short name, or the one given; each session of a run has draws of its own.

    Raises: NasError for a name that is not known.
    """
    if isinstance(sampler, BaseSampler):
        return sampler
    if session:
        seed = int(np.random.SeedSequence((seed, session)).generate_state(1)[0])
    makers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        # With these three, TPE proposes few networks twice (3 to 6 of 200 against 25 to 59 with its defaults).
        "tpe": lambda: optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
        "nsga3": lambda: optuna.samplers.NSGAIIISampler(population_size=20, seed=seed),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    }
    if sampler not in makers:
        raise unknown("sampler", sampler, makers)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return makers[sampler]()


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
        self._file = JournalFileBackend(str(run / JOURNAL_FILE))
        _create(objectives, run.name, storage=JournalStorage(self._file))
        self._head = list(self._file.read_logs(0))

    def add(self, trial: FrozenTrial) -> None:
        """One more trial.

        A storage for each, as one that stays keeps every trial in memory and searches all of them.
        """
        JournalStorage(_Appending(self._file, self._head)).create_new_trial(0, template_trial=trial)


class _Appending(BaseJournalBackend):
    """A journal of which only the beginning and what is new are read."""

    def __init__(self, file: JournalFileBackend, head: list[dict[str, Any]]) -> None:
        self.file, self.logs = file, list(head)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        yield from self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.file.append_logs(logs)
        self.logs += logs
