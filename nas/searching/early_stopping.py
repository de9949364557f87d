"""Early stopping for several objectives: asynchronous successive halving by non-dominated rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.statistics import standard_error_pct

REDUCTION_FACTOR: Final = 3  # about one trial in this many continues after a rung (eta of Hyperband and ASHA, arXiv:1810.05934)
NUM_RUNGS: Final = 2  # at a ninth and at a third of the epochs
FIRST_RUNG: Final = 3  # epochs; earlier, the learning rate still rises and networks are little better than chance
MARGIN_STANDARD_ERRORS: Final = 2.0  # differences in top-1 up to this many standard errors count as ties


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs after which trials are compared: a ninth and a third of all, rounded up, from the third epoch on."""
    at = {-(-epochs // REDUCTION_FACTOR**i) for i in range(1, NUM_RUNGS + 1)}
    return tuple(sorted(epoch for epoch in at if FIRST_RUNG <= epoch < epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class RungResult:
    """A trial's result at a rung."""

    top1_pct: float
    """On the search validation part, after the rung's epoch."""
    margin: float
    """Two standard errors of the top-1, in percentage points; smaller differences count as ties."""
    costs: tuple[float, ...]
    """The losses that need no training."""

    @staticmethod
    def of(top1_pct: float, val_images: float, costs: tuple[float, ...]) -> "RungResult":
        """The result with a top-1 that was measured on `val_images` images."""
        margin = MARGIN_STANDARD_ERRORS * standard_error_pct(top1_pct, val_images)
        return RungResult(top1_pct=top1_pct, margin=margin, costs=costs)

    def dominates(self, other: "RungResult") -> bool:
        """True if its top-1 is higher by more than the margin and none of its costs is higher."""
        margin = max(self.margin, other.margin)
        return self.top1_pct > other.top1_pct + margin and all(map(float.__le__, self.costs, other.costs))


@dataclass(slots=True, kw_only=True)
class SuccessiveHalving:
    """Decides at each rung which trials continue.

    A trial's rank at a rung is the number of trials there that dominate it. So only networks that cost no more count against a
    network: never large ones against a small one. A trial continues if at most one in REDUCTION_FACTOR of the others has a lower
    rank. With a single objective this is asynchronous successive halving. Trials are judged as they arrive, once there are
    REDUCTION_FACTOR others at the rung.
    """

    epochs: int
    """The epochs of a whole training."""
    results: dict[int, dict[int, RungResult]] = field(default_factory=dict)
    """Rung → trial → its result."""
    ranks: dict[int, dict[int, int]] = field(default_factory=dict)
    """Rung → trial → its rank."""

    def should_continue(self, trial: int, epoch: int, result: RungResult) -> bool:
        """True if a trial continues after an epoch; stores its result if the epoch is a rung."""
        if epoch not in rungs(self.epochs):
            return True
        at, ranks = self.results.setdefault(epoch, {}), self.ranks.setdefault(epoch, {})
        others = {number: other for number, other in at.items() if number != trial}
        if trial not in at:  # a resumed trial may report the same rung again
            for number, other in others.items():
                ranks[number] += result.dominates(other)
        at[trial] = result
        ranks[trial] = sum(other.dominates(result) for other in others.values())
        ahead = sum(ranks[number] < ranks[trial] for number in others)
        return len(others) < REDUCTION_FACTOR or ahead * REDUCTION_FACTOR <= len(others)


class EarlyStopping(FIFOScheduler):
    """Stops a trial after an epoch if the search is interrupted or it falls behind; a trial without costs never does."""

    def __init__(self, halving: SuccessiveHalving, *, enabled: bool, interrupted: Event) -> None:
        super().__init__()
        self.halving = halving
        self.enabled = enabled
        self.interrupted = interrupted

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles schedulers to resume a search, but here the run folder holds the state."""
        return {}

    def on_trial_result(
        self,
        tune_controller: TuneController,  # noqa: ARG002 - the signature is Ray's
        trial: Trial,
        result: dict[str, Any],
    ) -> str:
        """Ray's next action for the trial: CONTINUE or STOP."""
        if "epoch" in result:
            should_continue = not self.interrupted.is_set() and self._judged(trial.config, result)
        else:  # an interrupted batch of scores ends after the one that it reports
            should_continue = len(trial.config["networks"]) == 1 or not self.interrupted.is_set()
        decision: str = TrialScheduler.CONTINUE if should_continue else TrialScheduler.STOP
        return decision

    def _judged(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
        if config["costs"] is None:  # the sampler did not propose it
            return True
        rung_result = RungResult.of(result["val_top1_pct"], result["val_images"], tuple(config["costs"]))
        return self.halving.should_continue(config["trial"], result["epoch"], rung_result) or not self.enabled
