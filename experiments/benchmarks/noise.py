"""How good the front is that a search hands over where noise rules, and how well its surrogate ranks networks.

Each problem of `noisy_problems.py` is searched by each sampler over the same seeds. Only a choice of the trained networks is
handed over: those that are not dominated by what was measured or, for FrontierSampler, by what it believes. That choice is judged
by the true accuracies: its hypervolume, as a share of that of everything that any sampler tried in this run. The reference point
is the worst of what is known of each loss. Each training counts, also a further one of a network.

Shown are the means of the share over seeds after so many trainings, with their standard errors, and how many trainings each needs
for what FrontierSampler's measured front has after 50, 100 and 150 in the mean.

Then, for each problem: Kendall's tau of the true accuracy of 600 random networks with the first cost alone, with ridge regression
over the choices and the logarithms of the costs, and with the surrogate, which have learned from 20, 50 and 100 random networks.

Usage: python -m experiments.benchmarks.noise [--seeds 20] [--budget 150] [--only NAME ...] [--samplers NAME ...] [--processes 2]
The sampler botorch is qLogNEHVI with exact costs; it needs the package botorch, takes seconds for a proposal, and is left out by
default.
"""

import argparse
import json
import os
import random
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV

from experiments.benchmarks.noisy_problems import noisy
from experiments.benchmarks.problems import Problem
from experiments.benchmarks.sampler_efficiency import SAMPLERS, frontier, quiet, study_of
from nas.runs.pareto import hypervolume, non_dominated
from nas.sampler.candidates import CandidatePool, UserFunctions
from nas.sampler.frontier import FrontierSampler
from nas.sampler.surrogate import LossScale, Surrogate, fit_hyperparameters
from nas.spaces import Params, sample

Losses: TypeAlias = tuple[float, ...]
Floats: TypeAlias = NDArray[np.float64]

STEP: Final = 5  # trainings between two looks at the front
FIRST: Final = 10  # trainings before the first look
GOALS: Final = (50, 100, 150)  # trainings of FrontierSampler whose measured front is the goal
LABELS: Final = (20, 50, 100)
TESTED: Final = 600  # networks to rank
REPETITIONS: Final = 20  # of learning from other labels
ANY_NUMBER: Final = 10**6


CONTENDERS: Final[Mapping[str, Callable[[Problem, int], BaseSampler]]] = {
    "frontier": frontier,
    "frontier, seeds auto": partial(frontier, max_trials=ANY_NUMBER),
    "tpe": SAMPLERS["tpe"],
    "random": SAMPLERS["random"],
    "botorch": SAMPLERS["botorch"],
}


@dataclass(frozen=True)
class Fronts:
    """One search: true losses of all networks, and those handed over at each look, by what was measured and is believed."""

    tried: list[Losses]
    measured: list[list[Losses]]
    believed: list[list[Losses]] | None
    """None for a sampler that believes nothing."""


def search(problem: Problem, name: str, seed: int, budget: int) -> Fronts:
    """A search of `budget` trainings."""
    warnings.simplefilter("ignore", ExperimentalWarning)
    warnings.filterwarnings("ignore", message="no feasible network without a trial")
    sampler = CONTENDERS[name](problem, seed)
    study = study_of(problem, sampler)
    values: dict[Hashable, list[float]] = {}
    true: dict[Hashable, Losses] = {}
    fronts = Fronts([], [], [] if isinstance(sampler, FrontierSampler) else None)
    for number in range(1, budget + 1):
        trial = study.ask(dict(problem.distributions))
        network = problem.identity(trial.params)
        before = len(values.setdefault(network, []))
        accuracy = problem.measure(trial.params, seed + 1000 * before)
        values[network].append(accuracy)
        true[network] = problem.losses(trial.params)
        study.tell(trial, [accuracy, *true[network][1:]])
        if number >= FIRST and number % STEP == 0:
            fronts.measured.append(handed_over(true, {one: float(np.mean(of)) for one, of in values.items()}))
            if fronts.believed is not None and isinstance(sampler, FrontierSampler):
                fronts.believed.append(handed_over(true, {one: of.mean for one, of in sampler.beliefs(study).items()}))
    fronts.tried.extend(true.values())
    return fronts


def handed_over(true: Mapping[Hashable, Losses], accuracies: Mapping[Hashable, float]) -> list[Losses]:
    """The true losses of the networks that no other dominates, if these are their accuracies."""
    seeming = [(-accuracies[network], *losses[1:]) for network, losses in true.items()]
    return [losses for losses, kept in zip(true.values(), non_dominated(seeming), strict=True) if kept]


def compare(problem: Problem, options: argparse.Namespace) -> dict[str, Any]:
    """Search a problem with every sampler, and print the shares."""
    tasks = [(name, seed) for seed in range(options.seeds) for name in options.samplers]
    with ProcessPoolExecutor(options.processes, initializer=quiet) as pool:
        ends = [pool.submit(named, problem.name, name, seed, options.budget) for name, seed in tasks]
        results = [end.result() for end in ends]
    tried = [losses for one in results for losses in one.tried]
    generator = random.Random(0)
    everything = [*tried, *(problem.losses(sample(problem.distributions, generator)) for _ in range(3000))]
    reference = tuple(max(column) for column in zip(*everything, strict=True))
    whole = hypervolume(tried, reference)
    shares: dict[str, Floats] = {}
    for name in options.samplers:
        runs = [one for (other, _), one in zip(tasks, results, strict=True) if other == name]
        for how, looks in (("measured", [one.measured for one in runs]), ("believed", [one.believed for one in runs])):
            if looks[0] is not None:
                shares[f"{name}, {how}"] = np.array([[hypervolume(f, reference) / whole for f in of or ()] for of in looks])
    return show(problem.name, shares, options.budget)


