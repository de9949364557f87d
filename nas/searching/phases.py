"""What a search by shared weights has left to do: networks to score, then those of its front to fine-tune and to train alone."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final, NamedTuple

from nas.runs.experiment import Experiment
from nas.runs.pareto import non_dominated
from nas.runs.trial import ENDED, Status, Trial, Weights
from nas.searching.problem import Problem
from nas.searching.warm_start import WarmStart
from nas.training.settings import TrainSettings

# A context manager that displays the training of shared weights: it gives a callback of (epochs done, epochs).
WatchTraining = Callable[[], AbstractContextManager[Callable[[int, int], None]]]

ORDER: Final = (Weights.SHARED, Weights.FINE_TUNED, Weights.TRAINED)  # each begins when those before it have ended
FINE_TUNING_LR_SHARE: Final = 0.3  # of the learning rate of a whole training; a slice is trained already

NUM_PAIRS: Final = 6  # twice what FrontierSampler needs to extrapolate


class FrontTraining(NamedTuple):
    """A training of a network of the front by shared weights."""

    scored: Trial
    weights: Weights
    """fine-tuned, or trained alone."""


class Phase(NamedTuple):
    """How far a part of a search is."""

    name: str
    ended: int
    """Networks that have ended."""
    total: int | None
    """None in a search that ends by itself."""


def fine_tuning(experiment: Experiment) -> TrainSettings | None:
    """The settings of a fine-tuning: the experiment's, for a few epochs with a low learning rate; None if there is none."""
    if not (experiment.uses_shared_weights and experiment.fine_tune):
        return None
    return replace(experiment.train, **fine_tuning_changes(experiment.fine_tune, lr=experiment.train.lr))


def fine_tuning_changes(epochs: int, *, lr: float) -> dict[str, Any]:
    """The settings that differ between a fine-tuning and a whole training, which has the learning rate `lr`."""
    return {"epochs": epochs, "lr": FINE_TUNING_LR_SHARE * lr, "ema_decay": 0.0}


def search_weights(experiment: Experiment) -> Weights | None:
    """How networks that the sampler proposes come by their weights; None if nothing needs training."""
    if experiment.uses_shared_weights:
        return Weights.SHARED
    return Weights.TRAINED if any(objective.needs_training for objective in experiment.steering) else None


def wanted(experiment: Experiment) -> int | str:
    """The number of the sampler's networks to score, or to train in a search without shared weights; `auto` has no number."""
    return experiment.shared_trials if experiment.uses_shared_weights else experiment.trials


def num_wanted(experiment: Experiment) -> float:
    """The same as a number, infinite for a search that ends by itself."""
    number = wanted(experiment)
    return math.inf if isinstance(number, str) else number


def can_continue(trial: Trial, experiment: Experiment) -> bool:
    """Whether the session can continue a trial that has not ended: one that needs shared weights only in a search by them."""
    return experiment.uses_shared_weights or trial.weights not in (Weights.SHARED, Weights.FINE_TUNED)


def scored_front(problem: Problem, trials: Iterable[Trial]) -> list[Trial]:
    """The front of the networks scored by shared weights that meet the limits; the most accurate comes first."""
    scored = [one for one in trials if one.weights is Weights.SHARED and one.status is Status.DONE]
    feasible = [one for one in scored if problem.examine(dict(one.params)).feasible]
    losses = [tuple(objective.loss(one.values[objective.name]) for objective in problem.objectives) for one in feasible]
    front = [one for one, kept in zip(feasible, non_dominated(losses), strict=True) if kept]
    return sorted(front, key=lambda one: _loss(problem, one))


def front_trainings(experiment: Experiment, problem: Problem, trials: Iterable[Trial]) -> Iterator[FrontTraining]:
    """The trainings of the front that have not begun: every fine-tuning, then, once these have ended, the trainings alone."""
    trials = [one for one in trials if not _is_outdated(one, experiment)]
    begun = {(one.id, one.weights) for one in trials if one.number is not None}
    front = scored_front(problem, trials)
    if experiment.fine_tune:
        yield from (FrontTraining(one, Weights.FINE_TUNED) for one in front if (one.id, Weights.FINE_TUNED) not in begun)
    tuned = [one for one in trials if one.weights is Weights.FINE_TUNED and one.status is Status.DONE]
    latest = {one.id: one for one in (*front, *tuned)}
    best = sorted(front, key=lambda one: _loss(problem, latest[one.id]))[: experiment.alone]
    yield from (FrontTraining(one, Weights.TRAINED) for one in best if (one.id, Weights.TRAINED) not in begun)


def _is_outdated(trial: Trial, experiment: Experiment) -> bool:
    """Whether a network was fine-tuned for another number of epochs than this session's."""
    is_done = trial.weights is Weights.FINE_TUNED and trial.status is Status.DONE
    return is_done and trial.outcome is not None and trial.outcome.epochs != experiment.fine_tune


def front_phases(experiment: Experiment, problem: Problem, trials: Iterable[Trial]) -> Iterator[Phase]:
    """The phases that train the front by shared weights, if they have a network."""
    trials = list(trials)
    left = Counter(training.weights for training in front_trainings(experiment, problem, trials))
    for name, weights in (("fine-tunings", Weights.FINE_TUNED), ("trainings alone", Weights.TRAINED)):
        begun = [one for one in trials if one.from_trial is not None and one.weights is weights]
        if total := left[weights] + len(begun):
            yield Phase(name, sum(one.status in ENDED for one in begun), total)


def work_left(experiment: Experiment, problem: Problem, trials: Iterable[Trial], *, over: bool = False) -> bool:
    """Whether networks are left to propose, or trainings of the front to begin; nothing is to be proposed in a search `over`."""
    trials = list(trials)
    shared = experiment.uses_shared_weights
    ended = sum(one.counts_as_score if shared else one.counts for one in trials)
    if ended < num_wanted(experiment) and not over:
        return True
    return shared and any(True for _ in front_trainings(experiment, problem, trials))


def scored_starts(problem: Problem, trials: Iterable[Trial]) -> list[WarmStart]:
    """Networks for a search by trainings to begin with, spread over the front of an earlier session's scores.

    From these pairs of score and training the sampler learns what the other scores are worth.
    """
    front = scored_front(problem, trials)
    num = min(NUM_PAIRS, len(front))
    spread = [front[i * (len(front) - 1) // max(1, num - 1)] for i in range(num)]
    return [WarmStart(params=dict(one.params), source="front", name=f"trial {one.number}") for one in spread]


def _loss(problem: Problem, trial: Trial) -> float:
    """The loss on the objective that needs training."""
    (objective,) = problem.trained
    return objective.loss(trial.values[objective.name])
