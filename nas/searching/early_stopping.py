"""Early stopping: a training ends when it will hardly reach the front, as far as this run's trainings that have ended tell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.statistics import standard_error_pct

FIRST_EPOCH: Final = 3  # after which trainings are judged; earlier, the learning rate still rises
MIN_ENDED: Final = 5  # trainings that must have ended
MIN_SHARE: Final = 0.25  # of the chance to end on the front that a network has before its training
MARGIN_STANDARD_ERRORS: Final = 1.0  # of the top-1; smaller differences count as ties
RIDGE: Final = 0.3  # penalty of the regression, whose inputs are standardised
MAX_LEVERAGE: Final = 0.95  # of one training on its own forecast
MIN_DEVIATION: Final = 1e-6  # of a forecast; more than its rounding error

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a training before it begins."""

    costs: tuple[float, ...]
    """The losses that need no training."""
    settings: tuple[float, ...] = ()
    """Its settings as numbers, where they differ between trainings."""
    feasible: bool = True
    """Whether its network meets the limits, without which it cannot be on the front."""


@dataclass(slots=True, kw_only=True)
class Curve:
    """The top-1 of a training after its epochs."""

    traits: Traits
    val_images: float
    top1_pct: dict[int, float] = field(default_factory=dict)
    """Epoch → top-1 on the search validation part."""

    def inputs(self, epoch: int | None) -> list[float]:
        """What a forecast is made from: the costs, the settings, and after an epoch the best top-1 so far.

        While the learning rate is high, the best top-1 says more about the end than the latest one.
        """
        before = [*(math.copysign(math.log1p(abs(cost)), cost) for cost in self.traits.costs), *self.traits.settings]
        if epoch is None:
            return before
        return [*before, self.score(max(top1 for at, top1 in self.top1_pct.items() if at <= epoch))]

    def margin(self, epoch: int) -> float:
        """How much lower a top-1 counts as equal, percentage points; one of half an image at least is right, and one wrong."""
        half_image = 50 / self.val_images
        top1_pct = min(max(self.top1_pct[epoch], half_image), 100 - half_image)
        return MARGIN_STANDARD_ERRORS * standard_error_pct(top1_pct, self.val_images)

    def score(self, top1_pct: float) -> float:
        """Minus the logarithm of the error rate, in which differences between good networks are as large as between bad ones."""
        return -math.log(max(100 - top1_pct, 50 / self.val_images))  # no better than half an image


@dataclass(frozen=True, slots=True)
class Forecast:
    """A ridge regression of the score at the end on the inputs after an epoch."""

    center: Floats
    scale: Floats
    slopes: Floats
    inverse: Floats
    variance: float
    """Mean square of the errors, each of a training that the regression was fitted without."""

    @staticmethod
    def fit(inputs: Sequence[Sequence[float]], scores: Sequence[float]) -> "Forecast":
        """Fit to trainings that have ended; inputs: (trainings, inputs), scores: (trainings,)."""
        x, y = np.array(inputs), np.array(scores)
        center, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        rows = _rows(x, center, scale)
        penalty = np.diag([0.0] + [RIDGE] * x.shape[1])
        inverse: Floats = np.linalg.inv(rows.T @ rows + penalty).astype(np.float64)
        slopes: Floats = inverse @ rows.T @ y
        leverage = np.minimum(np.einsum("ij,jk,ik->i", rows, inverse, rows), MAX_LEVERAGE)
        return Forecast(center, scale, slopes, inverse, float(np.mean(((y - rows @ slopes) / (1 - leverage)) ** 2)))

    def chance_above(self, score: float, inputs: Sequence[float]) -> float:
        """The probability that a training with these inputs ends above a score."""
        row = _rows(np.array([inputs]), self.center, self.scale)[0]
        deviation = math.sqrt(self.variance * (1 + row @ self.inverse @ row)) + MIN_DEVIATION
        return 0.5 * math.erfc((score - float(row @ self.slopes)) / (math.sqrt(2) * deviation))


def _rows(inputs: Floats, center: Floats, scale: Floats) -> Floats:
    return np.column_stack([np.ones(len(inputs)), (inputs - center) / scale])


@dataclass(slots=True, kw_only=True)
class ForecastStopping:
    """Decides after each epoch which trainings continue.

    A regression over the trainings of this run that have ended forecasts the top-1 at the end, from the best top-1 so far, the
    costs and, where they differ, the settings. A training stops when its chance to end on the front has fallen below MIN_SHARE of
    what it was before the training. So an order that says little about the end stops little, and one that says nothing stops
    nothing. On the front, a network is as accurate as every ended one that costs no more; so a network never stops because of
    those that cost more.
    """

    epochs: int
    """The epochs of a whole training."""
    curves: dict[int, Curve] = field(default_factory=dict)
    """Trial → its training."""
    forecasts: dict[int | None, tuple[int, Forecast]] = field(default_factory=dict)
    """Epoch, or None before the training → (number of ended trainings, the latest forecast, which was made from these)."""

    def add(self, trial: int, epoch: int, top1_pct: float, *, val_images: float, traits: Traits) -> None:
        """Store the top-1 of a trial after an epoch; a resumed trial may report an epoch again."""
        self.curves.setdefault(trial, Curve(traits=traits, val_images=val_images)).top1_pct[epoch] = top1_pct

    def should_continue(self, trial: int, epoch: int) -> bool:
        """Whether a trial continues after an epoch that was added."""
        curve = self.curves[trial]
        ended = [one for one in self.curves.values() if self.epochs in one.top1_pct and min(one.top1_pct) <= epoch]
        if not FIRST_EPOCH <= epoch < self.epochs or len(ended) < MIN_ENDED:
            return True
        rivals = [one for one in ended if one.traits.feasible and all(map(float.__le__, one.traits.costs, curve.traits.costs))]
        if not rivals:
            return True
        bar = curve.score(max(one.top1_pct[self.epochs] - one.margin(self.epochs) for one in rivals))
        chances = [self._forecast(at, ended).chance_above(bar, curve.inputs(at)) for at in (epoch, None)]
        return chances[0] >= MIN_SHARE * chances[1]

    def _forecast(self, epoch: int | None, ended: Sequence[Curve]) -> Forecast:
        """The forecast after an epoch, or before the training."""
        if epoch not in self.forecasts or self.forecasts[epoch][0] != len(ended):
            scores = [one.score(one.top1_pct[self.epochs]) for one in ended]
            self.forecasts[epoch] = len(ended), Forecast.fit([one.inputs(epoch) for one in ended], scores)
        return self.forecasts[epoch][1]


class EarlyStopping(FIFOScheduler):
    """Stops a trial after an epoch if the search is interrupted or the rule says so; one without costs always continues."""

    def __init__(self, rule: ForecastStopping, *, enabled: bool, interrupted: Event) -> None:
        super().__init__()
        self.rule = rule
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
        number, epoch, images = config["trial"], result["epoch"], result["val_images"]
        traits = Traits(costs=tuple(config["costs"]), settings=tuple(config["settings"]))
        self.rule.add(number, epoch, result["val_top1_pct"], val_images=images, traits=traits)
        return not self.enabled or self.rule.should_continue(number, epoch)
