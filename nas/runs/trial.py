"""A trial from its proposal to its end: read from the trial log, and written to a row of the results."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from nas.errors import is_disk_fault
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
    DIVERGED = "diverged"
    BUSY = "busy"
    CRASH = "crash"
    TIMEOUT = "timeout"
    NODE = "node"
    LIMIT = "limit"


class Weights(StrEnum):
    """How a network came by the weights that it was measured with."""

    TRAINED = "trained"
    """Trained from new weights with the whole settings."""
    SHARED = "shared"
    """Its slice of the shared weights."""
    FINE_TUNED = "fine-tuned"
    """Its slice, trained further for a few epochs."""


UNDER_WAY: Final = frozenset({Status.RUNNING, Status.INTERRUPTED})
ENDED: Final = frozenset({Status.DONE, Status.STOPPED, Status.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended, and what its training gave."""

    status: Status
    """done, failed or stopped; interrupted for what a trial has reached so far."""
    reason: Reason | None = None
    """Why it failed; `limit` if a limit of a later session stopped it; None otherwise."""
    error: str | None = None
    """The failure in one sentence."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Name of an objective → value."""
    history: tuple[Epoch, ...] = ()
    epochs: int = 0
    """Epochs trained."""
    seconds: float | None = None
    """Seconds of building, training and validating."""
    fingerprint: str | None = None
    """Digest of the classes predicted for the images of the search validation part."""
    device: str | None = None
    precision: str | None = None
    val_loss: float | None = None
    """Mean cross-entropy on the search validation part, nat."""
    peak_memory_mb: float | None = None
    """Peak of the GPU's memory, 10^6 bytes; None on a CPU."""

    @property
    def is_disk_fault(self) -> bool:
        """Whether the trial failed for the machine's disk, which says nothing about its network."""
        return self.status is Status.FAILED and self.error is not None and is_disk_fault(self.error)

    def to_record(self) -> dict[str, Any]:
        """The outcome as plain values, which one process can send to another."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A proposal, and what became of it."""

    number: int | None
    """Counted from 0 in the order of proposal; None for a skipped proposal (infeasible or duplicate)."""
    id: str
    """The network's id."""
    status: Status
    params: Mapping[str, Any]
    """Parameters of the space; empty for a network outside the space."""
    values: Mapping[str, float]
    """Name of an objective, limited or optimised → value; only those measured so far."""
    architecture: str | None = None
    """The network's text; None for a skipped proposal."""
    source: str = "search"
    """search, repeat, reference, start, reuse or front."""
    name: str | None = None
    """Name of a reference or start; run and trial that a reused result comes from; trial with the network of a duplicate."""
    weights: Weights | None = None
    """None for a skipped proposal, and where nothing needs training."""
    from_trial: int | None = None
    """The trial by shared weights whose network this one, of source front, fine-tunes or trains alone; else None."""
    is_baseline: bool = False
    seed: int | None = None
    """The seed of weights and batches; None for that of the experiment."""
    outcome: Outcome | None = None
    """None until the trial ends; an interrupted trial has what it reached."""
    reused: bool = False
    """Whether the outcome comes from another run."""
    started: str | None = None
    """Time of the proposal in UTC, ISO 8601."""
    ended: str | None = None
    retries: int = 0
    """Restarts after the worker process or the machine was lost."""
    crashes: int = 0
    """Restarts after the worker process alone was lost."""

    @property
    def counts(self) -> bool:
        """Whether it has ended and counts towards the experiment's `trials`: a network that the search chose and trained."""
        return self._is_choice and self.weights in (None, Weights.TRAINED)

    @property
    def counts_as_score(self) -> bool:
        """Whether it has ended and counts towards the experiment's `shared_trials`."""
        return self._is_choice and self.weights is Weights.SHARED

    @property
    def _is_choice(self) -> bool:
        """Whether it has ended and the sampler chose its network."""
        by_limit = self.outcome is not None and self.outcome.reason is Reason.LIMIT
        return self.status in ENDED and not (self.is_baseline or self.reused or by_limit or self.from_trial is not None)
