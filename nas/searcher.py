"""The driver's side of a trial: asks Optuna for architectures that are allowed and new, and tells it what became of them.

A Ray Tune Searcher, so that Ray runs the trials, around an Optuna study, so that any of its samplers proposes them. Read
`driver.py` next for how the two are run.
"""

import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from nas.architecture import Architecture
from nas.errors import NasError, unknown, users_code
from nas.experiment import Experiment
from nas.objectives import Candidate, Objective
from nas.plugins import check_kind
from nas.published import reference, references
from nas.recipe import Outcome
from nas.runs import HISTORY_FILE, TRIALS_FILE, append
from nas.spaces import Params, sample, some_values

logger = logging.getLogger(__name__)

SAMPLER_ASKS: Final = 100  # of the sampler for one trial, before random draws stand in for it
RANDOM_ASKS: Final = 5_000  # before the space is taken to hold no further allowed network
# What ends a search: a user's file that raises, or what a full disk makes of the log, of Optuna's journal, and of Optuna
# reading its torn journal again.
ENDING: Final = (NasError, OSError, json.JSONDecodeError)
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

    @property
    def total_excess(self) -> float:
        """How far it is outside the limits, each in its own unit, summed; 0 inside."""
        return sum(max(0.0, excess) for excess in self.excess.values())


def examine(experiment: Experiment[Any, Any], params: Mapping[str, Any]) -> Network:
    """Decode parameters, measure what needs no training, and hold it against the limits.

    Raises: NasError if the space, the dataset or an objective of a user's own raises, or a value is not finite.
    """
    with users_code(f"space {experiment.space.name}: decode"):
        architecture = experiment.space.decode(params)
        check_kind("it", architecture, Architecture)
    with users_code(f"dataset {experiment.dataset.name}: classes"):
        candidate = Candidate(architecture=architecture, num_classes=len(experiment.dataset.classes))
    known = [objective for objective in experiment.objectives if not objective.needs_training]
    known += [limit.objective for limit in experiment.limits if limit.objective not in known]
    values = {objective.name: _measured(objective, candidate) for objective in known}
    excess = {str(limit): limit.excess(values[limit.objective.name]) for limit in experiment.limits}
    return Network(architecture=architecture, values=values, excess=excess)


def _measured(objective: Objective, candidate: Candidate) -> float:
    with users_code(f"objective {objective.name}"):
        value = objective.measure(candidate)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NasError(f"objective {objective.name} gave {value!r} for a network; it must give a finite number")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """How much of a space meets the limits, by random points."""

    share: float
    """Of the random points."""
    example: Mapping[str, Any]
    """Parameters of a network that meets them."""


def check_limits(experiment: Experiment[Any, Any]) -> Feasibility:
    """How much of the space meets the limits, by 1,000 random points; if none of them does, by a descent from the nearest.

    Without limits one point is examined, which is enough to meet what a user's own file raises.

    Raises: NasError if no network tried does, with the smallest and largest values found.
    """
    generator = random.Random(experiment.seed)
    probe = PROBE if experiment.limits else 1
    points = [*(sample(experiment.space.parameters, generator) for _ in range(probe)), *experiment.space.references.values()]
    networks = [examine(experiment, point) for point in points]
    admitted = [point for point, network in zip(points, networks, strict=True) if network.admitted]
    share = sum(network.admitted for network in networks[:probe]) / probe
    if admitted:
        return Feasibility(share=share, example=admitted[0])
    nearest = min(range(len(points)), key=lambda i: networks[i].total_excess)
    for point, network in _descent(experiment, points[nearest], networks[nearest]):
        networks.append(network)
        if network.admitted:
            return Feasibility(share=share, example=point)
    limits = " and ".join(map(str, experiment.limits))
    names = dict.fromkeys(limit.objective.name for limit in experiment.limits)
    found = (sorted(network.values[name] for network in networks) for name in names)
    ranges = "; ".join(f"{name} goes from {v[0]:.4g} to {v[-1]:.4g}" for name, v in zip(names, found, strict=True))
    raise NasError(
        f"no network of space {experiment.space.name} meets {limits}: over the {len(networks):,} nearest and random points tried "
        f"{ranges}"
    )


