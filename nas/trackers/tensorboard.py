"""TensorBoard: files in the folder `tensorboard` of the run, a subfolder for each trial, with hyperparameters."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from nas.trackers import Tracker, finals


class TensorBoard(Tracker):
    """`tensorboard --logdir RUN/tensorboard` shows it."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        self._writers: dict[int | None, SummaryWriter] = {}
        self._facts: dict[int | None, dict[str, Any]] = {}

    def begin(self, trial: int | None, facts: Mapping[str, Any]) -> None:
        """Open the files of a trial."""
        name = self.key if trial is None else f"trial{trial:04}"
        self._writers[trial] = SummaryWriter(str(self.folder / "tensorboard" / name))
        self._facts[trial] = dict(facts)
        if trial is None:
            rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
            self._writers[None].add_text("settings", f"| | |\n|---|---|\n{rows}")
        self._writers[trial].flush()

    def epoch(self, trial: int | None, epoch: int, values: Mapping[str, float]) -> None:
        """Scalars, with the epoch as their step."""
        for name, value in values.items():
            self._writers[trial].add_scalar(name, value, epoch)
        self._writers[trial].flush()

    def end(
        self, trial: int | None, status: str, values: Mapping[str, float], *, error: str = "", files: Sequence[Path] = ()
    ) -> None:
        """The hyperparameters beside the values that they led to; the front as a text."""
        writer, facts = self._writers.pop(trial), self._facts.pop(trial)
        final = finals(values)
        if trial is not None:
            plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in facts.items()}
            for summary in hparams(plain | {"status": status}, final):
                writer._get_file_writer().add_summary(summary)  # noqa: SLF001 - `add_hparams` would make a folder of its own
        for name, value in final.items():
            writer.add_scalar(name, value)
        if error:
            writer.add_text("error", error)
        for file in files:
            if file.suffix == ".csv":
                writer.add_text(file.stem, _table(file))
        writer.close()


def _table(file: Path) -> str:
    """The rows of a CSV file in Markdown."""
    with file.open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


TRACKER = TensorBoard
