"""Weights & Biases: a group for the search, a run for each trial. With WANDB_MODE=offline it needs no account."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from nas.trackers import Tracker, finals


class WeightsAndBiases(Tracker):
    """`wandb sync wandb/offline-run-*` sends what was logged offline."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        self._runs: dict[int | None, Any] = {}

    def begin(self, trial: int | None, facts: Mapping[str, Any]) -> None:
        """Make the run of a trial, or continue it."""
        whole = trial is None
        self._runs[trial] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", self.project),
            id=self.key if whole else f"{self.key}-{trial}",
            name=self.name if whole else f"{self.name}/trial {trial}",
            group=self.key,
            job_type="search" if whole else "trial",
            config=dict(facts),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def epoch(self, trial: int | None, epoch: int, values: Mapping[str, float]) -> None:
        """Metrics, with the epoch as their step."""
        self._runs[trial].log({"epoch": epoch, **values}, step=epoch)

    def end(
        self, trial: int | None, status: str, values: Mapping[str, float], *, error: str = "", files: Sequence[Path] = ()
    ) -> None:
        """The summary, with the files as artefacts."""
        run = self._runs.pop(trial)
        run.summary.update(finals(values) | {"status": status})
        if error:
            run.summary["error"] = error
        if files:
            artifact = wandb.Artifact(self.key, type="front")
            for file in files:
                artifact.add_file(str(file))
            run.log_artifact(artifact)
        run.finish(exit_code=1 if status == "failed" else 0)


TRACKER = WeightsAndBiases
