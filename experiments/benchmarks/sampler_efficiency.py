"""How many trainings a search needs until its front is as good as can be, by sampler.

Each problem of `problems.py` is searched by each sampler over the same seeds. A training measures accuracy with noise; the front
is judged by the true values, as a share of the true front's hypervolume. Where that is not known, as the space is too large, the
front of everything that any sampler tried in this run stands for it. The reference point is the worst of what is known of each
loss. A network that is proposed again is answered again and does not count.

Shown are the share after so many different networks, or with one objective the regret in points of accuracy; and, for
FrontierSampler, how many it needs for the median of the best other sampler at the end. Medians with quartiles over seeds, but for
the regret, which is a mean. Last comes how long FrontierSampler takes for a proposal in a space of 50 parameters of four choices,
after so many random networks: the median over 20 that are asked for and told, the first, which draws the candidates, left out.

Usage: python -m experiments.benchmarks.sampler_efficiency [--nas-bench-macro FILE] [--seeds 20] [--gp-seeds 5] [--budget 150]
[--only NAME ...] [--samplers NAME ...] [--processes 2]
The sampler botorch, qLogNEHVI, needs the package botorch, takes seconds for a proposal, and is left out by default.
FILE is nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro.
"""

import argparse
import functools
import itertools
import json
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from experiments.benchmarks.problems import Problem, alone, everything, made_up, nas_bench_macro
from experiments.benchmarks.search_overhead import MacroSpace
from nas.runs.pareto import dominates, hypervolume
from nas.sampler.frontier import FrontierSampler
from nas.searching.samplers import optuna_sampler
from nas.spaces import Params, grid_values, num_points, sample

Losses: TypeAlias = tuple[float, ...]
Strategy: TypeAlias = Generator[Params, float, None]  # gives parameters, is sent the accuracy measured

TIMED: Final = (30, 300, 3000)  # observations
ENUMERATED: Final = 70_000  # points, up to which the true front is known
ASKS: Final = 4  # of a sampler for each different network, before it is given up
TOP_SHARE: Final = 0.01


def study_of(problem: Problem, sampler: BaseSampler) -> optuna.Study:
    """A study of a problem, as a user of Optuna makes it."""
    others = len(problem.losses(sample(problem.distributions, random.Random(0)))) - 1
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * others]
    return optuna.create_study(directions=directions, sampler=sampler)


def frontier(problem: Problem, seed: int, *, max_trials: int = 1) -> BaseSampler:
    """Our sampler, with the costs, the identity and the limit of the problem; a network has at most so many trials."""
    costs: Callable[[Params], Sequence[float | None]] = lambda params: (None, *problem.costs(params))  # noqa: E731
    return FrontierSampler(
        problem.distributions,
        costs=None if problem.alone else costs,
        identity=problem.identity,
        feasible=None if problem.limit is None else problem.is_feasible,
        max_trials_per_network=max_trials,
        seed=seed,
    )


def botorch(problem: Problem, seed: int) -> BaseSampler:
    """BoTorch's noisy expected hypervolume improvement; for several objectives, and spaces of listed values."""
    from experiments.benchmarks.botorch_sampler import BoTorchSampler

    return BoTorchSampler(problem, seed)


SAMPLERS: Final[Mapping[str, Callable[[Problem, int], BaseSampler]]] = {
    "frontier": frontier,
    "random": lambda _, seed: optuna_sampler("random", seed),
    "tpe": lambda _, seed: optuna_sampler("tpe", seed),
    "nsga2, 20": lambda _, seed: optuna_sampler("nsga2", seed),
    "nsga2, 50": lambda _, seed: optuna.samplers.NSGAIISampler(population_size=50, seed=seed),
    "gp": lambda _, seed: optuna_sampler("gp", seed),
    "botorch": botorch,
}


