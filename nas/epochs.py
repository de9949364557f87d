"""A training as somebody who waits for it sees it: a bar in a terminal, a line per epoch in a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nas.recipe import Epoch


class EpochLines:
    """What a training tells of itself, as a line per epoch."""

    def __init__(self, epochs: int, console: Console) -> None:
        self.epochs, self.console = epochs, console
        self.steps: list[tuple[float, int]] = []  # of this epoch: (when, images done)

    def on_step(self, done: int, total: int) -> None:  # noqa: ARG002 - the bar shows it
        """So many images of the training have been trained on."""
        self.steps = [*self.steps[:1], (time.perf_counter(), done)]

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        left = timedelta(seconds=round((self.epochs - epoch.epoch) * epoch.seconds))
        rate = f"{self.rate():,.0f} images/s, " if self.rate() else ""
        self.console.print(
            f"epoch {epoch.epoch}/{self.epochs}: loss {epoch.train_loss:.3f}, val_top1_pct {epoch.val_top1_pct:.2f}, "
            f"{rate}{epoch.seconds:.1f} s, {left} left",
            highlight=False,
            soft_wrap=True,
        )
        self.steps = []

    def rate(self) -> float:
        """Images a second in this epoch so far, without validation."""
        if len(self.steps) < 2:
            return 0.0
        (began, before), (now, done) = self.steps
        return (done - before) / (now - began)


class _Bar(EpochLines):
    """A bar over the whole training, and a line per epoch above it."""

    def __init__(self, epochs: int, console: Console, progress: Progress, task: TaskID) -> None:
        super().__init__(epochs, console)
        self.progress, self.task = progress, task

    def on_step(self, done: int, total: int) -> None:
        super().on_step(done, total)
        if self.progress.tasks[0].total is None:
            self.progress.start()  # now, since images may have been decoded before under a bar of their own
            self.progress.reset(self.task, total=total, completed=done)  # what was done before it was killed took no time now
        self.progress.update(self.task, completed=done, speed=self.rate())

    def on_epoch(self, epoch: Epoch) -> None:
        super().on_epoch(epoch)
        self.progress.update(self.task, epoch=min(epoch.epoch + 1, self.epochs), top1=f"{epoch.val_top1_pct:.2f}")


@contextmanager
def shown_epochs(epochs: int) -> Iterator[EpochLines]:
    """Where a training is shown on the standard output while it lasts."""
    console = Console()
    if not console.is_terminal:
        yield EpochLines(epochs, console)
        return
    columns: list[Any] = [
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        BarColumn(),
        TextColumn("{task.fields[speed]:,.0f} images/s, val_top1_pct {task.fields[top1]}, left"),
        TimeRemainingColumn(),
    ]
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("", total=None, epoch=1, top1="-", speed=0.0)
    try:
        yield _Bar(epochs, console, progress, task)
    finally:
        progress.stop()
