"""Ctrl-C and the signals that end a process, for work that can stop after an epoch."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from types import FrameType

logger = logging.getLogger(__name__)


def ending_at_once() -> AbstractContextManager[None]:
    """Handles the same signals for work that cannot stop after an epoch: the first ends the block at once."""
    interrupted = Event()
    interrupted.set()
    return interruptible(interrupted)


@contextmanager
def interruptible(interrupted: Event) -> Iterator[None]:
    """Handles Ctrl-C: the first sets `interrupted`, so that running epochs end; the second ends the block at once.

    So do SIGTERM and a closed terminal. Outside the main thread, where Python has no signals, it does nothing.

    Raises: KeyboardInterrupt with the signal that ended the block at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended_by: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's
        at_once = interrupted.is_set() or signum != signal.SIGINT  # Ray's own processes may have received the signal too
        interrupted.set()
        if at_once:
            ended_by.append(signum)
            raise KeyboardInterrupt
        logger.warning("stopping when the running epochs have ended; press Ctrl-C, or the stop button, again to stop at once")

    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # `nohup` ignores it
    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM, *hang_up)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if ended_by:  # Tune has caught the error
            raise KeyboardInterrupt(ended_by[0])
