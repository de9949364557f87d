"""Trackers: where a search or a training is logged beside its own folder. Each file here exports one as TRACKER."""

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from nas.errors import NasError, describe_error, unknown_name
from nas.files import write_atomically
from nas.plugins import is_path, load_plugin, plugin_names

logger = logging.getLogger(__name__)

PROJECT: Final = "frontier-nas"  # or what a tracker's own settings say
KEY_FILE: Final = "tracked"  # the key of a search or a training, with which trackers continue it after a resume
LAST_SECONDS: Final = 60.0  # that a tracker may take at the end to send what is left


class Tracker(ABC):
    """Logs one search or one training. Its methods are called in one thread of its own; whatever they raise turns it off."""

    def __init__(self, *, key: str, name: str, project: str, folder: Path) -> None:
        """`key` is the same after a resume, and no other search or training has it; a tracker may write files to `folder`."""
        self.key, self.name, self.project, self.folder = key, name, project, folder

    @abstractmethod
    def begin(self, trial: int | None, facts: Mapping[str, Any]) -> None:
        """A trial begins or continues, with its parameters and costs; None is the whole, which comes first."""

    @abstractmethod
    def epoch(self, trial: int | None, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch of a trial has ended, or of the training itself."""

    @abstractmethod
    def end(
        self, trial: int | None, status: str, values: Mapping[str, float], *, error: str = "", files: Sequence[Path] = ()
    ) -> None:
        """A trial has ended, or at last the search or the training itself; `files` are its front and its page."""


class Trackers:
    """The trackers of one search or training. They fail nothing and hold up nothing: each works in a thread of its own."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Import the trackers.

        Raises: NasError for an unknown one, or one whose package is not installed.
        """
        self._kinds = {name: _load(name) for name in names}
        self._threads: list[_TrackerThread] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._kinds)

    def open(self, keeps_key: Path, facts: Mapping[str, Any], *, name: str, folder: Path) -> None:
        """Begin to log a search or a training, or continue. `keeps_key` keeps its key; files may go to `folder`."""
        if not self._kinds:
            return
        key = _key(keeps_key)
        for kind, tracker in self._kinds.items():
            self._threads.append(_TrackerThread(kind, partial(tracker, key=key, name=name, project=PROJECT, folder=folder)))
        self.begin(None, facts)

    def begin(self, trial: int | None, facts: Mapping[str, Any]) -> None:
        """Log that a trial begins."""
        self._tell("begin", trial, dict(facts))

    def epoch(self, trial: int | None, epoch: int, values: Mapping[str, float]) -> None:
        """Log an epoch."""
        self._tell("epoch", trial, epoch, dict(values))

    def end(self, trial: int | None, status: str, values: Mapping[str, float], **more: Any) -> None:
        """Log the end of a trial."""
        self._tell("end", trial, status, dict(values), **more)

    def close(self) -> None:
        """Wait until all is logged, for a minute at most."""
        deadline = time.monotonic() + LAST_SECONDS
        for thread in self._threads:
            thread.close(deadline)
        self._threads.clear()

    def _tell(self, method: str, *arguments: Any, **more: Any) -> None:
        for thread in self._threads:
            thread.calls.put((method, arguments, more))


class _TrackerThread:
    """One tracker at work. The first error turns it off, with one warning."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self.name, self.calls, self.failed = name, SimpleQueue[tuple[str, tuple[Any, ...], dict[str, Any]] | None](), False
        self._thread = threading.Thread(target=self._work, args=(make,), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def close(self, deadline: float) -> None:
        self.calls.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and not self.failed:
            self.failed = True  # no second warning
            logger.warning(
                "%s does not answer; what it has not yet logged is lost to it, and the results are complete", self.name
            )

    def _work(self, make: Callable[[], Tracker]) -> None:
        try:
            tracker = make()
            while (call := self.calls.get()) is not None:
                method, arguments, more = call
                getattr(tracker, method)(*arguments, **more)
        except BaseException as error:  # noqa: BLE001 - a library may even end the process, which is not its to end
            if not self.failed:
                self.failed = True
                logger.warning("%s cannot log, and is off from now on: %s", self.name, describe_error(error))


def check_log(names: object) -> None:
    """Check that there are such trackers, without importing them.

    Raises: NasError if there are not.
    """
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise NasError(f"log: {names!r} is not a tuple of names, such as ('tensorboard',)")
    if len(set(names)) < len(names):
        raise NasError(f"log: {', '.join(names)} names one tracker twice")
    for name in names:
        if not is_path(name) and name not in plugin_names("tracker"):
            raise unknown_name("tracker", name, plugin_names("tracker"))


def _load(name: str) -> type[Tracker]:
    try:
        tracker = load_plugin("tracker", name)
    except ImportError as error:
        raise NasError(
            f"log: {name} needs a package that cannot be imported ({error}); pip install 'frontier-nas[{name}]'"
        ) from None
    if not (isinstance(tracker, type) and issubclass(tracker, Tracker)):
        raise NasError(f"log: TRACKER of {name} is {tracker!r}; it must be a class that inherits nas.trackers.Tracker")
    return tracker


def _key(folder: Path) -> str:
    """The key of a run folder or a training, made when it is first logged."""
    file = folder / KEY_FILE
    if not file.is_file():
        write_atomically(file, f"{folder.name.removesuffix('.training')}-{secrets.token_hex(3)}\n")
    return file.read_text(encoding="utf-8").strip()


def finals(values: Mapping[str, Any]) -> dict[str, float]:
    """The values at the end that are numbers, by names of their own beside those of the epochs."""
    plain = {name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    return {f"final_{name}": float(value) for name, value in plain.items()}
