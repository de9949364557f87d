"""Made-up search problems of different kinds, and NAS-Bench-Macro: what `sampler_efficiency.py` asks samplers to solve.

None is a network's real accuracy but NAS-Bench-Macro's. Each has the same answers in every run; only the noise of an answer goes
with the seed, as that of a training does.
"""

import json
import math
import random
import statistics
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas import cost, space
from nas.models.architecture import Architecture
from nas.spaces import Params

CLASSES: Final = 10


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Accuracy, in percent, against costs that are known: or accuracy alone."""

    name: str
    distributions: Mapping[str, BaseDistribution]
    accuracy: Callable[[Params], float]
    """Without noise."""
    costs: Callable[[Params], tuple[float, ...]]
    """Known, each the lower the better."""
    noise: float
    """Standard deviation of what a training measures."""
    identity: Callable[[Params], Hashable]
    answers: Callable[[Params, int], float] | None = None
    """What a training of a seed measures, where it is on record."""
    limit: float | None = None
    """On the first cost."""
    alone: bool = False
    """Whether accuracy is the only objective."""

    def measure(self, params: Params, seed: int) -> float:
        """What one training finds."""
        if self.answers is not None:
            return self.answers(params, seed)
        generator = random.Random(f"{seed} {self.identity(params)}")
        return self.accuracy(params) + generator.gauss(0.0, self.noise)

    def losses(self, params: Params) -> tuple[float, ...]:
        """The losses of a network: its true accuracy, negated, and its costs."""
        return (-self.accuracy(params), *(() if self.alone else self.costs(params)))

    def is_feasible(self, params: Params) -> bool:
        """True if it meets the limit."""
        return self.limit is None or self.costs(params)[0] <= self.limit


def alone(problem: Problem, *, limit: float | None = None) -> Problem:
    """The same, judged by accuracy alone."""
    return replace(problem, name=f"{problem.name}, accuracy alone", alone=True, limit=limit)


def everything(params: Params) -> Hashable:
    """Every parameter set is a network of its own."""
    return tuple(params.values())


def _effects(names: int, choices: int, seed: int) -> list[list[float]]:
    generator = random.Random(seed)
    return [[generator.gauss(0, 1) for _ in range(choices)] for _ in range(names)]


def additive(name: str, noise: float) -> Problem:
    """Ten choices of four, which add up; dearer ones are mostly better."""
    effects, prices = _effects(10, 4, 1), [[1.0, 2.0, 3.5, 6.0]] * 10
    weights = [1.0 + i % 3 for i in range(10)]

    def accuracy(params: Params) -> float:
        return 85.0 + math.fsum(w * (0.3 * e[c] + 0.35 * c) for w, e, c in zip(weights, effects, params.values(), strict=True))

    def costs(params: Params) -> tuple[float]:
        return (sum(w * p[c] for w, p, c in zip(weights, prices, params.values(), strict=True)),)

    return Problem(
        name=name,
        distributions={f"x{i}": CategoricalDistribution((0, 1, 2, 3)) for i in range(10)},
        accuracy=accuracy,
        costs=costs,
        noise=noise,
        identity=everything,
    )


def interacting() -> Problem:
    """Nine choices of three without order, of which neighbours matter together as much as each alone."""
    single, prices = _effects(9, 3, 2), _effects(9, 3, 3)
    together = [_effects(3, 3, 10 + i) for i in range(8)]
    index = {"a": 0, "b": 1, "c": 2}

    def accuracy(params: Params) -> float:
        at = [index[value] for value in params.values()]
        pairs = sum(table[i][j] for table, i, j in zip(together, at, at[1:], strict=False))
        return 90.0 + 0.5 * sum(table[i] for table, i in zip(single, at, strict=True)) + 0.5 * pairs

    def costs(params: Params) -> tuple[float]:
        return (sum(math.exp(table[index[value]]) for table, value in zip(prices, params.values(), strict=True)),)

    names = {f"x{i}": CategoricalDistribution(("a", "b", "c")) for i in range(9)}
    return Problem(name="interacting", distributions=names, accuracy=accuracy, costs=costs, noise=0.2, identity=everything)


def widths() -> Problem:
    """Seven widths of four, with two costs: accuracy saturates, is held down by the narrowest, and falls where all are widest."""
    sizes = (16, 24, 32, 48)
    needs = [0.8, 1.0, 1.3, 1.0, 1.6, 0.7, 1.2]

    def accuracy(params: Params) -> float:
        relative = [value / (24 * need) for value, need in zip(params.values(), needs, strict=True)]
        capacity = sum(1 - math.exp(-1.5 * width) for width in relative) / len(relative)
        narrowest = min(relative)
        excess = max(0.0, statistics.fmean(relative) - 1.25)
        return 60.0 + 30 * capacity + 6 * (1 - math.exp(-2 * narrowest)) - 6 * excess

    def costs(params: Params) -> tuple[float, float]:
        values = [3, *params.values()]
        area = [4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.5]
        return (
            sum(a * w * v for a, w, v in zip(area, values, values[1:], strict=False)) / 1e3,
            sum(math.ceil(v / 16) * a for a, v in zip(area, values[1:], strict=True)),
        )

    return Problem(
        name="widths",
        distributions={f"width{i}": CategoricalDistribution(sizes) for i in range(7)},
        accuracy=accuracy,
        costs=costs,
        noise=0.15,
        identity=everything,
    )


OPERATIONS: Final = ("none", "skip", "conv1", "conv3", "pool")


def cells() -> Problem:
    """Six operations of five between four nodes, as NAS-Bench-201 has: some mean the same network, some learn nothing."""
    edges = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    strength = {"none": 0.0, "skip": 0.35, "conv1": 0.75, "conv3": 1.0, "pool": 0.15}
    price = {"none": 0.0, "skip": 0.0, "conv1": 1.0, "conv3": 8.0, "pool": 0.2}

    def alive(params: Params) -> tuple[tuple[tuple[int, int], str], ...]:
        """Edges on a way from the first node to the last."""
        ops = {edge: op for edge, op in zip(edges, params.values(), strict=True) if op != "none"}
        forward, backward = {0}, {3}
        for start, end in edges:
            forward |= {end} if start in forward and (start, end) in ops else set()
        for start, end in reversed(edges):
            backward |= {start} if end in backward and (start, end) in ops else set()
        return tuple(((s, e), op) for (s, e), op in ops.items() if s in forward and e in backward)

    def accuracy(params: Params) -> float:
        used = alive(params)
        if not used:
            return 10.0
        into = {0: 1.0}
        for (start, end), op in used:
            into[end] = into.get(end, 0.0) + strength[op] * min(1.0, into.get(start, 0.0)) * (0.9 if end - start == 1 else 1.0)
        convolutions = sum(op.startswith("conv") for _, op in used)
        pools = sum(op == "pool" for _, op in used)
        return 94.5 - 30 * math.exp(-1.1 * into[3] - 0.35 * convolutions) - 1.0 * pools - (8.0 if not convolutions else 0.0)

    def costs(params: Params) -> tuple[float]:
        return (10.0 + sum(price[op] for _, op in alive(params)),)

    return Problem(
        name="cells",
        distributions={f"edge{i}": CategoricalDistribution(OPERATIONS) for i in range(6)},
        accuracy=accuracy,
        costs=costs,
        noise=0.2,
        identity=alive,
    )


def floats() -> Problem:
    """Compound scaling with free coefficients, and two settings of the training that cost nothing."""

    def accuracy(params: Params) -> float:
        depth, width, resolution = params["depth"], params["width"], params["resolution"] / 224
        size = 1 / (1 / depth + 1 / width**1.5 + 1 / resolution**2)
        rate = (math.log10(params["rate"]) + 1.2) ** 2
        return float(82.0 - 9 * size**-0.5 + 9 * 3**0.5 - 2.5 * rate - 3 * abs(params["dropout"] - 0.1 * width))

    def costs(params: Params) -> tuple[float]:
        return (0.39 * params["depth"] * params["width"] ** 2 * (params["resolution"] / 224) ** 2,)

    distributions: dict[str, BaseDistribution] = {
        "depth": FloatDistribution(0.5, 2.0),
        "width": FloatDistribution(0.5, 2.0),
        "resolution": IntDistribution(128, 320, step=16),
        "rate": FloatDistribution(1e-3, 1.0, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
    }
    return Problem(name="floats", distributions=distributions, accuracy=accuracy, costs=costs, noise=0.1, identity=everything)


def elastic() -> Problem:
    """Once-for-all's 10^19: depth of five stages, kernel and expansion of the layers that it leaves, resolution."""
    distributions: dict[str, BaseDistribution] = {"resolution": IntDistribution(128, 224, step=16)}
    for stage in range(5):
        distributions[f"depth{stage}"] = IntDistribution(2, 4)
        for layer in range(4):
            distributions[f"kernel{stage}.{layer}"] = CategoricalDistribution((3, 5, 7))
            distributions[f"expansion{stage}.{layer}"] = CategoricalDistribution((3, 4, 6))
    generator = random.Random(5)
    likes = {name: generator.gauss(0, 1) for name in distributions}

    def layers(params: Params) -> list[tuple[int, int, int, int]]:
        return [
            (s, i, params[f"kernel{s}.{i}"], params[f"expansion{s}.{i}"]) for s in range(5) for i in range(params[f"depth{s}"])
        ]

    def accuracy(params: Params) -> float:
        lost = 3.2 * (128 / params["resolution"])
        for stage in range(5):
            strength = 0.0
            for i in range(params[f"depth{stage}"]):
                kernel, expansion = params[f"kernel{stage}.{i}"], params[f"expansion{stage}.{i}"]
                fits = 1 - 0.04 * abs(kernel - 5 - likes[f"kernel{stage}.{i}"])
                strength += (expansion / 4) ** 0.6 * fits * (1 + 0.1 * likes[f"expansion{stage}.{i}"]) / (i + 1) ** 0.5
            lost += 2.0 * math.exp(-0.55 * strength)
        return float(82.0 - lost)

    def costs(params: Params) -> tuple[float]:
        areas = (16.0, 8.0, 4.0, 4.0, 2.0)
        work = sum((1 + 0.06 * kernel**2) * expansion * areas[stage] for stage, _, kernel, expansion in layers(params))
        return (work * (params["resolution"] / 224) ** 2 / 10,)

    return Problem(
        name="elastic",
        distributions=distributions,
        accuracy=accuracy,
        costs=costs,
        noise=0.08,
        identity=lambda params: (params["resolution"], *layers(params)),
    )


