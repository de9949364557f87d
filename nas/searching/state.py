"""The state of a search session, and what begins and ends a trial in it."""

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

import optuna

from nas.runs.beliefs import BELIEFS_FILE, Belief
from nas.runs.optuna_study import create_study
from nas.runs.pareto import Box, Losses, dominates, front_of
from nas.runs.trial import Outcome, Reason, Status, Trial, Weights
from nas.sampler.history import Expectation, expectation
from nas.sampler.settings import LEARNING_CURVE
from nas.searching.believer import Believer
from nas.searching.checkpoint_storage import TrialFolder
from nas.searching.early_stopping import ForecastStopping
from nas.searching.ending import Growth, added_share
from nas.searching.front_weights import FrontWeights
from nas.searching.phases import search_weights, wanted
from nas.searching.plan import Session
from nas.searching.problem import Point
from nas.searching.proposals import Proposer
from nas.searching.samplers import FRONTIER, make_sampler
from nas.searching.tracked import TrackedTrials
from nas.searching.trial_writer import TrialLog
from nas.training.settings import Epoch

logger = logging.getLogger(__name__)

MARGIN: Final = 6.0  # believed standard deviations below the front at which weights are removed, as beliefs change
END_MARGIN: Final = 3.0  # the same once a session ends
MAX_CRASHES: Final = 2  # a trial fails when its worker process has died this many times
MAX_NODE_LOSSES: Final = 4  # a trial fails when it has lost its machine this many times
START_SECONDS: Final = 600.0  # of a worker process, before it trains; it imports torch, on a busy or remote disk


@dataclass(slots=True, kw_only=True)
class ActiveTrial:
    """A trial that runs or waits to continue."""

    number: int
    """In the order of proposal, from 0."""
    point: Point
    weights: Weights | None
    """None where nothing needs training."""
    optuna_trial: optuna.Trial | None = None
    """None for a network that this session's sampler did not propose: a baseline, and one of the front by shared weights."""
    expectation: Expectation | None = None
    """What the sampler expects of it; None if it does not say."""
    from_trial: int | None = None
    """The trial by shared weights whose network it fine-tunes or trains alone."""
    name: str | None = None
    """The name of a baseline, else None."""
    seed: int | None = None
    """The seed of weights and batches; None for that of the experiment."""
    epochs: dict[int, float] = field(default_factory=dict)
    """Epoch → top-1 after it."""
    lost_nodes: list[str | None] = field(default_factory=list)
    """The node of each worker process that died, None if unknown."""
    started: float | None = None
    """When its worker process was last there, by the monotonic clock; None until then."""
    begun: float | None = None
    """When its training or score last began; before, its process imports what it needs."""
    heard: float = 0.0
    """When it last reported."""
    overdue: bool = False
    """Whether its process is killed for taking too long."""
    is_silent: bool = False
    """Whether the log says that its worker process has been silent."""

    def begin(self) -> None:
        """Note that its training begins, or its score."""
        self.begun = self.heard = time.monotonic()

    def crashes(self, alive: Collection[str]) -> int:
        """The number of worker processes that died on a node that is still alive, or is unknown."""
        return sum(where is None or where in alive for where in self.lost_nodes)

    def seconds_over(self, timeout: float) -> float:
        """The seconds beyond its time: `timeout`, which counts from the begin of its training; at least START_SECONDS before."""
        if self.begun is not None:
            return time.monotonic() - self.begun - timeout
        return -math.inf if self.started is None else time.monotonic() - self.started - max(timeout, START_SECONDS)

    def failure(self, alive: Collection[str], reason: Reason, *, cause: str, timeout: float) -> Outcome | None:
        """Its failure if it took too long or has lost too many worker processes; None if it starts again.

        `cause` says why the last worker process died.
        """
        crashes = self.crashes(alive)
        if self.overdue and self.begun is not None:
            return Outcome(status=Status.FAILED, reason=Reason.TIMEOUT, error=f"not done after {timeout:g} s")
        if self.overdue:
            cause = f"it did not begin within {max(timeout, START_SECONDS):g} s"
        if len(self.lost_nodes) - crashes == MAX_NODE_LOSSES:
            return Outcome(status=Status.FAILED, reason=Reason.NODE, error=f"its machine was lost, {MAX_NODE_LOSSES} times")
        if crashes == MAX_CRASHES:
            return Outcome(status=Status.FAILED, reason=reason, error=f"the worker process died ({cause})")
        return None


