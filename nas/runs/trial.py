"""One trial from its proposal to its end: the only form that it has between the log and the table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from nas.training.settings import Epoch


class Status(StrEnum):
    """What became of a proposal."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    DUPLICATE = "duplicate"


class Reason(StrEnum):
    """Why a trial failed, or what stopped it."""

    OOM = "oom"
    NAN = "nan"
    BUSY = "busy"
    CRASH = "crash"
    TIMEOUT = "timeout"
    NODE = "node"
    LIMIT = "limit"


UNDER_WAY: Final = frozenset({Status.RUNNING, Status.INTERRUPTED})
ENDED: Final = frozenset({Status.DONE, Status.STOPPED, Status.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended, and what its training gave."""

    status: Status
    """done, failed or stopped."""
    reason: Reason | None = None
    """Of a failure; limit for what a later limit stopped."""
    error: str | None = None
    """The failure in one sentence."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Objective name → value."""
    history: tuple[Epoch, ...] = ()
    epochs: int = 0
    """Passes over the training part."""
    seconds: float | None = None
    """Of building, training and validating."""
    fingerprint: str | None = None
    """Of the classes predicted for every image of the search validation part."""
    device: str | None = None
    precision: str | None = None
    peak_memory_mb: float | None = None
    """Of the GPU's memory, where there is one; 10^6 bytes."""

    def to_record(self) -> dict[str, Any]:
        """Plain values, as they cross a process."""
        return asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "Outcome":
        """What `to_record` gave, or a line of the trial log.

        Raises: TypeError, ValueError or KeyError for something else.
        """
        plain = {field.name: record[field.name] for field in fields(Outcome) if field.name in record}
        reason, epochs = plain.get("reason"), tuple(Epoch(**epoch) for epoch in plain.get("history", ()))
        typed = {"status": Status(plain["status"]), "reason": Reason(reason) if reason else None, "history": epochs}
        return Outcome(**plain | typed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A proposal, and what became of it."""

    number: int | None
    """In the order of proposal, from 0; None for a proposal that was skipped, infeasible or duplicate."""
    id: str
    """Of the network."""
    status: Status
    params: Mapping[str, Any]
    """Of the space; empty for a network that is no point of it."""
    values: Mapping[str, float]
    """Objective or limit name → value, as far as they are known."""
    architecture: str | None = None
    """The network's text; None for a skipped proposal."""
    source: str = "search"
    """search, reference, start or reuse."""
    name: str | None = None
    """Of a reference or start as it was given; of a reuse, the run and its trial; of a duplicate, the trial of its network."""
    is_baseline: bool = False
    outcome: Outcome | None = None
    """None while it has not ended; of an interrupted one what it had."""
    reused: bool = False
    """Whether its outcome is another run's."""
    started: str | None = None
    """Time in UTC, ISO 8601."""
    ended: str | None = None
    retries: int = 0
    """How often it began again after its worker process or machine was lost."""
    crashes: int = 0
    """Of those, when only the process was lost."""

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that a search is asked for, and has ended."""
        by_limit = self.outcome is not None and self.outcome.reason is Reason.LIMIT
        return self.status in ENDED and not (self.is_baseline or self.reused or by_limit)