def _descent(experiment: Experiment[Any, Any], point: Params, network: Network) -> Iterator[tuple[Params, Network]]:
    """Ever closer to the limits: one parameter at a time set to each of its values, as long as that helps."""
    moves = [{name: value} for name, distribution in experiment.space.parameters.items() for value in some_values(distribution)]
    before = math.inf
    while network.total_excess < before:
        before = network.total_excess
        for move in moves:
            changed = examine(experiment, point | move)
            yield point | move, changed
            if changed.total_excess < network.total_excess:
                point, network = point | move, changed


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

    def __init__(
        self, experiment: Experiment[Any, Any], study: optuna.Study, journal: optuna.Study, run: Path, feasible: Feasibility
    ) -> None:
        super().__init__()
        self.experiment = experiment
        self.study = study
        self.journal = journal
        self.run = run
        self.tally = Tally()
        self.failure: Exception | None = None  # of the log or a user's file; the driver raises it, as Ray would bury it
        self.exhausted = False  # no allowed and new network was found any more
        self._distributions = dict(experiment.space.parameters)
        self._random = random.Random(experiment.seed)
        self._seen: set[str] = set()  # ids of the architectures proposed
        self._pending: dict[str, Pending] = {}  # by Ray's trial id
        for name, params in experiment.space.references.items():
            network = examine(experiment, params)
            if network.admitted:
                exact = name in references() and network.architecture == reference(name)
                study.enqueue_trial(dict(params), user_attrs={"source": name if exact else f"like {name}"})
        if feasible.share == 0:  # no sampler would find by chance what took a descent to find
            study.enqueue_trial(dict(feasible.example))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles searchers to resume from, and here the run folder holds the state."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next architecture for Ray to run, or FINISHED when no allowed and new one is found any more."""
        if self.failure is None:
            try:
                return self._suggest(trial_id)
            except ENDING as error:
                self.failure = error
        return Searcher.FINISHED

    def _suggest(self, trial_id: str) -> Any:
        asked = self._ask()
        if asked is None:
            self.exhausted = True
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
        for _ in range(SAMPLER_ASKS if not self.exhausted else 0):
            trial = self.study.ask(self._distributions)
            network = self._accepted(trial)
            if network is not None:
                return trial, network
        if self.exhausted:
            return None
        for _ in range(RANDOM_ASKS):
            params = sample(self._distributions, self._random)
            network = examine(self.experiment, params)
            if network.admitted and network.architecture.id not in self._seen:
                self.study.enqueue_trial(params)
                trial = self.study.ask(self._distributions)
                accepted = self._accepted(trial)
                assert accepted is not None, "an enqueued trial has the parameters it was given"
                return trial, accepted
        return None

    def _accepted(self, trial: Trial) -> Network | None:
        """The network of a trial that is to be run; one that is not is told to Optuna and, if a limit forbids it, logged."""
        network = examine(self.experiment, trial.params)
        for limit, excess in network.excess.items():
            trial.set_constraint(limit, excess)
        architecture_id = network.architecture.id
        if not network.admitted:
            self.tally.infeasible += 1
            self._tell(trial, state=TrialState.PRUNED)
            append(self.run / TRIALS_FILE, {"event": "infeasible", "id": architecture_id, "values": dict(network.values)})
            return None
        if architecture_id in self._seen:
            self.tally.duplicates += 1
            self._tell(trial, state=TrialState.FAIL)  # samplers leave failed trials out, as they know this network
            return None
        self._seen.add(architecture_id)
        return network

    def _tell(self, trial: Trial, values: list[float] | None = None, state: TrialState | None = None) -> FrozenTrial:
        """Tell Optuna what became of a trial; a sampler that has proposed all it ever will ends the search."""
        try:
            return self.study.tell(trial, values, state)
        except RuntimeError:  # such a sampler calls Study.stop, which works within Study.optimize alone
            self.exhausted = True
            return self.study.get_trials(deepcopy=False)[trial.number]

    def on_trial_complete(  # the signature is Ray's
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Log what a trial ended as and tell Optuna; of one with an error, `fail` is told the reason next."""
        if not error and result is not None and "outcome" in result:
            self._finish(trial_id, json.loads(result["outcome"]))

    def fail(self, trial_id: str, reason: str, error: str) -> None:
        """Log and tell that a trial ended without an outcome of its own."""
        self._finish(trial_id, Outcome(status="failed", reason=reason, error=error).to_record())

    def interrupt(self) -> bool:
        """Whether the search ended before its time; the trials that were under way then end as interrupted."""
        early = not self.exhausted and self.tally.done + self.tally.failed < self.experiment.trials
        for trial_id in list(self._pending):
            self.fail(trial_id, "interrupted", "the search was interrupted")
        return early

    def _finish(self, trial_id: str, outcome: dict[str, Any]) -> None:
        pending = self._pending.pop(trial_id, None)
        if pending is None or self.failure is not None:
            return  # told already, or there is no log any more to tell it to
        try:
            self._end(pending, outcome)
        except ENDING as failure:
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
            told = self._tell(pending.trial, [values[objective.name] for objective in self.experiment.objectives])
            result = ", ".join(f"{objective.name} {values[objective.name]:.4g}" for objective in self.experiment.objectives)
        else:
            self.tally.failed += 1
            told = self._tell(pending.trial, state=TrialState.FAIL)
            result = f"{outcome['reason']}, {outcome['error']}"
        told.set_user_attr("trial", pending.number)
        self.journal.add_trial(told)
        ended = self.tally.done + self.tally.failed
        logger.info("%d/%d trial %d %s: %s", ended, self.experiment.trials, pending.number, outcome["status"], result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state. Ray calls this after every trial."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state."""
