"""MLflow: a run with a nested run for each trial, in the store of MLFLOW_TRACKING_URI or in MLflow's own default."""

import logging
import math
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from nas.errors import NasError, needs_extra
from nas.files import locked
from nas.runs.trial import Status
from nas.trackers import PROJECT, Job, Tracker

ENDS: Final = {Status.DONE: "FINISHED", Status.FAILED: "FAILED"}  # others are KILLED: stopped early, or interrupted
BATCH: Final = 100  # parameters that a store takes at once; source: mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH
NOT_IN_NAMES: Final = re.compile(r"[^\w\-. /]")  # characters that a parameter's or a metric's name may not have


class MlflowTracker(Tracker):
    """Writes with MLflow's client, which does not touch the run that the user's own code may have started."""

    def __init__(self) -> None:
        with needs_extra("mlflow"):
            from mlflow import MlflowClient, entities, get_tracking_uri
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # it reports each table of a new store, and each try to open one
        self._store, self._make_client, self._entities = get_tracking_uri, MlflowClient, entities
        self._client: Any = None  # made by `begin`, as it opens the store
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._steps: dict[str, int] = {}

    def begin(self, job: Job, past: str | None) -> str:
        """A new run, nested if it is that of a trial; or the past one if the store still has it.

        A parameter that has changed since becomes a tag, as MLflow's parameters cannot change.
        """
        if self._client is None:
            lock = Path(tempfile.gettempdir(), f"{PROJECT}-mlflow-{os.getuid()}.lock")
            with locked(lock, busy="", wait_seconds=math.inf, courtesy=True):  # two processes that make one store spoil it
                _check_file(self._store())
                self._client = self._make_client()
                self._experiment = self._experiment_id()
        self._steps[job.key] = 0
        params = {_name(name): str(one) for name, one in job.params.items() if one is not None}
        before = self._continued(past) if past is not None else None
        if past is not None and before is not None:
            run, changed = past, {name: one for name, one in params.items() if before.get(name) not in (None, one)}
            for name, one in {**changed, "status": "running"}.items():
                self._client.set_tag(run, name, one)
        else:
            parent = self._runs.get("search") if job.kind == "trial" else None
            tags = {"kind": job.kind} | ({} if parent is None else {"mlflow.parentRunId": parent})
            run = str(self._client.create_run(self._experiment, run_name=job.name, tags=tags).info.run_id)
            self._log_params(run, params)
        self._runs[job.key] = run
        if run != past:
            self.log(job.key, 0, job.values)
        return run

    def log(self, key: str, step: int, values: Mapping[str, float]) -> None:
        """One request with all values."""
        now = int(1000 * time.time())  # ms
        self._steps[key] = step
        metrics = [self._entities.Metric(_name(name), float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._runs[key], metrics=metrics)

    def attach(self, key: str, file: Path) -> None:
        """An artifact of the run."""
        self._client.log_artifact(self._runs[key], str(file))

    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """Numbers as metrics of the last step, texts as tags, and the run's status."""
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        self.log(key, self._steps[key], numbers)
        run = self._runs.pop(key)
        for name, value in {**values, "status": status.value}.items():
            if name not in numbers:
                self._client.set_tag(run, name, value)
        self._client.set_terminated(run, ENDS.get(status, "KILLED"))

    def place(self, key: str) -> str:
        """The store, the experiment and the run."""
        store = self._client.tracking_uri
        ui = "" if store.startswith("http") else f"; mlflow ui --backend-store-uri {store}"
        return f"run {self._runs[key]} of experiment {self._experiment} in {store}{ui}"

    def _experiment_id(self) -> str:
        """The experiment that MLflow's own variables name, made if it is not there."""
        if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return named
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        there = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if there is None else there.experiment_id)

    def _continued(self, run: str) -> dict[str, str] | None:
        """The parameters of a run of an earlier session, which runs again; None if the store does not have it."""
        from mlflow.exceptions import MlflowException

        try:
            there = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # the variables name another store now
        if there.info.lifecycle_stage != "active":  # somebody deleted it
            return None
        self._client.update_run(run, status="RUNNING")
        return dict(there.data.params)

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        entities = [self._entities.Param(name, value) for name, value in params.items()]
        for start in range(0, len(entities), BATCH):
            self._client.log_batch(run, params=entities[start : start + BATCH])


def _check_file(store: str) -> None:
    """Check that the file of a store can be written, as MLflow would try for a minute. Raises: NasError if it cannot be."""
    scheme, _, file = store.partition(":///")
    if scheme != "sqlite":
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise NasError(f"{file} cannot be written: {error}") from None


def _name(name: str) -> str:
    """The name as MLflow allows it."""
    return NOT_IN_NAMES.sub("_", name)


TRACKER: Final = MlflowTracker
