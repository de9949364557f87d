"""Trackio: a group for the search, a run for each trial, in TRACKIO_DIR or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

import contextvars
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trackio
import trackio.run
import trackio.utils

from nas.trackers import Tracker, finals


def _say_nothing(*words: object, **options: object) -> None:
    """Instead of the lines that it prints for every run, through the bars of a search."""


trackio.print = trackio.run.print = trackio.utils.print = _say_nothing


class Trackio(Tracker):
    """`trackio show` shows it."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        self._runs: dict[int | None, Any] = {}

    def begin(self, trial: int | None, facts: Mapping[str, Any]) -> None:
        """Make the run of a trial, or continue it. Several go on at a time, each in a context of its own."""
        self._runs[trial] = contextvars.Context().run(
            trackio.init,
            project=re.sub(r"[^\w.-]", "-", self.project),
            name=self.key if trial is None else f"{self.key}-{trial}",
            group=self.key,
            config=dict(facts),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def epoch(self, trial: int | None, epoch: int, values: Mapping[str, float]) -> None:
        """Metrics, with the epoch as their step."""
        self._runs[trial].log(dict(values), step=epoch)

    def end(
        self, trial: int | None, status: str, values: Mapping[str, float], *, error: str = "", files: Sequence[Path] = ()
    ) -> None:
        """Final metrics and the status, with the files as artefacts."""
        run = self._runs.pop(trial)
        final = finals(values)
        run.log(final | {"status": status} | ({"error": error} if error else {}))
        for file in files:
            run.log_artifact(file, name=file.stem, type="front")
        run.finish()


TRACKER = Trackio