def evolution(problem: Problem, seed: int, *, population: int, tournament: int) -> Strategy:
    """Regularized evolution (arXiv:1802.01548): mutates one parameter of the best of a random few of the youngest networks."""
    generator = random.Random(seed)
    alive: list[tuple[Params, float]] = []
    for count in itertools.count():
        if count < population:
            child = sample(problem.distributions, generator)
        else:
            parent = max(generator.sample(alive, tournament), key=lambda one: one[1])[0]
            name = generator.choice(list(problem.distributions))
            child = parent | {name: generator.choice([v for v in grid_values(problem.distributions[name]) if v != parent[name]])}
        if problem.is_feasible(child):
            alive = [*alive[-population + 1 :], (child, (yield child))]


def local_search(problem: Problem, seed: int) -> Strategy:
    """Moves from a random network to the first better neighbour until there is none; then starts at another."""
    generator = random.Random(seed)
    while True:
        here = sample(problem.distributions, generator)
        if not problem.is_feasible(here):
            continue
        value, better = (yield here), True
        while better:
            better = False
            moves = [(n, v) for n, d in problem.distributions.items() for v in grid_values(d) if v != here[n]]
            for name, choice in generator.sample(moves, len(moves)):
                neighbour = here | {name: choice}
                neighbour_value = (yield neighbour) if problem.is_feasible(neighbour) else value
                if neighbour_value > value:
                    here, value, better = neighbour, neighbour_value, True
                    break


STRATEGIES: Final[Mapping[str, Callable[[Problem, int], Strategy]]] = {
    "evolution, 50/10": functools.partial(evolution, population=50, tournament=10),
    "evolution, 20/5": functools.partial(evolution, population=20, tournament=5),
    "local search": local_search,
}


@dataclass(frozen=True)
class SearchResult:
    """One search: the losses of its distinct networks in order, and the seconds per proposal."""

    losses: list[Losses]
    seconds: float


def searched(problem: Problem, sampler: str, workers: int, seed: int, budget: int) -> SearchResult:
    """One search."""
    warnings.simplefilter("ignore", ExperimentalWarning)
    return (of_strategy if sampler in STRATEGIES else of_sampler)(problem, sampler, workers, seed, budget)


def of_sampler(problem: Problem, sampler: str, workers: int, seed: int, budget: int) -> SearchResult:
    """A search by an Optuna sampler with `workers` concurrent trials, which end in the order in which they start."""
    study, seconds = study_of(problem, SAMPLERS[sampler](problem, seed)), []
    distinct: dict[Hashable, Losses] = {}
    pending: list[optuna.trial.Trial] = []
    for _ in range(ASKS * budget):
        while len(pending) < workers:
            started = time.perf_counter()
            pending.append(study.ask(dict(problem.distributions)))
            seconds.append(time.perf_counter() - started)
        trial = pending.pop(0)
        losses = problem.losses(trial.params)
        if not problem.is_feasible(trial.params):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        distinct.setdefault(problem.identity(trial.params), losses)
        study.tell(trial, [problem.measure(trial.params, seed), *losses[1:]])
        if len(distinct) == budget:
            break
    return SearchResult(list(distinct.values()), statistics.median(seconds))


def of_strategy(problem: Problem, sampler: str, _: int, seed: int, budget: int) -> SearchResult:
    """A search by a strategy of a single objective."""
    strategy = STRATEGIES[sampler](problem, seed)
    distinct: dict[Hashable, Losses] = {}
    params = next(strategy)
    for _ in range(ASKS * budget):
        distinct.setdefault(problem.identity(params), problem.losses(params))
        if len(distinct) == budget:
            break
        params = strategy.send(problem.measure(params, seed))
    return SearchResult(list(distinct.values()), 0.0)


def all_losses(problem: Problem, results: Iterable[SearchResult]) -> tuple[list[Losses], bool]:
    """(losses, True) of every network of the space; of a large space, (losses, False) of all networks that were tried."""
    if num_points(problem.distributions) > ENUMERATED:
        return [losses for one in results for losses in one.losses], False
    values = [grid_values(distribution) for distribution in problem.distributions.values()]
    points = (dict(zip(problem.distributions, choice, strict=True)) for choice in itertools.product(*values))
    return list({problem.identity(p): problem.losses(p) for p in points if problem.is_feasible(p)}.values()), True


