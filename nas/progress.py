"""A search as somebody who waits for it sees it: a few lines that stay in place in a terminal; a line per trial in a pipe."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.searcher import ArchitectureSearcher


@dataclass(slots=True, kw_only=True)
class _Shown:
    """What is drawn, anew at every refresh."""

    searcher: ArchitectureSearcher
    started: float
    ended_before: int
    """Trials that had ended when this session began."""

    def __rich__(self) -> RenderableType:
        searcher, tally = self.searcher, self.searcher.state.log.tally
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=self.trials, completed=tally.ended, width=40), f"{tally.ended}/{self.trials}", self._left())
        counts = [
            f"[green]{tally.done} done[/]",
            f"{len(searcher.pending)} running",
            f"{tally.stopped} stopped early",
            f"[red]{tally.failed} failed[/]" if tally.failed else "0 failed",
            f"{tally.infeasible} infeasible",
        ]
        return Group(bar, Text.from_markup(" · ".join(counts)), Text(self._best()))

    @property
    def trials(self) -> int:
        """How many are asked for."""
        return self.searcher.state.session.experiment.trials

    def _left(self) -> str:
        """Time that is left, from the trials of this session."""
        state = self.searcher.state
        ended = state.log.tally.ended - self.ended_before
        if state.interrupted.is_set():
            return "stopping when the epochs under way have ended"
        if not ended:
            return ""
        rate = (time.monotonic() - self.started) / ended
        return f"{timedelta(seconds=round(rate * max(0, self.trials - state.log.tally.ended)))} left"

    def _best(self) -> str:
        """The best value of each objective, and the hypervolume."""
        keeper = self.searcher.state.keeper
        if not keeper.front:
            return "no network yet"
        best = [min(losses) for losses in zip(*keeper.front.values(), strict=True)]
        objectives = self.searcher.state.session.plan.problem.objectives
        parts = [f"{one.name} {one.loss(loss):.4g}" for one, loss in zip(objectives, best, strict=True)]
        return f"best {', '.join(parts)}; front {len(keeper.front)}, hypervolume {keeper.hypervolume():.3f}"


@contextmanager
def shown_search(searcher: ArchitectureSearcher) -> Iterator[None]:
    """Where a search is shown on the standard output while it lasts."""
    console = Console()
    if not console.is_terminal:  # the log has a line per trial
        yield
        return
    shown = _Shown(searcher=searcher, started=time.monotonic(), ended_before=searcher.state.log.tally.ended)
    before = sys.stdout
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is before
    ]
    with Live(shown, console=console, refresh_per_second=4):
        for handler in handlers:
            handler.setStream(sys.stdout)  # which puts lines above what stays in place
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(before)
