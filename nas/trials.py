"""What the searcher counts, and what it keeps of a trial under way. Read `searcher.py` next."""

from dataclasses import dataclass, field

from optuna.trial import Trial

from nas.feasibility import Examined


@dataclass(slots=True)
class Tally:
    """What the searcher has counted, over all sessions of the run."""

    done: int = 0
    failed: int = 0
    stopped: int = 0
    infeasible: int = 0
    """Asks that a limit turned down."""
    repeated: int = 0
    """Asks for an architecture already proposed."""
    reused: int = 0
    """Networks whose outcome another run had."""

    def count(self, status: str) -> None:
        """One more trial that ended as done, failed or stopped."""
        setattr(self, status, getattr(self, status) + 1)

    @property
    def ended(self) -> int:
        """Trials that were trained and have ended."""
        return self.done + self.failed + self.stopped


@dataclass(slots=True, kw_only=True)
class Pending:
    """A trial under way, or to be gone on with."""

    number: int
    """In the order of proposal, from 0."""
    trial: Trial
    network: Examined
    epochs: dict[int, float] = field(default_factory=dict)
    """Epoch → top-1 after it."""
    lost_on: list[str | None] = field(default_factory=list)
    """The machine on which each of its worker processes died, where it is known."""
    started: float = 0.0
    """When it was last given to Ray, by the monotonic clock."""