def scores(
    problem: Problem, results: Mapping[Any, list[SearchResult]], reference_losses: Sequence[Losses], whose: str
) -> tuple[dict[Any, list[list[float]]], str]:
    """(scores, title): for each search its score after each network, a share of the hypervolume or the regret."""
    if problem.alone:
        best = min(reference_losses)[0]
        return {
            key: [[least - best for least in itertools.accumulate((losses[0] for losses in one.losses), min)] for one in of]
            for key, of in results.items()
        }, f"regret, points; best of {whose}"
    reference = tuple(max(column) for column in zip(*reference_losses, strict=True))
    whole = hypervolume(reference_losses, reference)
    return {
        key: [[volume / whole for volume in volumes(one.losses, reference)] for one in of] for key, of in results.items()
    }, f"hypervolume, share of {whose}"


def volumes(losses: Sequence[Losses], reference: Losses) -> list[float]:
    """Hypervolume after each network."""
    front: list[Losses] = []
    volume, values = 0.0, []
    for point in losses:
        if not any(other == point or dominates(other, point) for other in front):
            front = [other for other in front if not dominates(point, other)] + [point]
            volume = hypervolume(front, reference)
        values.append(volume)
    return values


def needed(runs: Sequence[Sequence[float]], goal: float, *, least: bool) -> tuple[float, float, float]:
    """Quartiles of the number of networks until the goal is reached; infinite where it is not."""
    counts = [next((i + 1 for i, v in enumerate(run) if (v <= goal if least else v >= goal)), float("inf")) for run in runs]
    low, middle, high = np.percentile(counts, (25, 50, 75), method="nearest")
    return float(low), float(middle), float(high)


def show(problem: Problem, results: Mapping[tuple[str, int], list[SearchResult]], budget: int) -> dict[str, Any]:
    """Print the results of the samplers on one problem."""
    losses, exact = all_losses(problem, (one for of in results.values() for one in of))
    ranked = sorted(set(losses))
    runs, what = scores(problem, results, ranked, "the true" if exact else "all that were found")
    marks = sorted({20, 50, 100, budget} & set(range(budget + 1)))
    goals = {} if problem.alone else {f"for {goal}": goal for goal in (0.99, 0.999)}
    if problem.alone:
        goals = {"for the top 1 %": ranked[int(TOP_SHARE * len(ranked))][0] - ranked[0][0]}
    print(f"\n{problem.name}: {what}")
    print(f"{'':<20}" + "".join(f"{f'after {mark}':<24}" for mark in marks) + "".join(f"{goal:<20}" for goal in goals) + "ms")
    rows: dict[str, Any] = {}
    for (sampler, workers), of in runs.items():
        name = sampler + (f", {workers} workers" if workers > 1 else "")
        cells, at = [], {}
        for mark in marks:
            values = [run[min(mark, len(run)) - 1] for run in of]
            middle = statistics.fmean(values) if problem.alone else statistics.median(values)
            low, high = np.percentile(values, (25, 75))
            at[mark] = middle
            cells.append(f"{middle:.4f} ({low:.4f} to {high:.4f})")
        took = {goal: needed(of, value, least=problem.alone) for goal, value in goals.items()}
        cost = 1e3 * statistics.median(one.seconds for one in results[sampler, workers])
        texts = ["{1:g} ({0:g} to {2:g})".format(*quartiles) for quartiles in took.values()]
        print(f"{name:<20}" + "".join(f"{cell:<24}" for cell in cells) + "".join(f"{text:<20}" for text in texts) + f"{cost:.0f}")
        rows[name] = {"after": at, "needed": {goal: list(quartiles) for goal, quartiles in took.items()}, "seeds": len(of)}
    others = {key: statistics.median(run[-1] for run in of) for key, of in runs.items() if key[0] != "frontier" and key[1] == 1}
    if others and ("frontier", 1) in runs:
        best = (min if problem.alone else max)(others, key=others.__getitem__)
        networks = needed(runs["frontier", 1], others[best], least=problem.alone)
        length = min(len(run) for run in runs[best])
        print(
            "frontier needs {1:g} ({0:g} to {2:g})".format(*networks),
            f"for what {best[0]}, the best of the others, has after {length}",
        )
        rows["frontier needs"] = {"networks": list(networks), "for": best[0], "after": length}
    return rows


