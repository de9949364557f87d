"""W&B: a group for each search, with a run for it and for each trial; WANDB_MODE=offline needs no account."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from nas.errors import NasError, needs_extra
from nas.runs.trial import Status
from nas.trackers import PROJECT, WAIT_SECONDS, Job, Tracker

EXIT_CODES: Final = {Status.FAILED: 1, Status.INTERRUPTED: 255}  # which W&B shows as failed and killed; all others as finished


class WandbTracker(Tracker):
    """Writes with the W&B library, whose variables, such as WANDB_PROJECT, say where."""

    def __init__(self) -> None:
        with needs_extra("wandb"):
            import wandb
        self._wandb = wandb
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", f"{WAIT_SECONDS:g}")  # else a server that is gone would keep our process
        wandb.setup(settings=wandb.Settings(silent=True, console="off"))  # its lines would break our display
        try:
            wandb.login(verify=False)  # at a terminal it asks for the key here, before anything is trained
        except wandb.errors.UsageError as error:
            raise NasError(f"{error} Without an account, set WANDB_MODE=offline") from None
        self._runs: dict[str, Any] = {}

    def begin(self, job: Job, past: str | None) -> str:
        """A run; of several live ones each has its own."""
        wandb, is_trial = self._wandb, job.kind == "trial"
        run = self._runs[job.key] = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=job.group,
            job_type=job.kind,
            name=job.name,
            id=past or token_hex(4),  # not that of WANDB_RUN_ID, which all runs would share
            resume=None if past is None else "allow",
            config=dict(job.params),
            allow_val_change=True,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=is_trial),  # the search's run has the machine's
        )
        run.summary.update(dict(job.values))
        return str(run.id)

    def log(self, key: str, step: int, values: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._runs[key].log(dict(values), step=step)

    def attach(self, key: str, file: Path) -> None:
        """An artifact of the run; a table also as W&B's own."""
        run = self._runs[key]
        if file.suffix == ".csv":
            with file.open(encoding="utf-8", newline="") as table:
                head, *rows = csv.reader(table)
            run.log({file.stem: self._wandb.Table(columns=head, data=rows)})
        artifact = self._wandb.Artifact(f"{file.stem}-{run.id}", type=file.stem)
        artifact.add_file(str(file))
        run.log_artifact(artifact)

    def end(self, key: str, status: Status, values: Mapping[str, Any]) -> None:
        """The run's summary, and its end."""
        run = self._runs.pop(key)
        run.summary.update({**values, "status": status.value})
        run.finish(exit_code=EXIT_CODES.get(status, 0))

    def place(self, key: str) -> str:
        """The run's page, or how to send the offline runs to one."""
        run = self._runs[key]
        return f"wandb sync {Path(run.dir).parents[1]}/offline-run-*" if run.offline else str(run.url)


TRACKER: Final = WandbTracker
