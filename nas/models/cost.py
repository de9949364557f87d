"""Exact parameters, multiply-adds and activation memory of an Architecture, by arithmetic alone.

They are sums over the network's layers.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.layers import Part, parts

FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a network costs, for one image."""

    params: int
    """Learned numbers: weights, biases, BatchNorm's scale and shift."""
    macs: int
    """Multiply-adds of convolutions and linear layers, as papers count them."""
    activation_bytes: int
    """Peak of what is alive at once in inference in float32: a layer's input and output, and any skip or squeezed map kept
    meanwhile. Layers are convolutions, pools and linear layers; norms, activations, gates and sums work in place."""


def cost(architecture: Architecture, num_classes: int = 1000) -> Cost:
    """The cost of a network with `num_classes` outputs (0 leaves the classifier out), at its own resolution.

    Raises: NasError for a negative number of classes.
    """
    if num_classes < 0:
        raise NasError(f"num_classes: {num_classes} is not 0 or more")
    params, macs, alive = zip(*map(_sums, parts(architecture, num_classes)), strict=True)
    return Cost(params=sum(params), macs=sum(macs), activation_bytes=FLOAT32_BYTES * max(alive))


@lru_cache(maxsize=100_000)
def _sums(part: Part) -> tuple[int, int, int]:
    """(params, macs, most numbers alive at once) of a part; a search asks for the same ones often."""
    found = part.layers()
    return sum(layer.params for layer in found), sum(layer.macs for layer in found), max(layer.alive for layer in found)
