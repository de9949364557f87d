"""Exact parameters, multiply-adds and activation memory of an Architecture, by arithmetic alone.

They are sums over the network's layers. Read `modules.py` next for the same network in torch.
"""

from dataclasses import dataclass
from functools import lru_cache
from operator import le
from typing import Final

from nas.architecture import Architecture, Block, Head, Stem
from nas.errors import NasError
from nas.layers import Part, Terms

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
    params = macs = peak = 0
    for value, width, size, size_out in architecture.walk():
        learned, (before, after, once), alive = _sums(value, width, num_classes if type(value) is Head else 0)
        area, area_out = size * size, size_out * size_out
        params += learned
        macs += before * area + after * area_out + once
        for before, after, once in alive:
            numbers = before * area + after * area_out + once
            peak = max(peak, numbers)
    return Cost(params=params, macs=macs, activation_bytes=FLOAT32_BYTES * peak)


@lru_cache(maxsize=100_000)
def _sums(value: Stem | Block | Head, width: int, num_classes: int) -> tuple[int, Terms, tuple[Terms, ...]]:
    """(params, macs, what is alive while each layer runs) of a part on maps of any size.

    A search asks for the same ones often, at several sizes. Layers that never need the most are left out.
    """
    found = Part(value, width, num_classes=num_classes).layers()
    macs = tuple(map(sum, zip(*(layer.macs_terms for layer in found), strict=True)))
    alive = {layer.alive_terms for layer in found}
    most = [one for one in alive if not any(one != other and all(map(le, one, other)) for other in alive)]
    return sum(layer.params for layer in found), (macs[0], macs[1], macs[2]), tuple(most)
