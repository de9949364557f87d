"""MLflow: a run for the search, and a nested one for each trial, where MLFLOW_TRACKING_URI says, else in mlflow.db here."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from nas.trackers import Tracker, finals

KEY: Final = "frontier-nas.key"
TRIAL: Final = "frontier-nas.trial"
PARENT: Final = "mlflow.parentRunId"
STATUS: Final = {"failed": "FAILED", "interrupted": "KILLED"}  # FINISHED is what has any other status
MAX_PARAM: Final = 6000  # characters of a value that MLflow takes
MAX_BATCH: Final = 100  # parameters that it takes at a time


class Mlflow(Tracker):
    """`mlflow ui` shows it."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", self.project)
        there = self._client.get_experiment_by_name(name)
        self._experiment = there.experiment_id if there else self._client.create_experiment(name)
        self._runs: dict[int | None, str] = {}

    def begin(self, trial: int | None, facts: Mapping[str, Any]) -> None:
        """Make the run of a trial, or continue it."""
        tags = {KEY: self.key, TRIAL: "none" if trial is None else str(trial)}
        where = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        if there := self._client.search_runs([self._experiment], where, max_results=1):
            self._runs[trial] = there[0].info.run_id
            self._client.update_run(self._runs[trial], status="RUNNING")
            return
        tags |= {} if trial is None else {PARENT: self._runs[None]}
        name = self.name if trial is None else f"trial {trial}"
        self._runs[trial] = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        params = [Param(name, str(value)[:MAX_PARAM]) for name, value in facts.items()]
        for i in range(0, len(params), MAX_BATCH):
            self._client.log_batch(self._runs[trial], params=params[i : i + MAX_BATCH])

    def epoch(self, trial: int | None, epoch: int, values: Mapping[str, float]) -> None:
        """Metrics, with the epoch as their step."""
        self._log(trial, values, epoch)

    def end(
        self, trial: int | None, status: str, values: Mapping[str, float], *, error: str = "", files: Sequence[Path] = ()
    ) -> None:
        """Final metrics, the status, and the files as artefacts."""
        run = self._runs[trial]
        self._log(trial, finals(values), 0)
        self._client.set_tag(run, "status", status)
        if error:
            self._client.set_tag(run, "error", error)
        for file in files:
            self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, STATUS.get(status, "FINISHED"))

    def _log(self, trial: int | None, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._runs[trial], metrics=[Metric(name, value, now, step) for name, value in values.items()])


TRACKER = Mlflow
