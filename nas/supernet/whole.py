"""The whole tensors of a space: one for each parameter that any of its networks has, as large as the largest.

Read `network.py` first.
"""

import random
from collections.abc import Mapping
from typing import Final, TypeAlias

from nas.models.slices import Shape
from nas.spaces import Params, SearchSpace, grid_values, sample
from nas.supernet.network import shared_shapes

Shapes: TypeAlias = dict[str, Shape]

NUM_RANDOM: Final = 1_000  # random networks that must all fit into the whole tensors


def whole_shapes(space: SearchSpace, num_classes: int) -> Shapes:
    """Name → shape of every whole tensor of a space.

    Climbs from the space's references and from random points, one parameter at a time, to the networks that need the largest
    tensors, until NUM_RANDOM random networks in a row fit.
    """
    whole: Shapes = {}
    generator = random.Random(0)
    for params in space.references.values():
        _climb(space, num_classes, dict(params), whole)
    fitting = 0
    while fitting < NUM_RANDOM:
        params = sample(space.parameters, generator)
        fitting += 1
        if _growth(whole, shared_shapes(space.decode(params), num_classes)):
            _climb(space, num_classes, params, whole)
            fitting = 0
    return whole


def fits(whole: Mapping[str, Shape], needed: Mapping[str, Shape]) -> bool:
    """True if every tensor that a network needs is a slice of a whole one."""
    return not _growth(whole, needed)


def _climb(space: SearchSpace, num_classes: int, params: Params, whole: Shapes) -> None:
    """Change one parameter after another to the choice for which `whole` must grow most, and let it grow."""
    _grow(whole, shared_shapes(space.decode(params), num_classes))
    grown = True
    while grown:
        grown = False
        for name, distribution in space.parameters.items():
            choices = grid_values(distribution)
            needs = {value: shared_shapes(space.decode(params | {name: value}), num_classes) for value in choices}
            most = max(needs, key=lambda value: _growth(whole, needs[value]))
            if _growth(whole, needs[most]):
                grown = True
                params = params | {name: most}
                for shapes in needs.values():
                    _grow(whole, shapes)


def _growth(whole: Mapping[str, Shape], needed: Mapping[str, Shape]) -> int:
    """By how much the sides of the whole tensors must grow for a network; 0 if it fits."""
    return sum(
        max(0, side - have)
        for name, shape in needed.items()
        for side, have in zip(shape, whole.get(name, (0,) * len(shape)), strict=True)
    )


def _grow(whole: Shapes, needed: Mapping[str, Shape]) -> None:
    for name, shape in needed.items():
        whole[name] = tuple(map(max, shape, whole.get(name, shape)))