def ours(name: str) -> Problem:
    """One of our spaces with exact multiply-adds; what its accuracy follows is made up of the blocks that the network has."""
    searched = space(name)

    def accuracy(params: Params) -> float:
        network = searched.decode(params)
        macs = cost(network, CLASSES).macs / 1e6
        reach = squeezed = smooth = total = 0.0
        for at, stage in enumerate(network.stages):
            for block in stage:
                importance = 1.0 + 0.25 * at
                total += importance
                reach += importance * (1 - abs(block.kernel - (3 + at % 3)) / 4)
                squeezed += importance * bool(block.squeeze)
                smooth += importance * (block.activation == "hard_swish")
        depth = sum(map(len, network.stages))
        shares = 2.0 * reach / total + 1.2 * squeezed / total + 0.8 * smooth / total
        return float(80.0 - 12 * (macs / 20) ** -0.35 + shares - 0.02 * (depth - 16) ** 2 / 4)

    def costs(params: Params) -> tuple[float]:
        return (cost(searched.decode(params), CLASSES).macs / 1e6,)

    def identity(params: Params) -> Hashable:
        return searched.decode(params).to_json()

    return Problem(
        name=f"our {name}", distributions=searched.parameters, accuracy=accuracy, costs=costs, noise=0.15, identity=identity
    )


