"""Where new networks come from: Optuna's sampler, held to the limits and to what was proposed before. Read `searcher.py` next."""

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.earlier import Start
from nas.errors import NasError, describe_error, users_code
from nas.experiment import Experiment
from nas.feasibility import Examined, Feasibility, approach, examine
from nas.spaces import Params, sample

INFEASIBLE_ASKS: Final = 15  # of the sampler for one trial, before the nearest of them is moved inside the limits
SAMPLER_ASKS: Final = 100  # for one trial in all, repeats included
RANDOM_ASKS: Final = 5_000  # before the space is taken to hold no further allowed network


class Proposer:
    """Asks an Optuna study for networks that are allowed and new.

    `turned_down` is told of every ask that is neither: what it is (infeasible or repeated), the network, and the parameters.
    """

    def __init__(
        self, experiment: Experiment[Any, Any], study: optuna.Study, turned_down: Callable[[str, Examined, Params], None]
    ) -> None:
        self.study = study
        self.seen: dict[str, int] = {}  # id of each architecture that has a trial → its number
        self.refused: set[str] = set()  # ids of those that earlier sessions turned down for a limit
        self.exhausted = False  # nothing allowed and new was found any more
        self._experiment = experiment
        self._turned_down = turned_down
        self._distributions = dict(experiment.space.parameters)
        self._random = random.Random(experiment.seed)

    def begin_with(self, starts: Iterable[Start], feasible: Feasibility) -> None:
        """Ask for these, as far as they are allowed and new, before the sampler is asked."""
        asked: set[str] = set()
        for start in starts:
            network = examine(self._experiment, start.params)
            architecture_id = network.architecture.id
            refused = not network.admitted and architecture_id in self.refused
            if architecture_id in self.seen or architecture_id in asked or refused:
                continue  # here, or in an earlier session
            asked.add(architecture_id)
            if network.admitted:
                self.study.enqueue_trial(start.params, user_attrs={"source": start.source})
            else:
                self._turned_down("infeasible", network, start.params)
        if not feasible.fitting:  # no sampler would find by chance what took a descent to find
            self.study.enqueue_trial(feasible.example)

    def ask(self) -> tuple[Trial, Examined] | None:
        """A trial of an allowed and new network: the sampler's own, else what is near its wish, else a random one."""
        found = self._of_sampler()
        if isinstance(found, tuple):
            return found
        if not self.exhausted and found and not isinstance(self.study.sampler, RandomSampler):  # which is to stay uniform
            moved = self._moved_inside(min(found, key=lambda trial: trial[1].total_excess))
            if moved is not None:
                return self.given(moved)
        for _ in range(RANDOM_ASKS if not self.exhausted else 0):
            point = sample(self._distributions, self._random)
            if self._is_new(examine(self._experiment, point)):
                return self.given(point)
        moved = self._moved_inside(min(found, key=lambda trial: trial[1].total_excess)) if found and not self.exhausted else None
        if moved is not None:  # where chance finds nothing
            return self.given(moved)
        self.exhausted = True
        return None

    def _of_sampler(self) -> tuple[Trial, Examined] | list[tuple[Params, Examined]]:
        """An allowed and new network of the sampler's, or those that it asked for beyond the limits."""
        beyond: list[tuple[Params, Examined]] = []
        for _ in range(SAMPLER_ASKS):
            if self.exhausted or len(beyond) == INFEASIBLE_ASKS:
                break
            with users_code(f"sampler {type(self.study.sampler).__name__}"):
                trial = self.study.ask(self._distributions)
            network = self._examined(trial)
            if self._is_new(network):
                return trial, network
            if network.admitted:
                self.tell(trial, state=TrialState.FAIL)  # samplers leave failed trials out, as they know this network
                self._turned_down("repeated", network, trial.params)
            else:
                self.tell(trial, state=TrialState.PRUNED)
                self._turned_down("infeasible", network, trial.params)
                beyond.append((trial.params, network))
        return beyond

    def _moved_inside(self, wish: tuple[Params, Examined]) -> Params | None:
        """What lies inside the limits near a point that does not, if it is new."""
        for point, network in approach(self._experiment, *wish, self._random):
            if self._is_new(network):
                return point
        return None

    def _is_new(self, network: Examined) -> bool:
        return network.admitted and network.architecture.id not in self.seen

    def given(self, params: Params) -> tuple[Trial, Examined]:
        """An Optuna trial of given parameters."""
        self.study.enqueue_trial(params)
        trial = self.study.ask(self._distributions)
        return trial, self._examined(trial)

    def _examined(self, trial: Trial) -> Examined:
        """The network of a trial; Optuna is told how far outside the limits it is."""
        network = examine(self._experiment, trial.params)
        for limit, excess in network.excess.items():
            trial.set_constraint(limit, excess)
        return network

    def tell(self, trial: Trial, values: list[float] | None = None, state: TrialState | None = None) -> FrozenTrial:
        """Tell Optuna what became of a trial; a sampler that has proposed all it ever will ends the search."""
        try:
            return self.study.tell(trial, values, state)
        except RuntimeError as error:  # such a sampler calls Study.stop, which works within Study.optimize alone
            if "Study.stop" not in str(error):
                raise NasError(f"sampler {type(self.study.sampler).__name__} raised {describe_error(error)}") from error
            self.exhausted = True
            return self.study.get_trials(deepcopy=False)[trial.number]
