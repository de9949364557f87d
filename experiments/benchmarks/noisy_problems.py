"""Made-up search problems in which noise rules: two seeds of a network differ by as much as the best networks do.

Accuracy grows with the logarithm of a cost, and a little with each choice and each pair of neighbouring choices. `noise.py` asks
samplers to solve them.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from optuna.distributions import CategoricalDistribution

from experiments.benchmarks.problems import Problem, cells, elastic, everything
from nas.spaces import Params

Costs = Callable[[Params], tuple[float, ...]]
Choices = Mapping[str, CategoricalDistribution]

PAIR_SHARE: Final = 0.5  # size of the effect of a pair of choices, as a share of that of one choice


def grown(name: str, choices: Choices, costs: Costs, *, slope: float, spread: float, noise: float, seed: int) -> Problem:
    """Accuracy is 70 + slope · log(first cost) + effects of the choices, whose standard deviation is about `spread`."""
    generator = random.Random(seed)
    counts = [len(of.choices) for of in choices.values()]
    own = [[generator.gauss(0, 1) for _ in range(count)] for count in counts]
    pairs = [[[generator.gauss(0, PAIR_SHARE) for _ in range(n)] for _ in range(m)] for m, n in itertools.pairwise(counts)]
    index = [{value: i for i, value in enumerate(of.choices)} for of in choices.values()]
    size = spread / math.sqrt(len(counts) * (1 + PAIR_SHARE**2))

    def accuracy(params: Params) -> float:
        at = [of[params[name]] for name, of in zip(choices, index, strict=True)]
        alone = sum(effect[i] for effect, i in zip(own, at, strict=True))
        together = sum(effect[i][j] for effect, i, j in zip(pairs, at, at[1:], strict=False))
        return 70.0 + slope * math.log(costs(params)[0]) + size * (alone + together)

    return Problem(name=name, distributions=dict(choices), accuracy=accuracy, costs=costs, noise=noise, identity=everything)


def resnet_widths() -> Problem:
    """Seven widths of four; the cost is that of two 3x3 convolutions a stage."""
    area = (4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.5)

    def costs(params: Params) -> tuple[float]:
        widths = [16, *params.values()]
        return (sum(a * (x * y + y * y) for a, x, y in zip(area, widths, widths[1:], strict=False)) / 1e3,)

    choices = {f"width{i}": CategoricalDistribution((16, 24, 32, 48)) for i in range(7)}
    return grown("ResNet widths", choices, costs, slope=1.6, spread=0.35, noise=0.35, seed=21)


def mobilenet_widths() -> Problem:
    """Eight widths of five, with two costs: multiply-adds and parameters of depthwise and pointwise convolutions."""
    base, area = (32, 64, 128, 128, 256, 256, 512, 1024), (64.0, 64.0, 16.0, 16.0, 4.0, 4.0, 1.0, 0.25)

    def costs(params: Params) -> tuple[float, float]:
        widths = [3.0, *(b * w for b, w in zip(base, params.values(), strict=True))]
        weights = [9 * x + x * y for x, y in itertools.pairwise(widths)]
        return sum(a * w for a, w in zip(area, weights, strict=True)) / 1e3, sum(weights) / 1e3

    choices = {f"width{i}": CategoricalDistribution((0.25, 0.5, 0.75, 1.0, 1.25)) for i in range(8)}
    return grown("MobileNet widths", choices, costs, slope=2.5, spread=0.5, noise=0.5, seed=22)


def cells_with_latencies() -> Problem:
    """The cells of `problems.py`; the cost is a latency, to which each operation adds another time at each place."""
    problem, generator = cells(), random.Random(23)
    times = {"none": 0.0, "skip": 0.1, "conv1": 1.0, "conv3": 2.2, "pool": 0.8}
    names = dict(zip(((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), problem.distributions, strict=True))
    taken = {(n, op): ms * math.exp(generator.gauss(0, 0.15)) for n in problem.distributions for op, ms in times.items()}

    def costs(params: Params) -> tuple[float]:
        used: Any = problem.identity(params)
        return (3.0 + sum(taken[names[edge], operation] for edge, operation in used),)

    return replace(problem, name="cells with latencies", costs=costs, noise=0.5)


def mnasnet_params() -> Problem:
    """MnasNet's choices over seven stages; the cost is the parameters, with which accuracy has a Kendall's tau of 0.6."""
    widths, stem, head = (16, 24, 40, 80, 96, 192, 320), 32, 1.7e6
    kinds = {"expansion": (1, 4, 6), "kernel": (3, 5), "layers": (1, 2, 3), "squeeze": (False, True)}

    def costs(params: Params) -> tuple[float]:
        total, before = head, stem
        for stage, width in enumerate(widths):
            for _ in range(params[f"layers{stage}"]):
                inner = before * params[f"expansion{stage}"]
                total += (before * inner if inner > before else 0) + inner * params[f"kernel{stage}"] ** 2 + inner * width
                total += inner * before / 2 if params[f"squeeze{stage}"] else 0
                before = width
        return (total / 1e6,)

    choices = {f"{kind}{stage}": CategoricalDistribution(values) for stage in range(7) for kind, values in kinds.items()}
    return grown("MnasNet", choices, costs, slope=3.0, spread=0.8, noise=0.3, seed=24)


def noisy_elastic() -> Problem:
    """Once-for-all's space of `problems.py`, with noise as large as the differences at the top."""
    return replace(elastic(), name="once-for-all", noise=0.3)


def noisy() -> list[Problem]:
    """Every kind."""
    return [resnet_widths(), mobilenet_widths(), cells_with_latencies(), noisy_elastic(), mnasnet_params()]
