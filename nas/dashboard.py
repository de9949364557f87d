"""optuna-dashboard on a run: a study in memory, made of the trial log, which it follows while the search runs."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.description import space_of
from nas.errors import NasError
from nas.runs import read_experiment
from nas.spaces import is_choice
from nas.study import create_study
from nas.trial import ENDED, Status, Trial
from nas.trial_log import read_trials

PAUSE: Final = 2.0  # seconds between two looks at the log; optuna-dashboard keeps what it has read as long
STATES: Final = {Status.DONE: TrialState.COMPLETE, Status.STOPPED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}


class RunStudy:
    """The ended trials of a run as a study of Optuna's."""

    def __init__(self, run: Path) -> None:
        """Read the run folder.

        Raises: NasError if it is none, or its space cannot be rebuilt here.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of the study
        described = read_experiment(run)
        self._run = run
        objectives = {one["name"]: one["direction"] for one in described["objectives"]}
        self._objectives = list(objectives)
        self.parameters = space_of(described).parameters
        self._known: set[int | None] = {None}  # skipped proposals have no number
        self.storage = InMemoryStorage()
        self.study = create_study(objectives, name=run.resolve().name, storage=self.storage)
        self.update()

    def update(self) -> None:
        """Add the trials that have ended since the last call.

        Raises: NasError if the log is damaged.
        """
        for trial in read_trials(self._run):
            if trial.status in ENDED and trial.number not in self._known:
                self._known.add(trial.number)
                self.study.add_trials(self._optunas(trial))

    def _optunas(self, trial: Trial) -> Iterator[FrozenTrial]:
        """The trial as Optuna has it; none for a baseline of which not every objective is known."""
        state = STATES[trial.status]
        values = [trial.values[name] for name in self._objectives if name in trial.values]
        if state == TrialState.COMPLETE and len(values) < len(self._objectives):
            return
        known = self.parameters
        params = {name: value for name, value in trial.params.items() if name in known and is_choice(known[name], value)}
        outcome = trial.outcome
        told: dict[str, Any] = {"trial": trial.number, "id": trial.id, "source": trial.source, "name": trial.name, **trial.values}
        told |= {"reason": outcome and outcome.reason, "error": outcome and outcome.error}
        found = create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: known[name] for name in params},
            user_attrs={name: value for name, value in told.items() if value is not None},
        )
        found.datetime_start, found.datetime_complete = _local_time(trial.started), _local_time(trial.ended)
        yield found


def _local_time(text: str | None) -> datetime | None:
    """As Optuna has times: this machine's, without a zone."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None) if text else None


def serve(run: Path, *, port: int, on_ready: Callable[[str], None]) -> None:
    """Show a run to this machine alone until Ctrl-C; `on_ready` is called with the address.

    Raises: NasError for a folder that is no run, a port that cannot be listened on, or a missing optuna-dashboard.
    """
    if not 0 < port < 65_536:
        raise NasError(f"port: {port} is not from 1 to 65535")
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise NasError("optuna-dashboard is not installed; `pip install 'frontier-nas[dashboard]'` does it") from None
    shown = RunStudy(run)

    def follow() -> None:
        while True:
            time.sleep(PAUSE)
            shown.update()

    threading.Thread(target=follow, daemon=True).start()
    on_ready(f"http://127.0.0.1:{port}/")
    try:
        run_server(shown.storage, host="127.0.0.1", port=port)
    except OSError as error:
        raise NasError(f"port {port} cannot be listened on: {error.strerror}; give another with --port") from None
