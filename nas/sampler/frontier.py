"""An Optuna sampler for problems in which some objectives are computed before training. `proposal.py` chooses the network."""

import logging
import threading
import zlib
from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError
from nas.sampler.candidates import CandidatePool, Costs, Feasible, UserFunctions
from nas.sampler.encoding import ABSENT, Encoding, Identity
from nas.sampler.history import read_history, store_expectation, store_proposal
from nas.sampler.proposal import AcquisitionSearch, Belief, propose
from nas.sampler.settings import SETTINGS

logger = logging.getLogger(__name__)


class FrontierSampler(BaseSampler):
    """An Optuna sampler that proposes the network with the greatest expected hypervolume improvement.

    It is made for 1 to 4 objectives in any directions. Some of them need expensive training; the others are costs, computed
    before training. A Gaussian process over parameters and costs models each objective that needs training. The candidates are
    random networks, and mutations of good ones. With a single objective this is expected improvement.

    It proposes only feasible networks without a trial. When it finds no other, it stops `optimize`; further calls of `ask` get
    duplicates, with a warning. In a space of more than 65,536 points it does not try all, so it may miss the last ones.

    The model shares what it learns among parameters with the same choices whose names differ only in numbers (kernel1, kernel2).

    Trials that are not finished count too:

    - A running trial counts with its predicted values.
    - A pruned trial counts with its last reported value, extrapolated from the curves of finished trials, and with more noise.
    - One pruned at step 0 is a forecast, such as a score by shared weights: its network may still be proposed.
    - A trial that failed, or whose values are not finite, counts as the worst observation, with much noise.

    As Optuna takes no reports in studies of several objectives, the user attribute `learning_curve` of a trial may hold [step,
    value] pairs of the first objective that needs training. The sampler keeps the parameters
    of an enqueued trial and those that PartialFixedSampler fixes; it chooses the others, for a feasible network if it finds one.

    A proposal depends only on the seed, the trial's number and the trials in the study. So a study can be resumed from its
    storage, and several processes or threads can share one. Parameters outside `distributions` are drawn at random.

    Args:
        distributions: every parameter of the space.
        costs: parameters → one entry per objective in the study's order, None for those that need training.
        identity: parameters → a hashable value, equal for equal networks; by default, the parameters themselves.
        feasible: parameters → True if the network meets the limits.
        max_trials_per_network: how often a network may be tried in all, where a further value of it is worth more than a new
            network; for noisy values.
        seed: seed of all random draws; None for a different one each time.

    Raises: NasError for an argument of the wrong type.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        *,
        costs: Costs | None = None,
        identity: Identity | None = None,
        feasible: Feasible | None = None,
        max_trials_per_network: int = 1,
        seed: int | None = None,
    ) -> None:
        if not isinstance(distributions, Mapping):
            raise NasError(f"distributions: {distributions!r} is not a mapping from names to Optuna distributions")
        for name, value in distributions.items():
            if not isinstance(value, BaseDistribution):
                raise NasError(
                    f"distributions[{name!r}]: {value!r} is not an Optuna distribution, such as CategoricalDistribution((1, 2))"
                )
        self._distributions = dict(distributions)
        self._functions = UserFunctions(costs=costs, identity=identity, feasible=feasible)
        if seed is not None and (not isinstance(seed, Integral) or int(seed) < 0):
            raise NasError(f"seed: {seed!r} is not an integer of 0 or more, or None")
        if not isinstance(max_trials_per_network, int) or max_trials_per_network < 1:
            raise NasError(f"max_trials_per_network: {max_trials_per_network!r} is not an integer of 1 or more")
        self._max_trials = max_trials_per_network
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._pools: dict[tuple[Any, ...], CandidatePool] = {}
        self._exhausted = False
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pools": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Every parameter."""
        return dict(self._distributions)  # a copy, as PartialFixedSampler removes entries

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A value for each parameter of the search space.

        Raises: NasError if a user's function raises or returns an unusable value.
        """
        fixed = trial.system_attrs.get("fixed_params", {})
        if not search_space or search_space.keys() <= fixed.keys():
            self._exhausted = False
            return {}  # nothing to choose: all parameters are enqueued
        fixed = fixed | getattr(study.sampler, "_fixed_params", {})  # PartialFixedSampler's, which search_space lacks
        with self._lock:
            params = self._propose(study, trial, self._distributions | search_space, fixed)
        return {name: params[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value of a parameter outside the space."""
        rng = np.random.default_rng((self._seed, 2, trial.number, zlib.crc32(param_name.encode())))
        encoding = Encoding({param_name: param_distribution})
        return encoding.params(encoding.draw(rng, 1)[0])[param_name]

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        state: TrialState,  # noqa: ARG002
        values: Sequence[float] | None,  # noqa: ARG002
    ) -> None:
        """Stop the study if every feasible network has a trial, and none is enqueued."""
        if self._exhausted and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            try:
                study.stop()
            except RuntimeError:
                return  # the study runs by ask and tell, without `optimize`
            logger.warning("every feasible network that was found has a trial; the study is stopped")

    def _propose(
        self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution], fixed: Mapping[str, Any]
    ) -> dict[str, Any]:
        pool = self._pool(study, space)
        encode = pool.encoding.position
        fixed = {name: value for name, value in fixed.items() if name in space and encode({name: value}) is not None}
        fixed_position = encode(fixed)
        assert fixed_position is not None  # since each value is one of the space's
        fixed_position = np.where(fixed_position == ABSENT, np.nan, fixed_position)
        while True:
            history = read_history(study, pool, exclude=trial.number)
            rng = np.random.default_rng((self._seed, 1, trial.number))
            proposal = propose(pool, history, rng, fixed_position, max_trials=self._max_trials)
            self._exhausted = proposal.exhausted
            params = pool.encoding.params(proposal.position)
            store_proposal(study, trial, params | fixed, pool)
            store_expectation(study, trial, growth=proposal.growth, predicted=proposal.predicted, repeat=proposal.is_repeat)
            network_id = pool.network(proposal.position).id
            # If another process has chosen the same network meanwhile, whoever stored it last sees that here, and chooses again.
            if network_id in history.seen or network_id not in read_history(study, pool, exclude=trial.number).seen:
                return params

    def beliefs(self, study: Study) -> dict[Hashable, Belief]:
        """Identity of a network → what is believed of its value on the first objective that needs training.

        The value is the surrogate's posterior mean over all trials of the study, its standard deviation that of the network
        without the noise of a training. It has every network with a complete trial; it is empty before there are three.
        """
        with self._lock:
            pool = self._pool(study, self._distributions)
            history = read_history(study, pool, exclude=-1)
            if len(history.losses) < SETTINGS.min_observations:
                return {}
            rng = np.random.default_rng((self._seed, 3, history.num_trials))
            return AcquisitionSearch(pool, pool.random(pool.all_free), history, rng, pool.all_free).beliefs()

    def _pool(self, study: Study, space: Mapping[str, BaseDistribution]) -> CandidatePool:
        signs = tuple(-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions)
        key = (signs, *((name, repr(distribution)) for name, distribution in space.items()))
        if key not in self._pools:
            self._pools[key] = CandidatePool(space, signs, self._functions, seed=self._seed)
        return self._pools[key]
