"""What a search space is: named parameters, and the two ways between them and an Architecture.

A choice that changes nothing in the network leaves no trace in the Architecture, so two parameter sets that mean the
same network give the same id.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.errors import NasError, SpaceError
from nas.models.architecture import Architecture
from nas.plugins import check_kind, load_plugin

Params: TypeAlias = dict[str, Any]  # parameter name → value


class SearchSpace(ABC):
    """A family of networks to search. Implementations are frozen dataclasses whose fields say which family."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the space's file."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """Every parameter with its choices; dotted names, stages counted from 1."""

    @property
    @abstractmethod
    def references(self) -> Mapping[str, Params]:
        """The published networks that are points of the space, or would be at their own width and resolution."""

    @abstractmethod
    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network that a value for every parameter means; always a valid one."""

    @abstractmethod
    def encode(self, architecture: Architecture) -> Params:
        """Parameters that mean this network; parameters that do not matter get their first choice.

        Raises: SpaceError if the network is not a point of the space.
        """


def space(name: str) -> SearchSpace:
    """The search space of a name (`nas space` lists them) or in a Python file of one's own that exports SPACE."""
    loaded: SearchSpace = load_plugin("space", name)
    check_kind("space", loaded, SearchSpace)
    return loaded


def check_choices(field: str, given: Sequence[object], allowed: Sequence[object]) -> None:
    """Refuse a space's field that offers no choice, or one that does not exist.

    Raises: NasError.
    """
    if not given:
        raise NasError(f"space.{field}: no choice given; give at least one")
    wrong = [choice for choice in given if choice not in allowed]
    if wrong:
        raise NasError(f"space.{field}: {wrong[0]!r} is not among {', '.join(map(str, allowed))}")


def check_range(field: str, given: float, low: float, high: float, *, step: float = 0.0) -> None:
    """Refuse a space's field outside its range, or between the steps of its parameter.

    Raises: NasError.
    """
    if not low <= given <= high:
        raise NasError(f"space.{field}: {given!r} is not from {low} to {high}")
    if step and abs(given / step - round(given / step)) > 1e-6:
        raise NasError(f"space.{field}: {given!r} is not a multiple of {step}")


def num_points(parameters: Mapping[str, BaseDistribution]) -> float:
    """How many parameter sets there are (several may mean one network); infinite with a continuous parameter."""
    return math.prod(map(num_choices, parameters.values()), start=1.0)


def num_choices(distribution: Any) -> float:
    """How many values one parameter can have."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    return round((distribution.high - distribution.low) / distribution.step) + 1 if distribution.step else math.inf


def is_choice(distribution: Any, value: object) -> bool:
    """Whether a parameter may have a value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return False
    steps: float = (value - distribution.low) / (distribution.step or math.inf)  # 0 with a continuous one
    return abs(steps - round(steps)) < 1e-6


def sample(parameters: Mapping[str, BaseDistribution], generator: random.Random) -> Params:
    """A value for every parameter, uniformly and independently."""
    return {name: _draw(distribution, generator) for name, distribution in parameters.items()}


def _draw(distribution: Any, generator: random.Random) -> Any:
    choices = num_choices(distribution)
    if choices == math.inf:
        return generator.uniform(distribution.low, distribution.high)
    return _choice(distribution, generator.randrange(int(choices)))


def _choice(distribution: Any, number: int) -> Any:
    """The value of a parameter with so many below it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[number]
    return round(distribution.low + number * distribution.step, 10)


def some_values(distribution: Any) -> list[Any]:
    """Every choice of a parameter, or up to eleven values of a numeric one from its lowest to its highest."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if not distribution.step:
        return [distribution.low + (distribution.high - distribution.low) * i / 10 for i in range(11)]
    last = int(num_choices(distribution)) - 1
    return [_choice(distribution, number) for number in sorted({round(last * i / 10) for i in range(11)})]


def first_choices(parameters: Mapping[str, BaseDistribution]) -> Params:
    """The first value of every parameter: what a choice that does not matter is set to."""
    return {name: some_values(distribution)[0] for name, distribution in parameters.items()}


def checked(space: SearchSpace, architecture: Architecture, params: Params) -> Params:
    """`params` if they really mean `architecture` in `space`: the last step of every `encode`.

    Raises: SpaceError if they do not, or lie outside the choices.
    """
    for name, distribution in space.parameters.items():
        if name not in params or not is_choice(distribution, params[name]):
            given = f"{name} = {params.get(name)!r}"
            raise SpaceError(f"architecture {architecture.id} is not in space {space.name}: {given} is not a choice")
    if space.decode(params) != architecture:
        raise SpaceError(f"architecture {architecture.id} is not in space {space.name}: its nearest point is another network")
    return params
