"""What the searcher counts, and what it keeps of a trial under way. Read `searcher.py` next."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from optuna.trial import Trial

from nas.baselines import Baseline
from nas.experiment import Experiment
from nas.feasibility import Examined
from nas.recipe import Outcome

CRASHES: Final = 2  # of the worker process, after which a network is given up
NODE_LOSSES: Final = 4  # after which a trial is given up


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

    def count(self, outcome: Mapping[str, Any]) -> None:
        """One more trial that has ended, or ask that was turned down; trials that a later limit ended are in no count."""
        name = "reused" if "reused" in outcome else outcome["status"]
        if outcome.get("reason") != "limit":
            setattr(self, name, getattr(self, name) + 1)

    @property
    def ended(self) -> int:
        """Trials that were trained and have ended."""
        return self.done + self.failed + self.stopped


@dataclass(slots=True, kw_only=True)
class Pending:
    """A trial under way, or to be gone on with."""

    number: int
    """In the order of proposal, from 0."""
    trial: Trial | None
    """Optuna's; None for a baseline, which nobody proposed."""
    network: Examined | Baseline
    epochs: dict[int, float] = field(default_factory=dict)
    """Epoch → top-1 after it."""
    lost_on: list[str | None] = field(default_factory=list)
    """The machine on which each of its worker processes died, where it is known."""
    started: float = 0.0
    """When it was last given to Ray, by the monotonic clock."""

    @property
    def so_far(self) -> dict[str, Any]:
        """What is known of it before it is trained to its end."""
        top1 = {"val_top1_pct": self.epochs[max(self.epochs)]} if self.epochs else {}
        return {"epochs": len(self.epochs), "values": dict(self.network.values) | top1}

    def crashes(self, alive: Collection[str]) -> int:
        """How often its process was lost and not its machine, which may be known later: those `alive` are."""
        return sum(where is None or where in alive for where in self.lost_on)

    def given_up(self, alive: Collection[str], reason: str, timeout: float) -> Outcome | None:
        """The failure as which it ends now that its process was lost again, or None if it begins again."""
        crashes = self.crashes(alive)
        if time.monotonic() - self.started >= timeout:
            reason, error = "timeout", f"not done after {timeout:g} s, and its process did not answer"
        elif len(self.lost_on) - crashes == NODE_LOSSES:
            reason, error = "node", f"its machine was lost, {NODE_LOSSES} times"
        elif crashes == CRASHES:
            error = "the worker process died" + " for lack of memory" * (reason == "oom")
        else:
            return None
        return Outcome(status="failed", reason=reason, error=error)


def told(pending: Pending, outcome: Mapping[str, Any], values: Mapping[str, float], experiment: Experiment, tally: Tally) -> str:
    """What a reader of the log is told of a trial that has ended."""
    status = outcome["status"]
    if status == "failed":
        result = f"{outcome['reason']}, {outcome['error']}"
    else:
        names = [objective.name for objective in experiment.objectives if objective.name in values]
        result = ", ".join(f"{name} {values[name]:.4g}" for name in names)
    after = f" after epoch {len(pending.epochs)} of {experiment.train.epochs}" if status == "stopped" else ""
    after = " by a limit" if outcome.get("reason") == "limit" else after
    if isinstance(pending.network, Baseline):
        return f"baseline {pending.network.name} {status}: {result}"
    if "reused" in outcome:
        return f"trial {pending.number} taken over: {result}"
    return f"{tally.ended}/{experiment.trials} trial {pending.number} {status}{after}: {result}"
