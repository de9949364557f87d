"""The search space: named parameters, `decode` from their values to an Architecture, and `encode` back.

An Architecture stores no choice without effect, so all parameter sets of a network decode to one Architecture with one id.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.errors import NasError, SpaceError
from nas.models.architecture import RESOLUTIONS, Architecture
from nas.plugins import check_type, load_plugin

Params: TypeAlias = dict[str, Any]  # parameter name → value


class SearchSpace(ABC):
    """A family of networks to search. Implementations are frozen dataclasses whose fields bound the family."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the space's file."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """Parameter name → Optuna distribution; names are dotted, stages counted from 1."""

    @property
    @abstractmethod
    def references(self) -> Mapping[str, Params]:
        """Reference name → parameters of that published network, at the space's own width multiple and resolution."""

    @abstractmethod
    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network with these parameters: one value for each. Every combination of values is valid."""

    @abstractmethod
    def encode(self, architecture: Architecture) -> Params:
        """The parameters of a network; a parameter without effect on it gets its first choice.

        Raises: SpaceError if the network is not in the space.
        """


def space(name: str) -> SearchSpace:
    """The search space with this name (`nas space` lists them), or the one that a user's Python file exports as SPACE.

    Raises: NasError for an unknown name, or a file without a SPACE.
    """
    loaded: SearchSpace = load_plugin("space", name)
    check_type("space", loaded, SearchSpace)
    return loaded


def check_choices(field: str, choices: Sequence[object], allowed: Sequence[object]) -> None:
    """Check a space's field that lists choices.

    Raises: NasError if the list is empty, or a choice is not allowed or there twice.
    """
    if not choices:
        raise NasError(f"space.{field}: no choice given; give at least one")
    wrong = [choice for choice in choices if choice not in allowed]
    if wrong:
        raise NasError(f"space.{field}: {wrong[0]!r} is not among {', '.join(map(str, allowed))}")
    if len(set(choices)) < len(choices):
        raise NasError(f"space.{field}: {', '.join(map(str, choices))} names one choice twice")


def check_range(field: str, value: float, low: float, high: float, *, step: float = 0.0) -> None:
    """Check a space's numeric field.

    Raises: NasError if the value is not from `low` to `high`, or not a multiple of `step`.
    """
    if not low <= value <= high:
        raise NasError(f"space.{field}: {value!r} is not from {low} to {high}")
    if step and abs(value / step - round(value / step)) > 1e-6:
        raise NasError(f"space.{field}: {value!r} is not a multiple of {step}")


def check_resolutions(resolutions: Sequence[int]) -> None:
    """Check a space's choices of the side of the input, pixels.

    Raises: NasError if there is none, one is there twice, or one is no resolution of an Architecture.
    """
    check_choices("resolutions", resolutions, resolutions)
    for resolution in resolutions:
        check_range("resolutions", resolution, *RESOLUTIONS)


def num_points(parameters: Mapping[str, BaseDistribution]) -> float:
    """The number of parameter sets; infinite with a continuous parameter. Several sets may decode to the same network."""
    return math.prod(map(num_choices, parameters.values()), start=1.0)


def num_choices(distribution: Any) -> float:
    """The number of values of one parameter; infinite for a continuous one."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    return round((distribution.high - distribution.low) / distribution.step) + 1 if distribution.step else math.inf


def is_choice(distribution: Any, value: object) -> bool:
    """True if the parameter can have this value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return False
    steps: float = (value - distribution.low) / (distribution.step or math.inf)  # 0 for a continuous parameter
    return abs(steps - round(steps)) < 1e-6


def sample(parameters: Mapping[str, BaseDistribution], generator: random.Random) -> Params:
    """A random value for every parameter, each uniform and independent."""
    return {name: _draw(distribution, generator) for name, distribution in parameters.items()}


def _draw(distribution: Any, generator: random.Random) -> Any:
    choices = num_choices(distribution)
    if choices == math.inf or getattr(distribution, "log", False):
        return _within(distribution, generator.random())
    return _choice(distribution, generator.randrange(int(choices)))


def _choice(distribution: Any, index: int) -> Any:
    """The value of a parameter by its index, counted from 0."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[index]
    return round(distribution.low + index * distribution.step, 10)


def _within(distribution: Any, share: float) -> Any:
    """The value of a numeric parameter at a share of its range, from 0 to 1, on its scale."""
    low, high = distribution.low, distribution.high
    value = low * (high / low) ** share if distribution.log else low + (high - low) * share
    return min(max(round(value) if isinstance(low, int) else value, low), high)


def grid_values(distribution: Any) -> list[Any]:
    """Every choice of a categorical parameter, or up to 11 evenly spaced values of a numeric one, lowest first."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if not distribution.step or distribution.log:
        return sorted({_within(distribution, i / 10) for i in range(11)})
    last = int(num_choices(distribution)) - 1
    return [_choice(distribution, index) for index in sorted({round(last * i / 10) for i in range(11)})]


def first_choices(parameters: Mapping[str, BaseDistribution]) -> Params:
    """The first value of every parameter; `encode` gives it to parameters without effect on the network."""
    return {name: grid_values(distribution)[0] for name, distribution in parameters.items()}


def check_encoding(space: SearchSpace, architecture: Architecture, params: Params) -> Params:
    """`params`, after checking that they decode to `architecture`: the last step of every `encode`.

    Raises: SpaceError if they do not, or if a value is not one of its parameter's choices.
    """
    for name, distribution in space.parameters.items():
        if name not in params or not is_choice(distribution, params[name]):
            value = f"{name} = {params.get(name)!r}"
            raise SpaceError(f"architecture {architecture.id} is not in space {space.name}: {value} is not a choice")
    if space.decode(params) != architecture:
        raise SpaceError(f"architecture {architecture.id} is not in space {space.name}: its nearest point is another network")
    return params
