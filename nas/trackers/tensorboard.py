"""TensorBoard: event files, with a folder for each trial, hyperparameters for its HParams page, and the front as a text."""

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from nas.errors import needs_extra
from nas.runs.trial import Status
from nas.trackers import Job, Tracker

FOLDER: Final = "tensorboard"


class TensorBoardTracker(Tracker):
    """Writes event files with TensorBoard's own writer, which needs neither torch nor TensorFlow."""

    def __init__(self) -> None:
        with needs_extra("tensorboard"):
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
            from tensorboard.plugins.hparams import metadata as hparams
            from tensorboard.plugins.text import metadata as text
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
            from tensorboard.util.tensor_util import make_tensor_proto
        self._event, self._summary, self._hparams, self._text = event_pb2.Event, summary_pb2.Summary, hparams, text
        self._status, self._plugin_data = api_pb2.Status, plugin_data_pb2
        self._make_writer, self._tensor = EventFileWriter, make_tensor_proto
        self._writers: dict[str, Any] = {}
        self._folder = Path()
        self._steps: dict[str, int] = {}

    def begin(self, job: Job, past: str | None) -> str:
        """A new event file in the job's folder, which no other job has; TensorBoard reads several as one."""
        self._folder = job.folder / FOLDER
        others = (f"{job.key}-{number}" for number in count(2))
        name = past or next(name for name in chain([job.key], others) if not (self._folder / name).exists())
        self._writers[job.key] = self._make_writer(str(self._folder / name))
        self._steps[job.key] = 0
        if job.kind == "search":  # it would be a row among its trials on the HParams page
            self._write_text(job.key, "parameters", _table(["name", "value"], job.params.items()))
        elif past is None:
            self._write_hparams(job)
        if past is None:
            self.log(job.key, 0, job.values)
        return name

    def log(self, key: str, step: int, values: Mapping[str, float]) -> None:
        """One event with all values."""
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._steps[key] = step
        self._write(key, scalars, step)

    def attach(self, key: str, file: Path) -> None:
        """A table as a text of the same name; TensorBoard keeps no other files."""
        if file.suffix != ".csv":
            return
        with file.open(encoding="utf-8", newline="") as table:
            head, *rows = csv.reader(table)
        self._write_text(key, file.stem, _table(head, rows))

    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """Numbers as values of the last step, texts as texts, and the status for the HParams page."""
        self.log(key, self._steps[key], {name: value for name, value in values.items() if not isinstance(value, str)})
        for name, value in {**values, "status": status.value}.items():
            if isinstance(value, str):
                self._write_text(key, name, value)
        ended = {Status.FAILED: self._status.STATUS_FAILURE, Status.INTERRUPTED: self._status.STATUS_UNKNOWN}
        info = self._plugin_data.SessionEndInfo(status=ended.get(status, self._status.STATUS_SUCCESS), end_time_secs=time.time())
        data = self._plugin_data.HParamsPluginData(session_end_info=info)
        self._write_metadata(key, self._hparams.SESSION_END_INFO_TAG, data)
        self._writers.pop(key).close()

    def place(self, key: str) -> str:  # noqa: ARG002 - all jobs are in one folder
        """The command that shows all jobs."""
        return f"tensorboard --logdir {self._folder}"

    def _write_hparams(self, job: Job) -> None:
        info = self._plugin_data.SessionStartInfo(group_name=job.name, start_time_secs=time.time())
        for name, value in job.params.items():
            if isinstance(value, bool):
                info.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                info.hparams[name].number_value = value
            elif value is not None:
                info.hparams[name].string_value = str(value)
        data = self._plugin_data.HParamsPluginData(session_start_info=info)
        self._write_metadata(job.key, self._hparams.SESSION_START_INFO_TAG, data)

    def _write_metadata(self, key: str, tag: str, data: Any) -> None:
        about = self._hparams.create_summary_metadata(data)
        self._write(key, [self._summary.Value(tag=tag, metadata=about, tensor=self._hparams.NULL_TENSOR)], 0)

    def _write_text(self, key: str, tag: str, text: str) -> None:
        about = self._text.create_summary_metadata(display_name=tag, description="")
        tensor = self._tensor([text.encode()])
        self._write(key, [self._summary.Value(tag=tag, metadata=about, tensor=tensor)], self._steps[key])

    def _write(self, key: str, values: list[Any], step: int) -> None:
        writer = self._writers[key]
        writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        writer.flush()


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown."""
    return "\n".join("|" + "|".join(map(str, cells)) + "|" for cells in (head, ["---"] * len(head), *rows))


TRACKER: Final = TensorBoardTracker
