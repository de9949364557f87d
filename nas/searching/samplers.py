"""The samplers of a search by name."""

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from nas.errors import unknown_name
from nas.searching.problem import Problem
from nas.spaces import Params

if TYPE_CHECKING:
    from nas.sampler.frontier import FrontierSampler

FRONTIER: Final = "frontier"
OPTUNA_SAMPLERS: Final[dict[str, Callable[[int], BaseSampler]]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    # With these three options, TPE proposes 3 to 6 duplicates in 200 proposals; with its defaults, 25 to 59.
    "tpe": lambda seed: optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(population_size=20, seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
}
SAMPLERS: Final = (FRONTIER, *OPTUNA_SAMPLERS)


def check_sampler(sampler: str | BaseSampler) -> None:
    """Check the name of a sampler.

    Raises: NasError for a name that does not exist.
    """
    if isinstance(sampler, str) and sampler not in SAMPLERS:
        raise unknown_name("sampler", sampler, SAMPLERS)


def make_sampler(
    sampler: str | BaseSampler, problem: Problem, *, seed: int, session: int = 0, seeds_per_network: int | str = 1
) -> BaseSampler:
    """The sampler of a problem: the object itself, or one by its name, with other random draws in each session of a run.

    FrontierSampler may propose a network `seeds_per_network` times, or any number of times for "auto".

    Raises: NasError for a name that does not exist.
    """
    if isinstance(sampler, BaseSampler):
        return sampler
    if session:
        seed = int(np.random.SeedSequence((seed, session)).generate_state(1)[0])
    if sampler != FRONTIER:
        return optuna_sampler(sampler, seed)
    return frontier(problem, seed, max_trials=sys.maxsize if isinstance(seeds_per_network, str) else seeds_per_network)


def optuna_sampler(name: str, seed: int) -> BaseSampler:
    """One of Optuna's samplers.

    Raises: NasError for a name that does not exist.
    """
    check_sampler(name)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return OPTUNA_SAMPLERS[name](seed)


def frontier(problem: Problem, seed: int, *, max_trials: int = 1) -> "FrontierSampler":
    """FrontierSampler, with the costs, identity and feasibility of the problem's networks."""
    from nas.sampler.frontier import FrontierSampler

    def costs(params: Params) -> list[float | None]:
        values = problem.examine(params).values
        return [None if objective.needs_training else values[objective.name] for objective in problem.objectives]

    return FrontierSampler(
        problem.space.parameters,
        costs=costs,
        identity=lambda params: problem.examine(params).id,
        feasible=lambda params: problem.examine(params).feasible,
        max_trials_per_network=max_trials,
        seed=seed,
    )
