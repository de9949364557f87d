"""BoTorch's qLogNEHVI (arXiv:2310.20708) as an Optuna sampler, with costs that are known exactly: a baseline of `noise.py`.

Needs the package botorch. The accuracy has BoTorch's default Gaussian process over one-hot choices; each cost is a deterministic
model. The acquisition is maximized over random networks and over mutations of those that no other dominates.
"""

from typing import Any, Final

import numpy as np
import optuna
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelList, SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.transforms import Standardize
from botorch.optim import optimize_acqf_discrete
from botorch.sampling.get_sampler import get_sampler
from gpytorch.mlls import ExactMarginalLogLikelihood
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from experiments.benchmarks.problems import Problem
from nas.runs.pareto import non_dominated
from nas.sampler.encoding import Encoding

INITIAL: Final = 10  # random networks, as many as FrontierSampler begins with in these spaces
NUM_RANDOM: Final = 400  # candidates of a proposal
NUM_CHILDREN: Final = 200  # candidates that are mutations
MC_SAMPLES: Final = 64


class BoTorchSampler(BaseSampler):
    """Proposes the candidate with the largest noisy expected hypervolume improvement."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem, self._encoding = problem, Encoding(problem.distributions)
        self._rng, self._seed = np.random.default_rng(seed), seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Every parameter."""
        return dict(self._problem.distributions)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Every parameter is sampled relative to the others."""
        raise NotImplementedError

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:  # noqa: ARG002
        """The network to try next."""
        past = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        encoding, rng = self._encoding, self._rng
        if len(past) < INITIAL:
            return encoding.params(encoding.draw(rng, 1)[0])
        tried = np.array([encoding.position(one.params) for one in past], float)
        goals = np.array([[one.values[0], *(-value for value in one.values[1:])] for one in past])  # all maximized
        front = tried[non_dominated([tuple(-row) for row in goals])]
        candidates = np.unique(np.vstack([encoding.draw(rng, NUM_RANDOM), encoding.mutate(rng, front, NUM_CHILDREN)]), axis=0)
        seen = {row.tobytes() for row in tried}
        candidates = np.array([row for row in candidates if row.tobytes() not in seen])
        return encoding.params(self._best(tried, goals, candidates))

    def _best(self, tried: np.ndarray, goals: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        costs = -np.array([self._problem.costs(self._encoding.params(row)) for row in candidates])
        costs_of = {self._key(x): c for x, c in zip(self._inputs(tried), goals[:, 1:], strict=True)}
        costs_of |= {self._key(x): c for x, c in zip(self._inputs(candidates), costs, strict=True)}

        def cost_model(index: int) -> GenericDeterministicModel:
            def cost(x: torch.Tensor) -> torch.Tensor:
                rows = [costs_of[self._key(row)][index] for row in x.reshape(-1, x.shape[-1]).numpy()]
                return torch.tensor(rows, dtype=torch.double).reshape(*x.shape[:-1], 1)

            return GenericDeterministicModel(cost, num_outputs=1)

        x, y = torch.tensor(self._inputs(tried)), torch.tensor(goals[:, :1])
        accuracy = SingleTaskGP(x, y, outcome_transform=Standardize(m=1))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(accuracy.likelihood, accuracy))
        model = ModelList(accuracy, *(cost_model(i) for i in range(costs.shape[1])))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=np.vstack([goals, np.column_stack([np.full(len(costs), goals[:, 0].min()), costs])]).min(axis=0).tolist(),
            X_baseline=x,
            sampler=get_sampler(model.posterior(x), torch.Size([MC_SAMPLES]), seed=self._seed),
            prune_baseline=True,
        )
        best, _ = optimize_acqf_discrete(acquisition, q=1, choices=torch.tensor(self._inputs(candidates)), max_batch_size=64)
        best_key = self._key(best[0].numpy())
        rows = {self._key(x): row for row, x in zip(candidates, self._inputs(candidates), strict=True)}
        return np.asarray(rows[best_key])

    def _inputs(self, positions: np.ndarray) -> np.ndarray:
        """One-hot choices of all parameters whose values are listed."""
        counts = self._encoding.counts
        return np.hstack([np.eye(count)[positions[:, i].astype(int)] for i, count in enumerate(counts)])

    @staticmethod
    def _key(row: np.ndarray) -> bytes:
        return np.round(row).astype(np.int8).tobytes()


optuna.logging.set_verbosity(optuna.logging.WARNING)
