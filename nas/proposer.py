"""Where new networks come from: Optuna's sampler, held to the limits and to what was proposed before. Read `searcher.py` next."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from nas.earlier import Start
from nas.errors import NasError, describe_error, users_code
from nas.experiment import Experiment
from nas.feasibility import Examined, Feasibility, approach, examine, moves
from nas.spaces import Params, sample
from nas.study import unchanging

INFEASIBLE_ASKS: Final = 15  # of the sampler for one trial, before the nearest of them is moved inside the limits
REPEATED_ASKS: Final = 2  # of the sampler for one trial, before what differs from the last in a single parameter is taken
SAMPLER_ASKS: Final = 100  # for one trial in all, of random search
SEARCHED: Final = {"source": "search"}
RANDOM_ASKS: Final = 5_000  # before the space is taken to hold no further allowed network


TurnedDown = Callable[[str, Examined, Mapping[str, str]], None]


class Proposer:
    """Asks an Optuna study for networks that are allowed and new.

    `turned_down` is told of every ask that is neither: what it is (infeasible or repeated), the network, and where it came from.
    """

    def __init__(
        self,
        experiment: Experiment,
        study: optuna.Study,
        turned_down: Callable[[str, Examined, Mapping[str, str]], None],
    ) -> None:
        self.study = study
        self.seen: dict[str, int] = {}  # id of each architecture that has a trial → its number
        self.refused: set[str] = set()  # ids of those that earlier sessions turned down for a limit
        self.exhausted = False  # nothing allowed and new was found any more
        self._experiment = experiment
        self._turned_down = turned_down
        parameters, named = experiment.space.parameters, isinstance(experiment.sampler, str)
        self.distributions = unchanging(parameters) if named else dict(parameters)  # one of a user's own may compare their kinds
        self._random = random.Random(experiment.seed)

    def begin_with(self, starts: Iterable[Start], feasible: Feasibility) -> None:
        """Ask for these, as far as they are allowed and new, before the sampler is asked."""
        asked: set[str] = set()
        for start in starts:
            network = examine(self._experiment, start.params)
            architecture_id = network.id
            unwanted = architecture_id in self.refused or start.source == "reuse"  # which nobody asked for by name
            if architecture_id in self.seen or architecture_id in asked or (unwanted and not network.admitted):
                continue  # here, or in an earlier session
            asked.add(architecture_id)
            origin = {"source": start.source, "name": start.name}
            if network.admitted:
                self.study.enqueue_trial(start.params, user_attrs=origin)
            else:
                self._turned_down("infeasible", network, origin)
        if not feasible.fitting:  # no sampler would find by chance what took a descent to find
            self.study.enqueue_trial(feasible.example)

    def ask(self) -> tuple[Trial, Examined] | None:
        """A trial of an allowed and new network: the sampler's own, else what is near its wish, else a random one."""
        uniform = isinstance(self.study.sampler, RandomSampler)  # and is to stay so
        asked = self._of_sampler(math.inf if uniform else REPEATED_ASKS)
        if isinstance(asked, tuple):
            return asked
        for found in (self._by_chance, partial(self._near, asked)) if uniform else (partial(self._near, asked), self._by_chance):
            point = None if self.exhausted else found()
            if point is not None:
                return self.given(point)
        self.exhausted = True
        return None

    def _of_sampler(self, repeats: float) -> tuple[Trial, Examined] | list[Examined]:
        """An allowed and new network of the sampler's, or those that it asked for, which are not; at most so many repeats."""
        asked: list[Examined] = []
        for _ in range(SAMPLER_ASKS):
            beyond = sum(not network.admitted for network in asked)
            if self.exhausted or beyond == INFEASIBLE_ASKS or len(asked) - beyond == repeats:
                break
            with users_code(f"sampler {type(self.study.sampler).__name__}"):
                trial = self.study.ask(self.distributions)
            network = self._examined(trial)
            if self._is_new(network):
                return trial, network
            if network.admitted:
                self.tell(trial, state=TrialState.FAIL)  # samplers leave failed trials out, as they know this network
                self._turned_down("repeated", network, SEARCHED | {"name": f"trial {self.seen[network.id]}"})
            else:
                self.tell(trial, state=TrialState.PRUNED)
                self._turned_down("infeasible", network, SEARCHED)
            asked.append(network)
        return asked

    def _near(self, wishes: list[Examined]) -> Params | None:
        """What is allowed and new beside the last repeat, or on the way from the nearest miss to inside the limits."""
        if not wishes:
            return None
        wish = min(reversed(wishes), key=lambda network: network.total_excess)
        if wish.admitted:
            near: Iterator[Examined] = (
                examine(self._experiment, wish.params | move) for move in moves(self._experiment, self._random)
            )
        else:
            near = approach(self._experiment, wish, self._random)
        return next((network.params for network in near if self._is_new(network)), None)

    def _by_chance(self) -> Params | None:
        """A random point that is allowed and new."""
        points = (sample(self.distributions, self._random) for _ in range(RANDOM_ASKS))
        return next((point for point in points if self._is_new(examine(self._experiment, point))), None)

    def _is_new(self, network: Examined) -> bool:
        return network.admitted and network.id not in self.seen

    def given(self, params: Params) -> tuple[Trial, Examined]:
        """An Optuna trial of given parameters."""
        self.study.enqueue_trial(params)
        trial = self.study.ask(self.distributions)
        return trial, self._examined(trial)

    def _examined(self, trial: Trial) -> Examined:
        """The network of a trial; Optuna is told how far outside the limits it is."""
        network = examine(self._experiment, trial.params)
        for limit, excess in network.excess.items():
            trial.set_constraint(limit, excess)
        return network

    def tell_past(self, network: Examined, status: str, values: list[float] | None, attributes: Mapping[str, Any]) -> FrozenTrial:
        """Tell Optuna of a trial that ended in an earlier session."""
        frozen = create_trial(
            state={"done": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(status, TrialState.PRUNED),
            values=values,
            params=dict(network.params),
            distributions=self.distributions,
            constraints=dict(network.excess),
            user_attrs=dict(attributes),
        )
        self.study.add_trial(frozen)
        return frozen

    def tell(self, trial: Trial, values: list[float] | None = None, state: TrialState | None = None) -> FrozenTrial:
        """Tell Optuna what became of a trial; a sampler that has proposed all it ever will ends the search."""
        try:
            return self.study.tell(trial, values, state)
        except RuntimeError as error:  # such a sampler calls Study.stop, which works within Study.optimize alone
            if "Study.stop" not in str(error):
                raise NasError(f"sampler {type(self.study.sampler).__name__} raised {describe_error(error)}") from error
            self.exhausted = True
            return self.study.get_trials(deepcopy=False)[trial.number]