def compare(problem: Problem, options: argparse.Namespace) -> dict[str, Any]:
    """All samplers on one problem."""
    names = [name for name in (*SAMPLERS, *(STRATEGIES if problem.alone else ())) if name in options.samplers]
    cases = [(name, 1) for name in names] + [(name, 8) for name in names if name == "frontier"]
    numbers = {case: options.gp_seeds if case[0] == "gp" else options.seeds for case in cases}
    tasks = [(case, seed) for seed in range(max(numbers.values())) for case in cases if seed < numbers[case]]
    results: dict[tuple[str, int], list[SearchResult]] = {case: [] for case in cases if numbers[case]}
    with ProcessPoolExecutor(options.processes, initializer=quiet) as pool:
        ends = [
            (case, pool.submit(named, problem.name, options.nas_bench_macro, *case, seed, options.budget)) for case, seed in tasks
        ]
        for case, end in ends:
            results[case].append(end.result())
    return show(problem, results, options.budget)


def times() -> dict[int, float]:
    """Milliseconds of a proposal, printed."""
    kinds = ((3, 5, 7, 9), ("a", "b", "c", "d"))
    space: dict[str, BaseDistribution] = {f"x{i}": CategoricalDistribution(kinds[i % 2]) for i in range(50)}
    index = {value: i for kind in kinds for i, value in enumerate(kind)}

    def size(params: Params) -> float:
        return sum((i % 5) * index[value] ** 2 for i, value in enumerate(params.values()))

    def answer(params: Params) -> tuple[float, float]:
        return sum((i % 7) * index[value] for i, value in enumerate(params.values())), size(params)

    print(f"\nA proposal in a space of 50 parameters\n{'':<20}ms")
    figures = {}
    for number in TIMED:
        sampler = FrontierSampler(space, costs=lambda params: (None, size(params)), identity=everything, seed=0)
        study, generator, seconds = (
            optuna.create_study(directions=["maximize", "minimize"], sampler=sampler),
            random.Random(0),
            [],
        )
        for _ in range(number):
            params = sample(space, generator)
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, values=answer(params)))
        for _ in range(21):
            started = time.perf_counter()
            trial = study.ask(space)
            seconds.append(time.perf_counter() - started)
            study.tell(trial, answer(trial.params))
        figures[number] = 1e3 * statistics.median(seconds[1:])
        print(f"{f'after {number:,}':<20}{figures[number]:.0f} (first {1e3 * seconds[0]:.0f})", flush=True)
    return figures


def quiet() -> None:
    """Silence Optuna but for its warnings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def named(problem: str, file: str | None, *case: Any) -> SearchResult:
    """A search of a problem by name, as functions are not sent between processes."""
    return searched(problems(file)[problem], *case)


@functools.cache
def problems(file: str | None) -> dict[str, Problem]:
    """All problems, by name."""
    real = [nas_bench_macro(file, MacroSpace().decode)] if file else []
    return {problem.name: problem for problem in (*real, *map(alone, real), *made_up())}


def main() -> None:
    """Print every problem's table, and all figures as one JSON object."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nas-bench-macro", help="NAS-Bench-Macro's JSON file; without it only the made-up problems are searched"
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--gp-seeds", type=int, default=5, help="of Optuna's GP, which is slow; 0 leaves it out")
    parser.add_argument("--budget", type=int, default=150, help="different networks of one search")
    parser.add_argument("--only", nargs="+", help="problems, by their names' beginnings")
    parser.add_argument("--samplers", nargs="+", default=[name for name in (*SAMPLERS, *STRATEGIES) if name != "botorch"])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    selected = [
        p for p in problems(options.nas_bench_macro).values() if not options.only or p.name.startswith(tuple(options.only))
    ]
    figures: dict[str, Any] = {problem.name: compare(problem, options) for problem in selected}
    quiet()
    figures["ms"] = times()
    print(json.dumps(figures | {"seeds": options.seeds, "gp_seeds": options.gp_seeds}))


if __name__ == "__main__":
    main()
