"""Where new networks come from: Optuna's sampler, held to the limits and to what was proposed before."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState, create_trial

from nas.errors import NasError, describe_error, user_code
from nas.runs.trial import Status
from nas.searching.feasibility import Feasibility, approach, moves
from nas.searching.problem import Point, Problem
from nas.searching.trial_writer import TrialLog
from nas.searching.warm_start import Start
from nas.spaces import Params, sample

INFEASIBLE_ASKS: Final = 15  # of the sampler for one trial, before the nearest of them is moved inside the limits
REPEATED_ASKS: Final = 2  # of the sampler for one trial, before what differs from the last in a single parameter is taken
SAMPLER_ASKS: Final = 100  # for one trial in all, of random search
RANDOM_ASKS: Final = 5_000  # before the space is taken to hold no further network that is feasible and new
STATES: Final = {Status.DONE: TrialState.COMPLETE, Status.FAILED: TrialState.FAIL}  # Optuna's; of any other status PRUNED


class Proposer:
    """Asks an Optuna study for networks that are feasible and new; logs every proposal that it skips."""

    def __init__(self, problem: Problem, study: optuna.Study, log: TrialLog, *, seed: int) -> None:
        self.study = study
        self.seen: dict[str, int] = {}  # id of each network that has a trial → its number
        self.infeasible: set[str] = set()  # ids of those that earlier sessions skipped
        self.exhausted = False  # nothing feasible and new was found any more
        self._problem = problem
        self._log = log
        self._distributions = dict(problem.space.parameters)
        self._random = random.Random(seed)

    def begin_with(self, starts: Iterable[Start], feasibility: Feasibility) -> None:
        """Enqueue these, as far as they are feasible and new, before the sampler is asked."""
        enqueued: set[str] = set()
        for start in starts:
            point = self._problem.examine(start.params)
            unwanted = point.id in self.infeasible or start.source == "reuse"  # which nobody asked for by name
            if point.id in self.seen or point.id in enqueued or (unwanted and not point.feasible):
                continue  # here, or in an earlier session
            enqueued.add(point.id)
            if point.feasible:
                self.study.enqueue_trial(start.params, user_attrs={"source": start.source, "name": start.name})
            else:
                self._log.skip(Status.INFEASIBLE, point, source=start.source, name=start.name)
        if not feasibility.fitting:  # no sampler would find by chance what took a descent to find
            self.study.enqueue_trial(feasibility.example)

    def ask(self) -> tuple[Trial, Point] | None:
        """A trial of a feasible and new network: the sampler's own, one near its wish, or a random one; None if none is left."""
        uniform = isinstance(self.study.sampler, RandomSampler)  # and is to stay so
        skipped = self._of_sampler(math.inf if uniform else REPEATED_ASKS)
        if isinstance(skipped, tuple):
            return skipped
        params = None
        if not self.exhausted and uniform:
            params = self._by_chance() or self._near(skipped)
        elif not self.exhausted:
            params = self._near(skipped) or self._by_chance()
        if params is None:
            self.exhausted = True
            return None
        return self.enqueue(params)

    def enqueue(self, params: Params) -> tuple[Trial, Point]:
        """An Optuna trial of given parameters."""
        self.study.enqueue_trial(params)
        trial = self.study.ask(self._distributions)
        return trial, self._examined(trial)

    def tell(self, trial: Trial, status: Status, values: list[float] | None = None) -> None:
        """Tell Optuna what became of a trial; a sampler that has proposed all it ever will ends the search."""
        try:
            self.study.tell(trial, values, STATES.get(status, TrialState.PRUNED))
        except RuntimeError as error:  # such a sampler calls Study.stop, which works within Study.optimize alone
            if "Study.stop" not in str(error):
                raise NasError(f"sampler {type(self.study.sampler).__name__} raised {describe_error(error)}") from error
            self.exhausted = True

    def tell_past(self, point: Point, status: Status, values: list[float] | None, attributes: Mapping[str, Any]) -> None:
        """Tell Optuna of a trial that ended in an earlier session."""
        self.study.add_trial(
            create_trial(
                state=STATES.get(status, TrialState.PRUNED),
                values=values,
                params=dict(point.params),
                distributions=self._distributions,
                constraints=dict(point.excess),
                user_attrs=dict(attributes),
            )
        )

    def _of_sampler(self, most_repeats: float) -> tuple[Trial, Point] | list[Point]:
        """A feasible and new network of the sampler's; or its proposals, if all of them had to be skipped."""
        skipped: list[Point] = []
        for _ in range(SAMPLER_ASKS):
            infeasible = sum(not point.feasible for point in skipped)
            if self.exhausted or infeasible == INFEASIBLE_ASKS or len(skipped) - infeasible == most_repeats:
                break
            with user_code(f"sampler {type(self.study.sampler).__name__}"):
                trial = self.study.ask(self._distributions)
            point = self._examined(trial)
            if self._is_new(point):
                return trial, point
            if point.feasible:
                self.tell(trial, Status.FAILED)  # samplers leave failed trials out, as they know this network
                self._log.skip(Status.DUPLICATE, point, name=f"trial {self.seen[point.id]}")
            else:
                self.tell(trial, Status.INFEASIBLE)
                self._log.skip(Status.INFEASIBLE, point)
            skipped.append(point)
        return skipped

    def _near(self, skipped: list[Point]) -> Params | None:
        """What is feasible and new beside the last repeat, or on the way from the nearest miss to inside the limits."""
        if not skipped:
            return None
        wish = min(reversed(skipped), key=lambda point: point.total_excess)
        near: Iterator[Point] = approach(self._problem, wish, self._random)
        if wish.feasible:
            near = (self._problem.examine(wish.params | move) for move in moves(self._problem, self._random))
        return next((point.params for point in near if self._is_new(point)), None)

    def _by_chance(self) -> Params | None:
        """A random point that is feasible and new."""
        points = (sample(self._distributions, self._random) for _ in range(RANDOM_ASKS))
        return next((params for params in points if self._is_new(self._problem.examine(params))), None)

    def _is_new(self, point: Point) -> bool:
        return point.feasible and point.id not in self.seen

    def _examined(self, trial: Trial) -> Point:
        """The network of a trial; Optuna learns how far outside the limits it is."""
        point = self._problem.examine(trial.params)
        for limit, excess in point.excess.items():
            trial.set_constraint(limit, excess)
        return point
