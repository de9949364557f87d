"""A run's network to scale, and the grid of alpha, beta and gamma, as a space whose points a search trains.

Read `coefficients.py` next for the search.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.architecture import RESOLUTIONS, Architecture
from nas.costs import cost
from nas.errors import NasError
from nas.family import ScalingRule, scale_family
from nas.networks import parse_network
from nas.scaling import scale
from nas.spaces import Params, SearchSpace, checked
from nas.table import best, results

ALPHAS: Final = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
BETAS: Final = (1.0, 1.1, 1.2, 1.3, 1.4)
GRID: Final = tuple((alpha, beta) for alpha, beta in itertools.product(ALPHAS, BETAS) if alpha * beta**2 <= 2)
TOLERANCE: Final = 0.05  # of twice the multiply-adds
BEYOND: Final = 2**63  # multiply-adds of what no architecture may be
GROWTH: Final = 2  # of the multiply-adds, from phi = 0 to phi = 1


def trained_network(run: str | PathLike[str], trial: int | None = None) -> tuple[int, Architecture]:
    """(its number, the network of) a trial of a run, by default of the best on the run's first objective.

    Raises: NasError for a trial that is not there or not done, or one of timm's own networks.
    """
    df = results(run)
    if trial is None:
        row = best(df, next(iter(df.attrs["directions"])), within_error=True)  # any is one to scale, the nearest best too
    else:
        done = df[df["status"] == "done"]
        chosen = done[done["trial"] == trial]
        if chosen.empty:
            raise NasError(f"trial {trial} is not a done one of {run}; done: {', '.join(map(str, done['trial'])) or 'none'}")
        row = chosen.iloc[0]
    architecture = parse_network(row["architecture"]).architecture
    if architecture is None:
        raise NasError(f"trial {row['trial']}, {row['name']}, is timm's own network, which has no architecture to scale")
    return int(row["trial"]), architecture


@dataclass(frozen=True, kw_only=True)
class TripleSpace(SearchSpace):
    """One network at phi = 1 by each of some triples of alpha, beta and gamma."""

    base: str
    """The network to scale: its canonical text."""
    triples: tuple[tuple[float, float, float], ...]
    """alpha, beta and gamma of each."""

    def __post_init__(self) -> None:
        if len(set(self.rules)) < len(self.triples):
            raise NasError(f"space.triples: {self.triples} has one twice, or two that differ in the fifth digit alone")

    @property
    def name(self) -> str:
        return "triples"

    @cached_property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        return {"triple": CategoricalDistribution(tuple(self.rules))}

    @property
    def references(self) -> Mapping[str, Params]:
        return {}

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        return self.architectures[params["triple"]]

    def encode(self, architecture: Architecture) -> Params:
        named = (name for name, scaled in self.architectures.items() if scaled == architecture)
        return checked(self, architecture, {"triple": next(named, None)})

    @cached_property
    def rules(self) -> Mapping[str, ScalingRule]:
        """What each value of the parameter means."""
        rules = (ScalingRule(alpha=alpha, beta=beta, gamma=gamma) for alpha, beta, gamma in self.triples)
        return {f"{rule.alpha:.4g} {rule.beta:.4g} {rule.gamma:.5g}": rule for rule in rules}

    @cached_property
    def architectures(self) -> Mapping[str, Architecture]:
        """The network of each value of the parameter."""
        base = Architecture.from_json(self.base)
        return {name: scale_family(base, [1], rule)[0].architecture for name, rule in self.rules.items()}


def triple_space(base: Architecture, grid: Iterable[tuple[float, float]] = GRID, *, num_classes: int = 1000) -> TripleSpace:
    """The triples of a grid of alpha and beta, each with the gamma of 1 or more by which the multiply-adds of `base` double.

    The paper takes gamma from alpha * beta^2 * gamma^2 = 2, which says what the multiply-adds grow by where nothing is rounded.
    With depths rounded up and widths to multiples of 8, B0's grow by 1.9 to 2.8 on this grid, and what costs most would have
    an edge; so gamma is that of the whole resolution at which the exact ones are nearest to twice. What is still more than
    5 % off is left out. Of triples that mean one network that one is kept whose alpha * beta^2 * gamma^2 is nearest to 2. It may
    be well below 2, 1.46 for B0 with 1.2 and 1.1: each phi beyond the first then costs less than twice the one before.

    Raises: NasError where fewer than two are left.
    Source: EfficientNet, arXiv:1905.11946, section 3.3, step 1.
    """
    points = list(grid)
    wanted = GROWTH * cost(base, num_classes).macs
    found: dict[str, ScalingRule] = {}
    for alpha, beta in points:
        rule = _with_gamma(base, alpha, beta, wanted=wanted, num_classes=num_classes)
        if rule is None:
            continue
        member = scale_family(base, [1], rule, num_classes=num_classes)[0]
        kept = found.get(member.architecture.id, rule)
        nearer = abs(rule.growth - GROWTH) <= abs(kept.growth - GROWTH)
        if abs(member.cost.macs / wanted - 1) <= TOLERANCE:
            found[member.architecture.id] = rule if nearer else kept
    if len(found) < 2:
        raise NasError(
            f"{len(found)} of {len(points)} pairs of alpha and beta can bring architecture {base.id} within {TOLERANCE:.0%} of "
            "twice its multiply-adds, and a fit compares two or more; take one of more layers, wider ones or a larger resolution"
        )
    triples = ((float(rule.alpha), float(rule.beta), rule.gamma) for rule in found.values())
    return TripleSpace(base=base.to_json(), triples=tuple(triples))


def _with_gamma(base: Architecture, alpha: float, beta: float, *, wanted: int, num_classes: int) -> ScalingRule | None:
    """The rule with the gamma that brings the multiply-adds nearest to `wanted`; None beyond the bounds of an architecture."""
    ScalingRule(alpha=alpha, beta=beta)  # raises for what is below 1

    def macs(pixels: int) -> int:
        try:
            return cost(scale(base, depth=alpha, width=beta, resolution=pixels), num_classes).macs
        except NasError:
            return BEYOND

    sides = range(base.resolution, min(2 * base.resolution, RESOLUTIONS[1]) + 1)
    enough = bisect_left(sides, wanted, key=macs)
    nearest = min(sides[max(enough - 1, 0) : enough + 1], key=lambda pixels: abs(macs(pixels) - wanted))
    return None if macs(nearest) == BEYOND else ScalingRule(alpha=alpha, beta=beta, gamma=nearest / base.resolution)
