"""What somebody who waits sees: lines that stay in place in a terminal; in a pipe, a line per trial of a search or per epoch."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nas.training.settings import Epoch

if TYPE_CHECKING:  # it loads Ray, which no training needs
    from nas.searching.searcher import ArchitectureSearcher


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """What is called with (done, in all) and draws a bar with the time that is left, once it is known how much there is."""
    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, visible=False)
        yield lambda done, of: progress.update(task, completed=done, total=of, visible=True)


class ShownTraining:
    """What a training tells of itself: a bar over all of it, and a line per epoch."""

    def __init__(self, epochs: int, progress: Progress) -> None:
        self.epochs, self.progress, self.begins = epochs, progress, True
        self.task = progress.add_task("", total=None, epoch=1, top1="-", speed=0.0)

    def on_step(self, done: int, total: int) -> None:
        """So many images of the training have been trained on."""
        if self.begins:  # an epoch: what was done before, such as to decode images or to validate, says nothing of the speed
            self.progress.start()
            self.progress.reset(self.task, total=total)
            self.begins = False
        self.progress.update(self.task, completed=done)
        self.progress.update(self.task, speed=self.progress.tasks[0].speed or 0.0)

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        left = timedelta(seconds=round((self.epochs - epoch.epoch) * epoch.seconds))
        speed = self.progress.tasks[0].speed
        self.progress.console.print(
            f"epoch {epoch.epoch}/{self.epochs}: loss {epoch.train_loss:.3f}, val_top1_pct {epoch.val_top1_pct:.2f}, "
            f"{f'{speed:,.0f} images/s, ' if speed else ''}{epoch.seconds:.1f} s, {left} left",
            highlight=False,
            soft_wrap=True,
        )
        self.progress.update(self.task, epoch=min(epoch.epoch + 1, self.epochs), top1=f"{epoch.val_top1_pct:.2f}")
        self.begins = True


@contextmanager
def shown_training(epochs: int) -> Iterator[ShownTraining]:
    """Where a training is shown on the standard output while it lasts."""
    console = Console()
    progress = Progress(
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        BarColumn(),
        TextColumn("{task.fields[speed]:,.0f} images/s, val_top1_pct {task.fields[top1]}, left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        yield ShownTraining(epochs, progress)
    finally:
        progress.stop()


class _SearchProgress(Progress):
    """The bar of a search, what became of its trials, and the best so far, all read anew at every refresh."""

    def __init__(self, searcher: "ArchitectureSearcher") -> None:
        self.searcher, console = searcher, Console()  # first, as rich draws at once
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
        options: dict[str, Any] = {"refresh_per_second": 4, "speed_estimate_period": math.inf}
        super().__init__(*columns, console=console, disable=not console.is_terminal, **options)
        self.add_task("", total=searcher.state.session.experiment.trials, completed=searcher.state.log.tally.ended)

    def get_renderables(self) -> Iterator[RenderableType]:
        """What is drawn."""
        state, tally = self.searcher.state, self.searcher.state.log.tally
        for task in self.task_ids:
            self.update(task, completed=tally.ended)
        yield self.make_tasks_table(self.tasks)
        yield Text.from_markup(
            f"[green]{tally.done} done[/] · {len(self.searcher.pending)} running · {tally.stopped} stopped early · "
            f"{f'[red]{tally.failed} failed[/]' if tally.failed else '0 failed'} · {tally.infeasible} infeasible"
            f"{' · stopping when the epochs under way have ended' if state.interrupted.is_set() else ''}"
        )
        front = state.keeper.front
        best = [min(losses) for losses in zip(*front.values(), strict=True)]
        objectives = zip(state.session.plan.problem.objectives, best, strict=True) if front else ()
        values = ", ".join(f"{one.name} {one.loss(loss):.4g}" for one, loss in objectives)
        found = f"best {values}; front {len(front)}, hypervolume {state.keeper.hypervolume():.3f}"
        yield Text(found if front else "no network yet")


@contextmanager
def shown_search(searcher: "ArchitectureSearcher") -> Iterator[None]:
    """Where a search is shown on the standard output while it lasts; in a pipe the log's lines are all that there is."""
    before, handlers = sys.stdout, logging.getLogger().handlers
    moved = [one for one in handlers if isinstance(one, logging.StreamHandler) and one.stream is before]
    with ExitStack() as undo:
        undo.enter_context(_SearchProgress(searcher))
        for handler in moved:
            handler.setStream(sys.stdout)  # which puts lines above what stays in place
            undo.callback(handler.setStream, before)
        yield
