"""Early stopping for several objectives: asynchronous successive halving by non-dominated rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.statistics import standard_error_pct

REDUCTION: Final = 3  # of the trials at a rung, one in so many goes on (eta of Hyperband and of ASHA, arXiv:1810.05934)
RUNGS: Final = 2  # at a ninth and at a third of the epochs
FIRST_RUNG: Final = 3  # epochs; before, the learning rate is still rising, and networks do little better than chance
STANDARD_ERRORS: Final = 2.0  # of top-1, by which a network must be better to count as better


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs after which a training of so many is judged: a ninth and a third of them, rounded up, but not the first two."""
    at = {-(-epochs // REDUCTION**i) for i in range(1, RUNGS + 1)}
    return tuple(sorted(epoch for epoch in at if FIRST_RUNG <= epoch < epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a trial stands at a rung."""

    top1_pct: float
    """On the search validation part, so far."""
    margin: float
    """Two standard errors of it, percent points; what lies nearer is taken as equal."""
    costs: tuple[float, ...]
    """What is known exactly before training, each the lower the better."""

    @staticmethod
    def of(top1_pct: float, val_images: float, costs: tuple[float, ...]) -> "Standing":
        """From top-1 over so many images."""
        margin = STANDARD_ERRORS * standard_error_pct(top1_pct, val_images)
        return Standing(top1_pct=top1_pct, margin=margin, costs=costs)

    def dominates(self, other: "Standing") -> bool:
        """Whether it is clearly more accurate, and costs no more in anything."""
        margin = max(self.margin, other.margin)
        return self.top1_pct > other.top1_pct + margin and all(map(float.__le__, self.costs, other.costs))


@dataclass(slots=True, kw_only=True)
class Halving:
    """Decides after certain epochs which trials go on.

    A trial's rank at a rung is the number of trials there that dominate it, so that a network is held only against those that
    cost no more: a cheap one never against giants. It goes on while no more than one in REDUCTION of the others has a lower
    rank. With a single objective this is asynchronous successive halving. Trials are judged as they come; the first are not,
    until there are REDUCTION others to hold them against.
    """

    epochs: int
    """Of a whole training."""
    standings: dict[int, dict[int, Standing]] = field(default_factory=dict)
    """Rung → trial → where it stands."""
    ranks: dict[int, dict[int, int]] = field(default_factory=dict)
    """Rung → trial → its rank."""

    def goes_on(self, trial: int, epoch: int, standing: Standing) -> bool:
        """Whether a trial goes on after an epoch; notes how it stands there."""
        if epoch not in rungs(self.epochs):
            return True
        at, ranks = self.standings.setdefault(epoch, {}), self.ranks.setdefault(epoch, {})
        others = {number: other for number, other in at.items() if number != trial}
        if trial not in at:  # one that was killed may come again, and has been counted
            for number, other in others.items():
                ranks[number] += standing.dominates(other)
        at[trial] = standing
        ranks[trial] = sum(other.dominates(standing) for other in others.values())
        ahead = sum(ranks[number] < ranks[trial] for number in others)
        return len(others) < REDUCTION or ahead * REDUCTION <= len(others)


class EarlyStopping(FIFOScheduler):
    """Stops a trial after an epoch when it falls behind, or when the search is interrupted; baselines train to their end."""

    def __init__(self, halving: Halving, *, enabled: bool, interrupted: Event) -> None:
        super().__init__()
        self.halving = halving
        self.enabled = enabled
        self.interrupted = interrupted

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles schedulers to resume from, and here the run folder holds the state."""
        return {}

    def on_trial_result(
        self,
        tune_controller: TuneController,  # noqa: ARG002 - the signature is Ray's
        trial: Trial,
        result: dict[str, Any],
    ) -> str:
        """What Ray is to do with the trial."""
        goes_on = "epoch" not in result or (not self.interrupted.is_set() and self._judged(trial.config, result))
        decision: str = TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
        return decision

    def _judged(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
        if config["costs"] is None:  # a baseline
            return True
        standing = Standing.of(result["val_top1_pct"], result["val_images"], tuple(config["costs"]))
        return self.halving.goes_on(config["trial"], result["epoch"], standing) or not self.enabled
