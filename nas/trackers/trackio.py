"""Trackio: a group for each search, with a run for it and for each trial, in the folder TRACKIO_DIR or on a Space."""

import logging
import os
from collections.abc import Mapping
from contextvars import Context
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nas.errors import needs_extra
from nas.runs.trial import Status
from nas.trackers import PROJECT, Job, Tracker

logger = logging.getLogger(__name__)

REMOTE: Final = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # variables with which Trackio logs elsewhere


class TrackioTracker(Tracker):
    """Writes with the Trackio library.

    Trackio raises no error: it warns, once for each run. Here the first warning counts as an error; but of a Space or a server,
    whose data Trackio keeps until it can be sent, it is only logged.
    """

    def __init__(self) -> None:
        with needs_extra("trackio"):
            import trackio
        self._trackio = trackio
        self._problems: list[str] = []
        for module in (trackio, import_module("trackio.run"), import_module("trackio.utils")):
            vars(module)["print"] = _print_nothing  # it prints four lines for each run, which would break our display
            vars(module)["_emit_nonfatal_warning"] = self._note
        self._runs: dict[str, Any] = {}
        self._steps: dict[str, int] = {}

    def begin(self, job: Job, past: str | None) -> str:
        """A run, in a context of its own, as Trackio ends the run before it in the same context."""
        uses_own = None if job.kind != "trial" else False  # whether it measures the machine; the search's run does
        self._runs[job.key] = Context().run(
            self._trackio.init,
            project=PROJECT,
            name=past or job.name,
            group=job.group,
            config=dict(job.params),
            resume="never" if past is None else "allow",
            embed=False,
            auto_log_gpu=uses_own,
            auto_log_cpu=uses_own,
        )
        if job.values and past is None:
            self.log(job.key, 0, job.values)
        return past or job.name

    def log(self, key: str, step: int, values: Mapping[str, Any]) -> None:
        """One row of the run's log."""
        self._check()
        self._steps[key] = step
        self._runs[key].log(dict(values), step=step)

    def attach(self, key: str, file: Path) -> None:
        """An artifact of the run; a table also as Trackio's own."""
        self._check()
        run = self._runs[key]
        if file.suffix == ".csv":
            run.log({file.stem: self._trackio.Table(dataframe=pd.read_csv(file))}, step=self._steps.get(key, 0))
        run.log_artifact(str(file), name=f"{file.stem}-{run.name}", type=file.stem)

    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """A last row, and the run's end, which waits until all is written."""
        self.log(key, self._steps.pop(key, 0), {**values, "status": status.value})
        self._runs.pop(key).finish()
        self._check()

    def place(self, key: str) -> str:  # noqa: ARG002 - all runs are in one project
        """The command that shows the project."""
        return f"trackio show --project {PROJECT}"

    def _note(self, message: str, *_: object, **__: object) -> None:
        if not self._problems and any(os.environ.get(variable) for variable in REMOTE):
            logger.warning("tracker trackio: %s", message)
        self._problems.append(message)

    def _check(self) -> None:
        """Raise the first problem of a run on this machine."""
        if self._problems and not any(os.environ.get(variable) for variable in REMOTE):
            raise OSError(self._problems[0])


def _print_nothing(*_: object, **__: object) -> None:
    pass


TRACKER: Final = TrackioTracker
