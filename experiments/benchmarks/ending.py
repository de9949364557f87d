"""How near a search that ends by itself comes to the best moment to end.

The problems are those of `problems.py` with several objectives.
FrontierSampler searches each problem with one worker. `nas.searching.ending` judges after every trial from what was measured, as
`--trials auto` does. After its end the search goes on, to twice its trials and to `--least` trials at least, to judge the end by
the true hypervolume of everything tried. The reference point is the worst of each loss that the whole search met.

Two oracles know the true hypervolume to the end. They stop after the first trial from which on

- no trial makes it grow by the wanted share or more (the oracle of the goal), or
- no 8 trials in a row make it grow by the wanted share a trial, on average.

Shown per kind are medians over seeds: the trials at the end, those of both oracles, the ratio to the first, and the share of the
hypervolume of twice the trials; then the least such share, and in how many searches the ratio is at most 1.3, the share at least
0.98, and both. A search that does not end within `--most` trials counts as ended there.

Usage: python -m experiments.benchmarks.ending [--nas-bench-macro FILE] [--seeds 4] [--first-seed 100] [--min-gain 0.2%]
[--least 160] [--most 240] [--only NAME ...]
FILE is nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro.
"""

import argparse
import json
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from optuna.exceptions import ExperimentalWarning

from experiments.benchmarks.problems import Problem
from experiments.benchmarks.sampler_efficiency import Losses, frontier, problems, quiet, study_of, volumes
from nas.runs.experiment import share_of
from nas.runs.pareto import front_of
from nas.sampler.history import expectation
from nas.searching.ending import Growth, added_share

MAX_RATIO: Final = 1.3  # trials / the oracle's
LEAST_SHARE: Final = 0.98  # of the hypervolume of twice the trials
WINDOW: Final = 8  # trials over which the second oracle averages


@dataclass(frozen=True)
class Ended:
    """A search and its end."""

    problem: str
    seed: int
    trials: int
    """At its end."""
    oracle: int
    """Trials after which no further one adds the wanted share."""
    mean_oracle: int
    """Trials after which no 8 in a row add it on average."""
    share: float
    """The hypervolume at the end / that of twice the trials."""
    ended: bool
    """Whether it ended by itself."""

    @property
    def ratio(self) -> float:
        """Its trials as a multiple of the oracle's."""
        return self.trials / self.oracle


def searched(problem: Problem, seed: int, *, min_gain: float, least: int, most: int) -> Ended:
    """A search that goes on beyond its end."""
    study, growth = study_of(problem, frontier(problem, seed)), Growth()
    true: list[Losses] = []
    measured: list[Losses] = []
    front: list[Losses] = []
    end: int | None = None
    while len(true) < (max(least, 2 * min(end, most)) if end else 2 * most):
        trial = study.ask(dict(problem.distributions))
        expected = expectation(trial)
        if expected is not None:
            growth.expected.append(expected.growth)
        losses, value = problem.losses(trial.params), problem.measure(trial.params, seed)
        study.tell(trial, [value, *losses[1:]])
        true.append(losses)
        measured.append((-value, *losses[1:]))
        if end is None:
            before, front = front, front_of([*front, measured[-1]])
            growth.end(added_share(before, front, measured), expected and expected.surprise(value))
            if growth.is_over(min_gain, workers=1) or len(true) == most:
                end, by_itself = len(true), growth.is_over(min_gain, workers=1)
    assert end is not None
    reference = tuple(max(column) for column in zip(*true, strict=True))
    volume = volumes(true, reference)
    return Ended(
        problem=problem.name,
        seed=seed,
        trials=end,
        oracle=oracle(volume, min_gain, window=1),
        mean_oracle=oracle(volume, min_gain, window=WINDOW),
        share=volume[end - 1] / volume[2 * end - 1],
        ended=by_itself,
    )


def oracle(volume: Sequence[float], min_gain: float, *, window: int) -> int:
    """The trials after which the hypervolume grows by less than the share a trial, over every window that follows."""
    last = 0
    for trials in range(1, len(volume)):
        length = min(window, len(volume) - trials)
        if volume[trials + length - 1] >= volume[trials - 1] * (1 + length * min_gain):
            last = trials
    return last + 1


def line(name: str, ends: Sequence[Ended]) -> str:
    """The row of a kind."""
    near, enough = (sum(kept) for kept in ([one.ratio <= MAX_RATIO for one in ends], [one.share >= LEAST_SHARE for one in ends]))
    both = sum(one.ratio <= MAX_RATIO and one.share >= LEAST_SHARE for one in ends)
    numbers = [
        f"{statistics.median(one.trials for one in ends):g}",
        f"{statistics.median(one.oracle for one in ends):g}",
        f"{statistics.median(one.mean_oracle for one in ends):g}",
        f"{statistics.median(one.ratio for one in ends):.2f}",
        f"{statistics.median(one.share for one in ends):.4f}",
        f"{min(one.share for one in ends):.4f}",
        *(f"{count}/{len(ends)}" for count in (near, enough, both)),
    ]
    return f"{name:<18}" + "".join(f"{number:<10}" for number in numbers)


def main() -> None:
    """Print a row per kind and one over all, then every search as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nas-bench-macro", help="NAS-Bench-Macro's JSON file; without it only made-up problems are searched")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--min-gain", default="0.2%")
    parser.add_argument("--least", type=int, default=160, help="trials until which every search goes on")
    parser.add_argument("--most", type=int, default=240, help="trials after which a search is ended")
    parser.add_argument("--only", nargs="+", help="problems, by their names' beginnings")
    options = parser.parse_args()
    min_gain = share_of("--min-gain", options.min_gain)
    warnings.simplefilter("ignore", ExperimentalWarning)
    quiet()
    columns = ["trials", "oracle", "mean of 8", "ratio", "share", "least", "<= 1.3", ">= 0.98", "both"]
    print(f"{'':<18}" + "".join(f"{column:<10}" for column in columns))
    ends: list[Ended] = []
    for problem in problems(options.nas_bench_macro).values():
        if problem.alone or (options.only and not problem.name.startswith(tuple(options.only))):
            continue
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        of_kind = [searched(problem, seed, min_gain=min_gain, least=options.least, most=options.most) for seed in seeds]
        print(line(problem.name, of_kind), flush=True)
        ends += of_kind
    print(line("all", ends))
    print(f"ended by themselves: {sum(one.ended for one in ends)} of {len(ends)}")
    print(json.dumps([asdict(one) for one in ends]))


if __name__ == "__main__":
    main()
