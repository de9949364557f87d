"""The driver's side of a trial: asks Optuna for architectures that are allowed and new, and tells it what became of them.

A Ray Tune Searcher, so that Ray runs the trials, around an Optuna study, so that any of its samplers proposes them. Read
`driver.py` next for how the two are run.
"""

import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from nas.architecture import Architecture
from nas.errors import NasError, unknown
from nas.experiment import Experiment
from nas.objectives import Candidate, Objective
from nas.recipe import Outcome
from nas.runs import HISTORY_FILE, TRIALS_FILE, append
from nas.spaces import sample

logger = logging.getLogger(__name__)

SAMPLER_ASKS: Final = 100  # of the sampler for one trial, before random draws stand in for it
RANDOM_ASKS: Final = 5_000  # before the space is taken to hold no further allowed network
# What a full disk makes of a line of the log, of Optuna's journal, and of Optuna reading its torn journal again.
WRITE_FAILURES: Final = (NasError, OSError, json.JSONDecodeError)
PROBE: Final = 1_000  # random points that tell, before anything is trained, whether any network meets the limits


def make_sampler(sampler: str | BaseSampler, seed: int) -> BaseSampler:
    """An Optuna sampler by its short name, or the one given.

    Raises: NasError for a name that is not known.
    """
    if isinstance(sampler, BaseSampler):
        return sampler
    makers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        # With these three, TPE proposes few networks twice (3 to 6 of 200 against 25 to 59 with its defaults).
        "tpe": lambda: optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
        "nsga3": lambda: optuna.samplers.NSGAIIISampler(population_size=20, seed=seed),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    }
    if sampler not in makers:
        raise unknown("sampler", sampler, makers)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return makers[sampler]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An architecture with what is known of it before training."""

    architecture: Architecture
    values: Mapping[str, float]
    """Objective or limit name → value, of those that need no training."""
    excess: Mapping[str, float]
    """Limit → how far outside, in its unit; 0 or less inside."""

    @property
    def admitted(self) -> bool:
        """Whether it meets every limit."""
        return all(excess <= 0 for excess in self.excess.values())


def examine(experiment: Experiment[Any, Any], architecture: Architecture) -> Network:
    """Measure what needs no training, and hold it against the limits."""
    candidate = Candidate(architecture=architecture, num_classes=len(experiment.dataset.classes))
    known = [objective for objective in experiment.objectives if not objective.needs_training]
    known += [limit.objective for limit in experiment.limits if limit.objective not in known]
    values = {objective.name: _measured(objective, candidate) for objective in known}
    excess = {str(limit): limit.excess(values[limit.objective.name]) for limit in experiment.limits}
    return Network(architecture=architecture, values=values, excess=excess)


def _measured(objective: Objective, candidate: Candidate) -> float:
    value = objective.measure(candidate)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NasError(f"objective {objective.name} gave {value!r} for a network; it must give a finite number")
    return float(value)


def check_limits(experiment: Experiment[Any, Any]) -> float:
    """The share of 1,000 random points of the space that meet the limits; 1 without limits.

    Raises: NasError if none does, with the smallest and largest values found.
    """
    if not experiment.limits:
        return 1.0
    generator = random.Random(experiment.seed)
    draws = (sample(experiment.space.parameters, generator) for _ in range(PROBE))
    points = [*draws, *experiment.space.references.values()]
    networks = [examine(experiment, experiment.space.decode(point)) for point in points]
    if not any(network.admitted for network in networks):
        limits = " and ".join(map(str, experiment.limits))
        names = dict.fromkeys(limit.objective.name for limit in experiment.limits)
        found = (sorted(network.values[name] for network in networks) for name in names)
        ranges = "; ".join(f"{name} goes from {v[0]:.4g} to {v[-1]:.4g}" for name, v in zip(names, found, strict=True))
        raise NasError(
            f"no network of space {experiment.space.name} meets {limits}: over {len(networks):,} of its points {ranges}"
        )
    return sum(network.admitted for network in networks[:PROBE]) / PROBE


@dataclass(slots=True)
class Tally:
    """What the searcher has counted so far."""

    started: int = 0
    done: int = 0
    failed: int = 0
    infeasible: int = 0
    """Asks that a limit turned down."""
    duplicates: int = 0
    """Asks for an architecture already proposed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A trial under way."""

    number: int
    """In the order of proposal, from 0."""
    trial: Trial
    network: Network


class ArchitectureSearcher(Searcher):
    """Proposes architectures that meet the limits and were never proposed before; writes the trial log.

    `study` is asked and told; `journal` is given each trial once it has ended, for others to look at.
    """

    def __init__(self, experiment: Experiment[Any, Any], study: optuna.Study, journal: optuna.Study, run: Path) -> None:
        super().__init__()
        self.experiment = experiment
        self.study = study
        self.journal = journal
        self.run = run
        self.tally = Tally()
        self.failure: Exception | None = None  # of the log or the journal; the driver raises it, as Ray would bury it
        self._distributions = dict(experiment.space.parameters)
        self._random = random.Random(experiment.seed)
        self._seen: set[str] = set()  # ids of the architectures proposed
        self._pending: dict[str, Pending] = {}  # by Ray's trial id
        for name, params in experiment.space.references.items():
            if examine(experiment, experiment.space.decode(params)).admitted:
                study.enqueue_trial(dict(params), user_attrs={"source": name})

    def suggest(self, trial_id: str) -> Any:
        """The next architecture for Ray to run, or FINISHED when no allowed and new one is found any more."""
        if self.failure is None:
            try:
                return self._suggest(trial_id)
            except WRITE_FAILURES as error:
                self.failure = error
        return Searcher.FINISHED

    def _suggest(self, trial_id: str) -> Any:
        asked = self._ask()
        if asked is None:
            logger.warning("no further network of the space meets the limits and is new; the search ends early")
            return Searcher.FINISHED
        trial, network = asked
        pending = Pending(number=self.tally.started, trial=trial, network=network)
        text = network.architecture.to_json()
        append(
            self.run / TRIALS_FILE,
            {"event": "start", "trial": pending.number, "id": network.architecture.id, "values": dict(network.values)}
            | {"params": trial.params, "source": trial.user_attrs.get("source", "search"), "architecture": text},
        )
        self.tally.started += 1
        self._pending[trial_id] = pending
        return {"trial": pending.number, "architecture": text}

    def _ask(self) -> tuple[Trial, Network] | None:
        """A trial of an allowed and new network, out of the sampler, else out of random draws."""
        for _ in range(SAMPLER_ASKS):
            trial = self.study.ask(self._distributions)
            network = self._accepted(trial)
            if network is not None:
                return trial, network
        for _ in range(RANDOM_ASKS):
            params = sample(self._distributions, self._random)
            network = examine(self.experiment, self.experiment.space.decode(params))
            if network.admitted and network.architecture.id not in self._seen:
                self.study.enqueue_trial(params)
                trial = self.study.ask(self._distributions)
                accepted = self._accepted(trial)
                assert accepted is not None, "an enqueued trial has the parameters it was given"
                return trial, accepted
        return None

    def _accepted(self, trial: Trial) -> Network | None:
        """The network of a trial that is to be run; one that is not is told to Optuna and, if a limit forbids it, logged."""
        network = examine(self.experiment, self.experiment.space.decode(trial.params))
        for limit, excess in network.excess.items():
            trial.set_constraint(limit, excess)
        architecture_id = network.architecture.id
        if not network.admitted:
            self.tally.infeasible += 1
            self.study.tell(trial, state=TrialState.PRUNED)
            append(self.run / TRIALS_FILE, {"event": "infeasible", "id": architecture_id, "values": dict(network.values)})
            return None
        if architecture_id in self._seen:
            self.tally.duplicates += 1
            self.study.tell(trial, state=TrialState.FAIL)  # samplers leave failed trials out, as they know this network
            return None
        self._seen.add(architecture_id)
        return network

    def on_trial_complete(  # the signature is Ray's
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Log what a trial ended as and tell Optuna; a worker that died has no result."""
        pending = self._pending.pop(trial_id, None)
        if pending is None or self.failure is not None:
            return  # told already, or there is no log any more to tell it to
        if error or result is None or "outcome" not in result:
            outcome = Outcome(status="failed", reason="crash", error="the worker process died").to_record()
        else:
            outcome = json.loads(result["outcome"])
        try:
            self._end(pending, outcome)
        except WRITE_FAILURES as failure:
            self.failure = failure

    def _end(self, pending: Pending, outcome: dict[str, Any]) -> None:
        """Write the outcome of a trial to the logs, and tell it."""
        values = dict(pending.network.values) | outcome["values"]
        history = outcome.pop("history")
        for epoch in history:
            append(self.run / HISTORY_FILE, {"trial": pending.number} | epoch)
        end = {"event": "end", "trial": pending.number, "epochs": len(history)} | outcome | {"values": values}
        append(self.run / TRIALS_FILE, end)
        if outcome["status"] == "done":
            self.tally.done += 1
            told = self.study.tell(pending.trial, [values[objective.name] for objective in self.experiment.objectives])
            result = ", ".join(f"{objective.name} {values[objective.name]:.4g}" for objective in self.experiment.objectives)
        else:
            self.tally.failed += 1
            told = self.study.tell(pending.trial, state=TrialState.FAIL)
            result = f"{outcome['reason']}, {outcome['error']}"
        told.set_user_attr("trial", pending.number)
        self.journal.add_trial(told)
        ended = self.tally.done + self.tally.failed
        logger.info("%d/%d trial %d %s: %s", ended, self.experiment.trials, pending.number, outcome["status"], result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state. Ray calls this after every trial."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state."""
