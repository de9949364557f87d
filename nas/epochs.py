"""A training as somebody who waits for it sees it: a bar in a terminal, a line per epoch in a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nas.recipe import Epoch


class ShownEpochs:
    """A line per epoch on the standard output, under which a bar grows over the whole training where that is a terminal."""

    def __init__(self, epochs: int, progress: Progress) -> None:
        self.epochs, self.progress = epochs, progress
        self.task = progress.add_task("", total=None, epoch=1, top1="-", speed=0.0)
        self.steps: list[tuple[float, int]] = []  # the first and the last of this epoch: (when, images done)

    def on_step(self, done: int, total: int) -> None:
        """So many images of the training have been trained on."""
        if self.progress.tasks[0].total is None:
            self.progress.start()  # now, since images may have been decoded before under a bar of their own
            self.progress.reset(self.task, total=total, completed=done)  # what was done before it was killed took no time now
        self.steps = [*self.steps[:1], (time.perf_counter(), done)]
        self.progress.update(self.task, completed=done, speed=self._rate())

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        left = timedelta(seconds=round((self.epochs - epoch.epoch) * epoch.seconds))
        rate = f"{self._rate():,.0f} images/s, " if self._rate() else ""
        top1 = f"{epoch.val_top1_pct:.2f}"
        self.progress.console.print(
            f"epoch {epoch.epoch}/{self.epochs}: loss {epoch.train_loss:.3f}, val_top1_pct {top1}, "
            f"{rate}{epoch.seconds:.1f} s, {left} left",
            highlight=False,
            soft_wrap=True,
        )
        self.steps = []
        self.progress.update(self.task, epoch=min(epoch.epoch + 1, self.epochs), top1=top1)

    def _rate(self) -> float:
        """Images a second in this epoch so far, without validation."""
        if len(self.steps) < 2:
            return 0.0
        (began, before), (now, done) = self.steps
        return (done - before) / (now - began)


@contextmanager
def shown_epochs(epochs: int) -> Iterator[ShownEpochs]:
    """Where a training is shown on the standard output while it lasts."""
    console = Console()
    columns: list[Any] = [
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        BarColumn(),
        TextColumn("{task.fields[speed]:,.0f} images/s, val_top1_pct {task.fields[top1]}, left"),
        TimeRemainingColumn(),
    ]
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    try:
        yield ShownEpochs(epochs, progress)
    finally:
        progress.stop()