def nas_bench_macro(file: str, decode: Callable[[Params], Architecture]) -> Problem:
    """3,969 networks with three accuracies each (arXiv:2103.11922): one is what a training measures, their mean is the truth."""
    table = json.loads(Path(file).read_text(encoding="utf-8"))
    texts = {choices: decode({f"layer{i + 1}": int(c) for i, c in enumerate(choices)}).to_json() for choices in table}

    def entry(params: Params) -> Any:
        return table["".join(map(str, params.values()))]

    return Problem(
        name="NAS-Bench-Macro",
        distributions={f"layer{i}": CategoricalDistribution((0, 1, 2)) for i in range(1, 9)},
        accuracy=lambda params: statistics.fmean(entry(params)["test_acc"]),
        costs=lambda params: (entry(params)["flops"] / 1e6,),
        noise=0.0,
        answers=lambda params, seed: entry(params)["test_acc"][seed % 3],
        identity=lambda params: texts["".join(map(str, params.values()))],
    )


def made_up() -> list[Problem]:
    """Every kind."""
    return [
        additive("additive", 0.2),
        additive("noisy", 1.5),
        interacting(),
        widths(),
        alone(widths()),
        cells(),
        alone(cells()),
        floats(),
        elastic(),
        alone(elastic(), limit=60.0),
        ours("mobilenetv3"),
        ours("mnasnet"),
    ]
