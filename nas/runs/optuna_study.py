"""A run as an Optuna study in memory, built from the trial log."""

import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.runs.run_folder import directions_of, read_experiment
from nas.runs.serialization import space_of
from nas.runs.trial import ENDED, Status, Trial
from nas.runs.trial_log import read_trials
from nas.spaces import is_choice
from nas.training.tuned import parse_tuned

STATES: Final = {Status.DONE: TrialState.COMPLETE, Status.STOPPED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}


def create_study(
    objectives: Mapping[str, str], *, name: str, sampler: BaseSampler | None = None, storage: InMemoryStorage | None = None
) -> optuna.Study:
    """An empty in-memory study of these objectives; a study on disk would write to it for every parameter of every proposal."""
    directions = [StudyDirection[direction.upper()] for direction in objectives.values()]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, sampler=sampler)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study.set_metric_names(list(objectives))
    return study


class RunStudy:
    """The ended trials of a run as an Optuna study."""

    def __init__(self, run: Path) -> None:
        """Read the run folder.

        Raises: NasError if it is no run folder, or its space cannot be rebuilt here.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # silences the message on a new study
        described = read_experiment(run)
        self._run = run
        objectives = directions_of(described)
        self._objectives = list(objectives)
        self.parameters = {**space_of(described).parameters, **dict(map(parse_tuned, described["tune"]))}
        self._added: set[int | None] = {None}  # skipped proposals have no number
        self.storage = InMemoryStorage()
        self.study = create_study(objectives, name=run.resolve().name, storage=self.storage)
        self.update()

    def update(self) -> None:
        """Add the trials that have ended since the last call.

        Raises: NasError if the log is damaged.
        """
        for trial in read_trials(self._run):
            if trial.status in ENDED and trial.number not in self._added:
                self._added.add(trial.number)
                self.study.add_trials(self._frozen(trial))

    def _frozen(self, trial: Trial) -> Iterator[FrozenTrial]:
        """The trial as an Optuna trial; yields nothing for a done baseline that lacks the value of an objective."""
        state = STATES[trial.status]
        values = [trial.values[name] for name in self._objectives if name in trial.values]
        if state == TrialState.COMPLETE and len(values) < len(self._objectives):
            return
        space = self.parameters
        params = {name: value for name, value in trial.params.items() if name in space and is_choice(space[name], value)}
        outcome = trial.outcome
        attributes: dict[str, Any] = {
            "trial": trial.number,
            "id": trial.id,
            "source": trial.source,
            "name": trial.name,
            **trial.values,
        }
        attributes |= {"reason": outcome and outcome.reason, "error": outcome and outcome.error}
        frozen = create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: space[name] for name in params},
            user_attrs={name: value for name, value in attributes.items() if value is not None},
        )
        frozen.datetime_start, frozen.datetime_complete = _local_time(trial.started), _local_time(trial.ended)
        yield frozen


def _local_time(text: str | None) -> datetime | None:
    """A time as Optuna stores it: in this machine's time zone, without tzinfo."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None) if text else None
