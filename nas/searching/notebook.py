"""A search in a Jupyter notebook: its log in the cell, a bar below it, and one sentence where it ends early."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from html import escape
from typing import Any, Final

from rich.text import Text

from nas.searching.searcher import ArchitectureSearcher
from nas.searching.status import status_lines

REFRESH_SECONDS: Final = 0.5


class Interrupted(KeyboardInterrupt):
    """A search that the stop button has ended."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback."""
        return ["interrupted; finished work is kept, and nas.resume(RUN) continues"]


def is_notebook() -> bool:
    """Whether this is the process of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


@contextmanager
def notebook() -> Iterator[None]:
    """Shows the log in the cell, unless the user has set up logging; elsewhere it does nothing.

    Raises: Interrupted for the stop button.
    """
    if not is_notebook():
        yield
        return
    ours = logging.getLogger("nas")
    handler, level = logging.StreamHandler(sys.stdout), ours.level
    quiet = not (ours.handlers or logging.getLogger().handlers)
    if quiet:
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(*stop.args) from None
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


@contextmanager
def shown_in_notebook(searcher: ArchitectureSearcher) -> Iterator[None]:
    """Shows how far a search is while the block runs, if this is a notebook."""
    if not is_notebook():
        yield
        return
    from IPython.display import display

    handle: Any = display(_drawn(searcher), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(REFRESH_SECONDS):
            handle.update(_drawn(searcher), raw=True)

    thread = threading.Thread(target=copy_context().run, args=(refresh,), daemon=True)  # the context knows the cell
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        handle.update(_drawn(searcher), raw=True)


def _drawn(searcher: ArchitectureSearcher) -> dict[str, str]:
    """The bars and the lines of a search as HTML, and as text."""
    counts, best = status_lines(searcher)
    lines = [Text.from_markup(counts).plain, best]
    phases = [(phase.name, phase.ended, phase.total) for phase in searcher.phases()]
    bars = [
        f'{name} <progress value="{ended}" max="{total or 1}"></progress> {ended}/{total or "?"}' for name, ended, total in phases
    ]
    return {
        "text/html": "<br>".join([*bars, *map(escape, lines)]),
        "text/plain": "\n".join([*(f"{name} {ended}/{total or '?'}" for name, ended, total in phases), *lines]),
    }
