"""What Ray knows of its faults: why a trial ended, why a worker process died, and whether Ray's own processes still run."""

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RaySystemError, RayTaskError
from ray.tune.experiment import Trial

# Between looks at Ray's processes; Ray ends this process 15 s after its raylet, and 60 s after its GCS.
HEALTH_SECONDS: Final = 1.0
MARKS: Final = (":job_id:", ":actor_name:", ":task_name:")  # lines that Ray adds to what a worker prints
CUT_OFF: Final = (EOFError, UnpicklingError)  # errors of reading what Ray could write only in part, or not at all
UNSEEN: Final = "killed from outside, as for lack of memory, or by its own code"  # Ray knows only that the connection ended


def error_of(trial: Trial) -> BaseException | None:
    """The exception that ended a trial; that of the user's or our code where Ray wraps one.

    None if Ray has no exception, such as for a worker that it killed for its memory use, or could not write it to a full disk;
    `error_text` has what Ray says then.
    """
    file = trial.pickled_error_file  # beside the driver; Tune's own accessor looks in the storage, where it is not yet
    if file is None or not Path(file).is_file():
        return None
    try:
        error: BaseException = cloudpickle.loads(Path(file).read_bytes())
    except CUT_OFF:
        return None
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RaySystemError):  # raised where the arguments were unpickled
        cause = cause.client_exc
    return cause if isinstance(cause, BaseException) else error


def error_text(trial: Trial) -> str:
    """All that Ray says about the end of a trial."""
    with suppress(OSError, TypeError):
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    return ""


def death_of(text: str, report: dict[str, Any]) -> str:
    """Why a worker process died, in a few words: from Ray's text, and from what the process wrote to its standard error.

    `report` is the trial's last report, which says where that was.
    """
    printed = _printed(report)
    if signals := re.findall(r"^\*\*\* (SIG[A-Z]+) received", printed, re.MULTILINE):
        before = _last_line(printed.partition("*** SIG")[0])
        return f"{signals[0]}; {before}" if before else signals[0]
    detail = re.search(r"Worker exit detail: (.*)", text)
    reason = "" if detail is None else detail[1].removeprefix("Worker exits unexpectedly. ")
    if not reason or "connection error code" in reason:
        reason = UNSEEN
    last = _last_line(printed)
    return f"{reason.rstrip('.')}; last it wrote: {last}"[:500] if last else reason.rstrip(".")[:500]


def _printed(report: dict[str, Any]) -> str:
    """What the worker process wrote to its standard error in this trial; nothing if that was on another machine."""
    if "stderr" not in report:
        return ""
    with suppress(OSError), Path(report["stderr"]).open("rb") as file:
        file.seek(report["stderr_bytes"])
        return file.read(1_000_000).decode(errors="replace")
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(MARKS)]
    return lines[-1] if lines else ""


def is_users(error: BaseException | None) -> bool:
    """Whether an exception comes from the user's code or ours, and not from Ray."""
    return error is not None and not isinstance(error, RayError)


@dataclass(slots=True)
class Health:
    """Whether the processes run without which Ray ends this process: the control service, and the raylet of this machine."""

    addresses: dict[str, str] = field(default_factory=dict)
    looked: float = 0.0

    def ended(self) -> str | None:
        """The name of a process that has ended; None if all run. Looks once a second at most."""
        now = time.monotonic()
        if now - self.looked < HEALTH_SECONDS:
            return None
        self.looked = now
        if not self.addresses:
            self.addresses = _addresses()
        return next((name for name, address in self.addresses.items() if _refuses(address)), None)


def _addresses() -> dict[str, str]:
    context = ray.get_runtime_context()
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return {"gcs_server": context.gcs_address, "raylet": f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"}


def _refuses(address: str) -> bool:
    """Whether nothing listens at an address of a machine that answers."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:  # a slow network, of which Ray itself judges
        return False
