"""Proposals of new feasible networks, by an Optuna sampler."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState, create_trial

from nas.errors import NasError, describe_error, user_code
from nas.runs.trial import Status
from nas.sampler.history import is_repeat
from nas.searching.feasibility import Feasibility, descend, single_changes
from nas.searching.problem import Point, Problem
from nas.searching.trial_writer import TrialLog
from nas.searching.warm_start import WarmStart
from nas.spaces import Params, sample

MAX_INFEASIBLE_PROPOSALS: Final = 15  # per trial; then a descent from the nearest one finds a feasible network
MAX_DUPLICATE_PROPOSALS: Final = 2  # per trial; then one parameter of the last duplicate is changed
MAX_PROPOSALS: Final = 100  # per trial; only random search reaches it
MAX_RANDOM_DRAWS: Final = 5_000  # without a new feasible network, before the space counts as exhausted
OPTUNA_STATES: Final = {Status.DONE: TrialState.COMPLETE, Status.FAILED: TrialState.FAIL}  # any other status is PRUNED


class Proposer:
    """Proposes feasible networks by an Optuna study, without duplicates but those that the sampler chose to train again.

    It logs every proposal that it skips.
    """

    def __init__(self, problem: Problem, study: optuna.Study, log: TrialLog, *, seed: int) -> None:
        self.study = study
        self.seen: dict[str, int] = {}  # network id → number of its trial
        self.infeasible: set[str] = set()  # ids of infeasible proposals of earlier sessions
        self.exhausted = False  # no other feasible network was found
        self._problem = problem
        self._log = log
        self._distributions = dict(problem.space.parameters)
        self._random = random.Random(seed)

    def enqueue_starts(self, starts: Iterable[WarmStart], feasibility: Feasibility) -> None:
        """Enqueue the networks that are feasible and new, before the sampler's own proposals."""
        enqueued: set[str] = set()
        for start in starts:
            point = self._problem.examine(start.params)
            optional = point.id in self.infeasible or start.source == "reuse"  # logged before, or not named by the user
            if point.id in self.seen or point.id in enqueued or (optional and not point.feasible):
                continue
            enqueued.add(point.id)
            if point.feasible:
                self.study.enqueue_trial(start.params, user_attrs={"source": start.source, "name": start.name})
            else:
                self._log.skip(Status.INFEASIBLE, point, source=start.source, name=start.name)
        if not feasibility.num_feasible:  # no random point is feasible, so a sampler would hardly find one
            self.study.enqueue_trial(feasibility.example)

    def ask(self) -> tuple[Trial, Point] | None:
        """A trial of a new feasible network: the sampler's, one near its proposals, or a random one; None if none was found."""
        uniform = isinstance(self.study.sampler, RandomSampler)  # random replacements keep the sample uniform
        skipped = self._from_sampler(math.inf if uniform else MAX_DUPLICATE_PROPOSALS)
        if isinstance(skipped, tuple):
            return skipped
        params = None
        if not self.exhausted and uniform:
            params = self._random_params() or self._nearby(skipped)
        elif not self.exhausted:
            params = self._nearby(skipped) or self._random_params()
        if params is None:
            self.exhausted = True
            return None
        return self.enqueue(params)

    def enqueue(self, params: Params) -> tuple[Trial, Point]:
        """An Optuna trial with these parameters."""
        self.study.enqueue_trial(params)
        trial = self.study.ask(self._distributions)
        return trial, self._examined(trial)

    def tell(self, trial: Trial, status: Status, values: list[float] | None = None) -> None:
        """Report a trial's end to Optuna; if the sampler then stops its study, the search ends."""
        try:
            self.study.tell(trial, values, OPTUNA_STATES.get(status, TrialState.PRUNED))
        except RuntimeError as error:  # from Study.stop, which works within Study.optimize only
            if "Study.stop" not in str(error):
                raise NasError(f"sampler {type(self.study.sampler).__name__} raised {describe_error(error)}") from error
            self.exhausted = True

    def add_past_trial(self, point: Point, status: Status, values: list[float] | None, attributes: Mapping[str, Any]) -> None:
        """Add a trial of an earlier session to the study."""
        self.study.add_trial(
            create_trial(
                state=OPTUNA_STATES.get(status, TrialState.PRUNED),
                values=values,
                params=dict(point.params),
                distributions=self._distributions,
                constraints=dict(point.excess),
                user_attrs=dict(attributes),
            )
        )

    def _from_sampler(self, max_duplicates: float) -> tuple[Trial, Point] | list[Point]:
        """The sampler's next new feasible network; or its proposals, if all were skipped."""
        skipped: list[Point] = []
        for _ in range(MAX_PROPOSALS):
            infeasible = sum(not point.feasible for point in skipped)
            if self.exhausted or infeasible == MAX_INFEASIBLE_PROPOSALS or len(skipped) - infeasible == max_duplicates:
                break
            with user_code(f"sampler {type(self.study.sampler).__name__}"):
                trial = self.study.ask(self._distributions)
            point = self._examined(trial)
            if self._is_new(point) or (point.feasible and is_repeat(trial)):
                return trial, point
            if point.feasible:
                self.tell(trial, Status.FAILED)  # samplers ignore failed trials; the study has this network already
                self._log.skip(Status.DUPLICATE, point, name=f"trial {self.seen[point.id]}")
            else:
                self.tell(trial, Status.INFEASIBLE)
                self._log.skip(Status.INFEASIBLE, point)
            skipped.append(point)
        return skipped

    def _nearby(self, skipped: list[Point]) -> Params | None:
        """A new feasible network, one change from the last duplicate or by a descent from the least infeasible proposal."""
        if not skipped:
            return None
        nearest = min(reversed(skipped), key=lambda point: point.total_excess)
        near: Iterator[Point] = descend(self._problem, nearest, self._random)
        if nearest.feasible:
            near = (self._problem.examine(nearest.params | move) for move in single_changes(self._problem, self._random))
        return next((point.params for point in near if self._is_new(point)), None)

    def _random_params(self) -> Params | None:
        """A random point that is feasible and new; None if none was found."""
        points = (sample(self._distributions, self._random) for _ in range(MAX_RANDOM_DRAWS))
        return next((params for params in points if self._is_new(self._problem.examine(params))), None)

    def _is_new(self, point: Point) -> bool:
        return point.feasible and point.id not in self.seen

    def _examined(self, trial: Trial) -> Point:
        """The network of a trial; stores its excess over each limit as Optuna's constraints."""
        point = self._problem.examine(trial.params)
        for limit, excess in point.excess.items():
            trial.set_constraint(limit, excess)
        return point
