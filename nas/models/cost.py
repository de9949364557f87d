"""Exact parameters, multiply-adds and activation memory of an Architecture, summed over its layers without building it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.layers import Part, parts

FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The costs of a network, for one image."""

    params: int
    """Number of parameters: weights, biases, BatchNorm's scales and shifts."""
    macs: int
    """Multiply-adds of convolutions and linear layers, as papers count them."""
    activation_bytes: int
    """Peak activation memory of inference in float32, bytes: the most that one layer's input, its output and the map kept for a
    skip take together. Layers are convolutions, pools and linear layers; norms, activations, gates and sums work in place."""


def cost(architecture: Architecture, num_classes: int = 1000) -> Cost:
    """The cost of a network with `num_classes` outputs (0 leaves the classifier out), at its own resolution.

    Raises: NasError for a negative number of classes.
    """
    if num_classes < 0:
        raise NasError(f"num_classes: {num_classes} is not 0 or more")
    params, macs, live_values = zip(*map(_part_cost, parts(architecture, num_classes)), strict=True)
    return Cost(params=sum(params), macs=sum(macs), activation_bytes=FLOAT32_BYTES * max(live_values))


@lru_cache(maxsize=100_000)
def _part_cost(part: Part) -> tuple[int, int, int]:
    """(params, macs, peak number of live values) of a part; cached, as the networks of a search share most of their parts."""
    layers = part.layers()
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers), max(layer.live_values for layer in layers)