def show(problem: str, shares: Mapping[str, Floats], budget: int) -> dict[str, Any]:
    """Print the shares of a problem."""
    looks = range(FIRST + (-FIRST) % STEP, budget + 1, STEP)
    marks = [mark for mark in GOALS if mark <= budget]
    goals = {mark: float(shares["frontier, measured"].mean(axis=0)[looks.index(mark)]) for mark in marks}
    print(f"\n{problem}")
    print(f"{'':<34}" + "".join(f"{f'after {mark}':<18}" for mark in marks) + "trainings for the measured front of " + str(marks))
    figures: dict[str, Any] = {}
    for name, of in shares.items():
        means, errors = of.mean(axis=0), of.std(axis=0, ddof=1) / np.sqrt(len(of))
        cells = [f"{means[at]:.4f} ± {errors[at]:.4f}" for mark in marks for at in [looks.index(mark)]]
        needed = [trainings(looks, means, goal) for goal in goals.values()]
        trained = "  ".join(f"{number:.0f}" for number in needed)
        print(f"{name:<34}" + "".join(f"{cell:<18}" for cell in cells) + trained, flush=True)
        figures[name] = {"needed": needed, "shares": [float(means[looks.index(mark)]) for mark in marks]}
    return figures


def trainings(looks: Sequence[int], means: Floats, goal: float) -> float:
    """Trainings until the mean share reaches the goal, interpolated between two looks; infinite if it does not."""
    reached = np.maximum.accumulate(means)
    return float("inf") if reached[-1] < goal else float(np.interp(goal, reached, np.array(looks, float)))


def agreement(problem: Problem) -> dict[str, dict[int, float]]:
    """Print Kendall's tau of each way to rank random networks."""
    generator, rng = random.Random(7), np.random.default_rng(3)
    functions = UserFunctions(costs=lambda params: (None, *problem.costs(params)), identity=problem.identity)
    signs = (-1, *(1 for _ in problem.costs(sample(problem.distributions, generator))))
    pool = CandidatePool(problem.distributions, signs, functions, seed=1)

    def drawn(number: int) -> tuple[Floats, Floats, Floats]:
        networks: list[Params] = [sample(problem.distributions, generator) for _ in range(number)]
        positions = pool.encoding.canonical(np.array([pool.encoding.position(one) for one in networks], float))
        costs = np.array([problem.costs(one) for one in networks])
        return positions, costs, np.array([problem.accuracy(one) for one in networks])

    positions, costs, accuracies = drawn(TESTED)
    taus: dict[str, dict[int, list[float]]] = {name: {n: [] for n in LABELS} for name in ("cost", "ridge", "surrogate")}
    for _ in range(REPETITIONS):
        seen_positions, seen_costs, seen = drawn(max(LABELS))
        labels = seen + problem.noise * rng.standard_normal(len(seen))
        for n in LABELS:
            choices = [pool.encoding.features(one) for one in (seen_positions[:n], positions)]
            inputs = [np.hstack([one, np.log(of)]) for one, of in zip(choices, (seen_costs[:n], costs), strict=True)]
            ridge = RidgeCV(np.logspace(-2, 3, 11)).fit(inputs[0], labels[:n]).predict(inputs[1])
            features, scale = pool.features(seen_positions[:n], seen_costs[:n]), LossScale.of(-labels[:n])
            theta = fit_hyperparameters(features, pool.groups, -labels[:n], num_costs=costs.shape[1])
            surrogate = Surrogate(theta, features, pool.groups, scale.transform(-labels[:n]), np.zeros(n))
            believed = -surrogate.predict(pool.features(positions, costs))[0]
            for name, ranking in (("cost", costs[:, 0]), ("ridge", ridge), ("surrogate", believed)):
                taus[name][n].append(float(kendalltau(ranking, accuracies).statistic))
    means = {name: {n: float(np.mean(values)) for n, values in of.items()} for name, of in taus.items()}
    for name, of in taus.items():
        cells = (f"{n}: {np.mean(values):.3f} (sd {np.std(values):.3f})" for n, values in of.items())
        print(f"{problem.name:<24}{name:<12}" + "  ".join(cells), flush=True)
    return means


def named(problem: str, name: str, seed: int, budget: int) -> Fronts:
    """A search of a problem by name, as functions are not sent between processes."""
    return search({one.name: one for one in noisy()}[problem], name, seed, budget)


def main() -> None:
    """Print every problem's tables, and all figures as one JSON object."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=150, help="trainings of one search")
    parser.add_argument("--only", nargs="+", help="problems, by their names' beginnings")
    parser.add_argument("--samplers", nargs="+", choices=list(CONTENDERS), default=[n for n in CONTENDERS if n != "botorch"])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    selected: Sequence[Problem] = [p for p in noisy() if not options.only or p.name.startswith(tuple(options.only))]
    quiet()
    print("Kendall's tau with the true accuracy, by the number of labels")
    ranks = {problem.name: agreement(problem) for problem in selected}
    fronts = {problem.name: compare(problem, options) for problem in selected}
    print(json.dumps({"ranks": ranks, "fronts": fronts, "seeds": options.seeds}))


if __name__ == "__main__":
    main()