@dataclass(slots=True, kw_only=True)
class SearchState:
    """The state that the searcher and the replay of earlier sessions share."""

    session: Session
    proposer: Proposer
    log: TrialLog
    front_weights: FrontWeights
    stopping: ForecastStopping
    believer: Believer | None
    """None where the front goes by what was measured."""
    growth: Growth = field(default_factory=Growth)
    interrupted: Event = field(default_factory=Event)
    """Set by Ctrl-C: no trial starts, and running ones stop after their epoch."""
    next_number: int = 0
    trials: dict[int, Trial] = field(default_factory=dict)
    """Every trial of this and earlier sessions by its number, as the log has it."""
    beliefs: dict[str, Belief] = field(default_factory=dict)
    """Network → what the last update believes of its top-1; empty before the first."""
    scores: dict[str, float] = field(default_factory=dict)
    """Network → its top-1 by shared weights in earlier sessions; a sampler of trainings learns from it as from an epoch 0."""
    waiting: deque[ActiveTrial] = field(default_factory=deque)
    """Trials to continue before new ones start."""

    @property
    def weights(self) -> Weights | None:
        """How networks that this session's sampler proposes come by their weights."""
        return search_weights(self.session.experiment)

    def propose(self, point: Point, optuna_trial: optuna.Trial, *, source: str, name: str | None) -> ActiveTrial:
        """Start a trial of a network that the sampler proposed, or that was enqueued for it; with another seed if it has one."""
        active = ActiveTrial(number=self.next_number, point=point, weights=self.weights, optuna_trial=optuna_trial)
        if point.id in self.proposer.seen:
            before = [trial for trial in self.trials.values() if trial.id == point.id and trial.weights == self.weights]
            active.seed = (self.session.experiment.seed + len(before)) % 2**32
            source, name = "repeat", f"trial {before[0].number}"
        active.expectation = expectation(optuna_trial)
        if active.expectation is not None:
            self.growth.expected.append(active.expectation.growth)
        return self._started(active, source=source, name=name)

    def begin_baseline(self, name: str, point: Point) -> ActiveTrial:
        """Start the trial of a baseline."""
        weights = Weights.TRAINED if self.session.plan.problem.trained else None
        if point.in_space:
            self.front_weights.pinned.add(self.next_number)
        active = ActiveTrial(number=self.next_number, point=point, weights=weights, name=name)
        return self._started(active, source="reference", name=name)

    def begin_of_front(self, scored: Trial, weights: Weights) -> ActiveTrial:
        """Start a training of a network of the front by shared weights."""
        point = self.session.plan.problem.examine(dict(scored.params))
        active = ActiveTrial(number=self.next_number, point=point, weights=weights, from_trial=scored.number)
        return self._started(active, source="front", name=f"trial {scored.number}")

    def _started(self, active: ActiveTrial, *, source: str, name: str | None) -> ActiveTrial:
        """Log a new trial."""
        point = active.point
        trial = Trial(
            number=active.number,
            id=point.id,
            status=Status.RUNNING,
            params=point.params,
            values=point.values,
            architecture=point.text,
            source=source,
            name=name,
            weights=active.weights,
            from_trial=active.from_trial,
            is_baseline=active.name is not None,
            seed=active.seed,
        )
        self.log.start(trial)
        self.next_number += 1
        self.add(trial)
        return active

    def add(self, trial: Trial) -> None:
        """Add a trial to those of the log; the sampler will not propose its network for such weights again."""
        assert trial.number is not None
        self.trials[trial.number] = trial
        if trial.weights == self.weights:
            self.proposer.seen[trial.id] = trial.number

    def epoch(self, pending: ActiveTrial, epoch: Epoch) -> None:
        """Log an epoch of a trial, once."""
        if epoch.epoch not in pending.epochs:
            pending.epochs[epoch.epoch] = epoch.val_top1_pct
            self.log.epoch(pending.number, epoch)

    def values_so_far(self, pending: ActiveTrial) -> dict[str, float]:
        """A trial's values before its end: its costs, and the last epoch's accuracy."""
        values = dict(pending.point.values)
        curve = self.curve(pending.epochs)
        return values | ({self.session.plan.problem.trained[0].name: curve[-1][1]} if curve else {})

    def curve(self, epochs: Mapping[int, float]) -> list[tuple[int, float]]:
        """(epoch, value) pairs of the trained objective; empty if epochs do not measure it."""
        return sorted(epochs.items()) if self.session.experiment.has_learning_curve else []

    def end(self, pending: ActiveTrial, outcome: Outcome, *, weights: Path | None = None, reused: bool = False) -> None:
        """Log a trial's outcome, keep its weights (from `weights` if given) if it is on the front, and report it to Optuna."""
        for epoch in outcome.history:  # epochs that the worker trained but did not report
            self.epoch(pending, epoch)
        failed = outcome.status is Status.FAILED
        values = dict(pending.point.values) if failed else self.values_so_far(pending) | dict(outcome.values)
        outcome = replace(outcome, values=values, history=(), epochs=outcome.epochs or len(pending.epochs))
        self.log.end(pending.number, outcome, reused=reused)
        ended = replace(self.trials[pending.number], status=outcome.status, values=values, outcome=outcome, reused=reused)
        self.trials[pending.number] = ended
        before = list(self.front_weights.front.values())
        if outcome.status is Status.DONE:
            losses = self.session.plan.problem.losses(values) if pending.point.feasible else None
            self.front_weights.done(pending.number, losses, weights=weights)
        else:
            self.front_weights.ended(pending.number)
        if pending.optuna_trial is not None:
            if curve := self.learned_curve(ended, pending.epochs):
                pending.optuna_trial.set_user_attr(LEARNING_CURVE, curve)
            self.proposer.tell(pending.optuna_trial, outcome.status, self.study_values(ended))
            self.log.tally.count(outcome.status, reason=outcome.reason, reused=reused)
            if ended.counts or ended.counts_as_score:
                added = added_share(before, list(self.front_weights.front.values()), list(self.front_weights.finished.values()))
                self.growth.end(added, self._surprise(pending, ended))
        self.update_beliefs()
        if self.session.tracking.is_on:
            self.log.tracked.progress(self.log.tally.ended, self._progress(ended))
        if self._is_logged(ended):
            logger.info("%s", self._summary(ended, len(pending.epochs)))

    def _surprise(self, pending: ActiveTrial, ended: Trial) -> float | None:
        """How far the outcome of a done trial lies from what the sampler predicted; None if it predicted nothing."""
        values, problem = self.study_values(ended), self.session.plan.problem
        if values is None or pending.expectation is None:
            return None
        return pending.expectation.surprise(values[problem.objectives.index(problem.trained[0])])

    def update_beliefs(self, *, at_once: bool = False) -> None:
        """Write what is believed of the networks, and remove the weights of those that are hardly on the front."""
        beliefs = self.believer.update(at_once=at_once) if self.believer is not None else {}
        if beliefs:
            self.beliefs = beliefs
            self.front_weights.prune(self._candidates(deviations=END_MARGIN if at_once else MARGIN))
        elif at_once and self.believer is not None:
            self.front_weights.prune(self.front_weights.front)

    def front(self) -> list[Losses]:
        """The losses of the networks on the front so far: by what is believed of them, once something is."""
        if not self.beliefs:
            return list(self.front_weights.front.values())
        networks = {self.trials[number].id: number for number in list(self.front_weights.finished)}
        return front_of([self._losses(number) for number in networks.values()])

    def hypervolume(self, front: Iterable[Losses]) -> float:
        """The share that a front dominates of the box around all finished feasible trials, 0 to 1."""
        return Box.around(list(self.front_weights.finished.values())).share(front)

    def _candidates(self, *, deviations: float) -> list[int]:
        """The done trials that are on the believed front, or would be if their top-1 were so many standard deviations higher."""
        front = self.front()
        hoped = {number: self._losses(number, deviations=deviations) for number in self.front_weights.finished}
        return [number for number, point in hoped.items() if not any(dominates(other, point) for other in front)]

    def _losses(self, number: int, *, deviations: float = 0.0) -> Losses:
        """The losses of a finished trial, with a top-1 so many standard deviations above what is believed of it."""
        trial, problem = self.trials[number], self.session.plan.problem
        if trial.weights is not Weights.TRAINED or trial.id not in self.beliefs:
            return self.front_weights.finished[number]
        belief = self.beliefs[trial.id]
        top1 = belief.mean + deviations * belief.deviation
        believed = problem.losses({**trial.values, problem.trained[0].name: top1})
        assert believed is not None, "a finished trial has a value of each objective"
        return believed

    def study_values(self, trial: Trial) -> list[float] | None:
        """What Optuna learns of a trial: the value of each objective; None if it is not done.

        In place of the top-1 by shared weights, whose steps are one image, it learns the loss, which ranks more finely.
        """
        if trial.status is not Status.DONE:
            return None
        values, problem = dict(trial.values), self.session.plan.problem
        if trial.weights is Weights.SHARED and trial.outcome is not None and trial.outcome.val_loss is not None:
            values |= {one.name: one.loss(trial.outcome.val_loss) for one in problem.trained}
        return [values[objective.name] for objective in problem.objectives]

    def learned_curve(self, trial: Trial, epochs: Mapping[int, float]) -> list[tuple[int, float]]:
        """(epoch, top-1) pairs that a sampler of trainings learns from; epoch 0 is the network's score by shared weights."""
        before = [(0, self.scores[trial.id])] if trial.id in self.scores else []
        return [*before, *self.curve(epochs)]

    def _progress(self, ended: Trial) -> dict[str, float]:
        """How far the search is after a trial, for its trackers; with the values of a score, which is no job of theirs."""
        tally, front, objectives = self.log.tally, self.front(), self.session.plan.problem.objectives
        best_losses = map(min, zip(*front, strict=True))  # none before a network is done
        best = {f"best_{one.name}": one.loss(loss) for one, loss in zip(objectives, best_losses, strict=False)}
        counts = {"done": tally.done, "failed": tally.failed, "stopped": tally.stopped, "num_front": len(front)}
        score = {f"score_{name}": value for name, value in ended.values.items() if ended.weights is Weights.SHARED}
        return counts | best | score

    def _is_logged(self, trial: Trial) -> bool:
        """Whether the log has a line for an ended trial: of scores only failures, the front and every twentieth part."""
        if trial.weights is not Weights.SHARED or trial.status is not Status.DONE:
            return True
        step = max(1, self.session.experiment.shared_trials // 20)
        return trial.number in self.front_weights.front or self.log.tally.ended % step == 0

    def _summary(self, trial: Trial, epochs: int) -> str:
        """The log line of a trial that has ended after so many epochs."""
        experiment, outcome = self.session.experiment, trial.outcome
        assert outcome is not None
        names = [one.name for one in experiment.objectives if one.name in outcome.values]
        result = ", ".join(f"{name} {outcome.values[name]:.4g}" for name in names)
        after = ""
        if outcome.status is Status.FAILED:
            result = f"{outcome.reason}, {outcome.error}"
        if outcome.status is Status.STOPPED:
            after = " by a limit" if outcome.reason is Reason.LIMIT else f" after epoch {epochs} of {experiment.train.epochs}"
        if trial.is_baseline:
            return f"baseline {trial.name} {outcome.status}: {result}"
        if trial.reused:
            return f"trial {trial.number} reused: {result}"
        if trial.from_trial is not None:
            how = "trained alone as" if trial.weights is Weights.TRAINED else "fine-tuned from"
            return f"trial {trial.number}, {how} trial {trial.from_trial}, {outcome.status}{after}: {result}{self._gain(trial)}"
        what = "score of " if trial.weights is Weights.SHARED else ""
        text = f"{what}trial {trial.number} {outcome.status}{after}: {result}"
        if trial.weights != self.weights:
            return text
        gain = self.growth.gain
        return f"{self.log.tally.ended}/{wanted(experiment)} {text}{f'; growth {gain} a trial' if gain else ''}"

    def _gain(self, trial: Trial) -> str:
        """By how much a done network of the front is better than its score."""
        name = self.session.plan.problem.trained[0].name
        if trial.status is not Status.DONE or trial.from_trial is None:
            return ""
        return f" ({trial.values[name] - self.trials[trial.from_trial].values[name]:+.2f})"


def make_state(session: Session) -> SearchState:
    """The state of a session before its replay and its first proposal."""
    experiment, problem = session.experiment, session.plan.problem
    seeds = experiment.seeds_per_network
    sampler = make_sampler(experiment.sampler, problem, seed=experiment.seed, session=session.number, seeds_per_network=seeds)
    log = TrialLog(run=session.run, tracked=TrackedTrials(session.tracking, session.run, session.history))
    directions = {objective.name: objective.direction for objective in problem.objectives}
    study = create_study(directions, name=session.run.name, sampler=sampler)
    believes = not experiment.uses_shared_weights and any(one.learning_curve for one in problem.trained[:1])
    is_own = experiment.sampler == FRONTIER
    has_beliefs = (session.run / BELIEFS_FILE).is_file()  # of trainings before a search by shared weights
    believer = Believer(session.run, problem, study, seed=experiment.seed, is_own=is_own) if believes else None
    return SearchState(
        session=session,
        proposer=Proposer(problem, study, log, seed=experiment.seed),
        log=log,
        front_weights=FrontWeights(
            run=session.run,
            folder=partial(TrialFolder.of, session.storage),
            keep_all=experiment.keep_all,
            trained=bool(problem.trained),
            believed=believes or has_beliefs,
        ),
        stopping=ForecastStopping(epochs=experiment.train.epochs),
        believer=believer,
    )
