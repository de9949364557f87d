"""Progress of long commands: bars in a terminal; in a pipe, a line per trial of a search or per epoch of a training."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from nas.cli.output import log_to_stdout
from nas.training.settings import Epoch

if TYPE_CHECKING:  # importing it loads Ray, which a training does not need
    from nas.searching.searcher import ArchitectureSearcher

PHASES: Final = ("scores", "trainings", "fine-tunings", "trainings alone")  # of a search, in their order


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Give a callback of (done, total) that draws a bar with the time left; the first call shows the bar."""
    with Progress(TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(label, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def drawing() -> Status:
    """Shows in a terminal, while the block runs, that networks are drawn, which may take half a minute."""
    return Console().status("drawing networks")


@contextmanager
def shown_shared_training() -> Iterator[Callable[[int, int], None]]:
    """Show a training of shared weights while the block runs: a callback of (epochs done, epochs); in a pipe, its log lines."""
    columns = (TextColumn("shared weights"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeRemainingColumn())
    console = Console()
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=None)
            log_to_stdout()  # sys.stdout is now rich's, which prints above the bar
            yield lambda done, total: progress.update(task, completed=done, total=total)
    finally:
        log_to_stdout()


class ShownTraining(Progress):
    """A bar during each epoch of a training, and a line after it; `on_step` and `on_epoch` are the training's callbacks."""

    def __init__(self, epochs: int) -> None:
        console = Console()
        words = "{task.fields[speed]:,.0f} images/s, val_top1_pct {task.fields[top1]}, left"
        columns = (TextColumn(f"epoch {{task.fields[epoch]}}/{epochs}"), BarColumn(), TextColumn(words), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.epochs, self.epoch_begins = epochs, True
        self.task = self.add_task("", total=None, epoch=1, top1="-", speed=0.0)

    def __enter__(self) -> Self:
        """Do not start the bar yet: the first step does."""
        return self

    def on_step(self, done: int, total: int) -> None:
        """Draw how many images of the epoch are done, and the speed."""
        if self.epoch_begins:  # the speed must not include decoding and validation before this
            self.start()
            self.reset(self.task, total=total)
            self.epoch_begins = False
        self.update(self.task, completed=done)
        self.update(self.task, speed=self.tasks[0].speed or 0.0)

    def on_epoch(self, epoch: Epoch) -> None:
        """Print an epoch's loss, top-1, speed and time."""
        left = timedelta(seconds=round((self.epochs - epoch.epoch) * epoch.seconds))
        speed = f"{self.tasks[0].speed:,.0f} images/s, " if self.tasks[0].speed else ""
        line = f"epoch {epoch.epoch}/{self.epochs}: loss {epoch.train_loss:.3f}, val_top1_pct {epoch.val_top1_pct:.2f}, "
        self.console.print(f"{line}{speed}{epoch.seconds:.1f} s, {left} left", highlight=False, soft_wrap=True)
        self.update(self.task, epoch=epoch.epoch % self.epochs + 1, top1=f"{epoch.val_top1_pct:.2f}")
        self.epoch_begins = True


class _SearchProgress(Progress):
    """A bar for each phase of a search, its trials by status, its best values so far, which the searcher has at each refresh."""

    def __init__(self, searcher: "ArchitectureSearcher") -> None:
        from nas.searching.status import status_lines  # imports Ray, which a training does not need

        self.searcher, self.status_lines, console = searcher, status_lines, Console()  # before super().__init__, which draws
        self.phases: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
        options: dict[str, Any] = {"refresh_per_second": 4, "speed_estimate_period": math.inf}
        super().__init__(*columns, console=console, disable=not console.is_terminal, **options)
        self.phases = {name: self.add_task(name, total=None, visible=False) for name in PHASES}

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars and two lines below them."""
        for phase in self.searcher.phases() if self.phases else ():
            self.update(self.phases[phase.name], completed=phase.ended, total=phase.total, visible=True)
        counts, best = self.status_lines(self.searcher)
        yield self.make_tasks_table(self.tasks)
        yield Text.from_markup(counts)
        yield Text(best)


@contextmanager
def shown_search(searcher: "ArchitectureSearcher") -> Iterator[None]:
    """Show a search while the block runs; in a pipe only its log lines appear."""
    try:
        with _SearchProgress(searcher):
            log_to_stdout()  # sys.stdout is now rich's, which prints above the bar
            yield
    finally:
        log_to_stdout()
