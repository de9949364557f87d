"""BiFPN, EfficientDet's neck: feature maps are fused from coarse to fine and back, several times, with learned weights.

Source: Tan, Pang and Le, EfficientDet, 2020, https://arxiv.org/abs/1911.09070; what the paper leaves open is as in
https://github.com/google/automl/tree/master/efficientdet, except for its biases before a BatchNorm, which removes them.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas import NasError

# Channels and layers of EfficientDet-D0 to D7 (Table 1); the rule, 64 * 1.35^phi and 3 + phi, gives others for some of them.
WIDTHS: Final = (64, 88, 112, 160, 224, 288, 384, 384)
DEPTHS: Final = (3, 4, 5, 6, 7, 7, 8, 8)
NUM_LEVELS: Final = 5  # P3 to P7, of strides 8 to 128
EPSILON: Final = 1e-4  # of fast normalised fusion, section 3.3


class BiFPN(nn.Module):
    """The neck of EfficientDet-D`phi`, on a network's feature maps of `channels`, from fine to coarse.

    `num_levels` maps come out. Those coarser than the network's are made from its coarsest by pooling. It has DEPTHS[phi]
    layers, or `max_layers`, for images smaller than those of EfficientDet.

    Shapes: maps (N, channels[i], height / 2^i, width / 2^i) by name → the same with WIDTHS[phi] channels, `num_levels` of them.
    Raises: NasError for a phi outside 0 to 7, no layers, or fewer levels than maps.
    """

    def __init__(
        self, channels: Sequence[int], *, phi: int = 0, num_levels: int = NUM_LEVELS, max_layers: int = max(DEPTHS)
    ) -> None:
        super().__init__()
        if not 0 <= phi < len(WIDTHS):
            raise NasError(f"phi: {phi} is not from 0 to {len(WIDTHS) - 1}")
        if not 2 <= len(channels) <= num_levels:
            raise NasError(f"num_levels: {num_levels} is less than the number of feature maps, {len(channels)}, or than 2")
        if max_layers < 1:
            raise NasError(f"max_layers: {max_layers} is not 1 or more")
        self.out_channels, self.num_pooled = WIDTHS[phi], num_levels - len(channels)
        self.coarser = _lateral(channels[-1], self.out_channels) if self.num_pooled else nn.Identity()
        first = [*channels, *[self.out_channels] * self.num_pooled]
        later = [self.out_channels] * num_levels
        self.layers = nn.ModuleList(Layer(later if i else first, self.out_channels) for i in range(min(DEPTHS[phi], max_layers)))

    def forward(self, maps: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """The fused maps, from fine to coarse, named by their number."""
        levels = list(maps.values())
        for i in range(self.num_pooled):
            levels.append(_halve(levels[-1] if i else self.coarser(levels[-1])))
        for layer in self.layers:
            levels = layer(levels)
        return OrderedDict((str(i), x) for i, x in enumerate(levels))


class Layer(nn.Module):
    """One pass from the coarsest map to the finest, and one back, each through a Node per map."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        last = len(channels) - 1
        self.to_fine = nn.ModuleList(Node([channels[i], width if i + 1 < last else channels[last]], width) for i in range(last))
        self.to_coarse = nn.ModuleList(Node([channels[i], *[width] * (1 if i == last else 2)], width) for i in range(1, last + 1))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The maps, from fine to coarse; all have the same width."""
        middle = [levels[-1]]
        for x, node in zip(reversed(levels[:-1]), reversed(self.to_fine), strict=True):
            middle.insert(0, node([x, middle[0]]))
        fused = [middle[0]]
        for i, node in enumerate(self.to_coarse, start=1):
            inputs = [levels[i], middle[i], fused[-1]] if i < len(levels) - 1 else [levels[i], fused[-1]]
            fused.append(node(inputs))
        return fused


class Node(nn.Module):
    """Fast normalised fusion of maps of `channels`, all brought to the size of the first; then swish and a convolution.

    Shapes: maps of one size, its half or its double → (N, width, height of the first, width of the first).
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_lateral(one, width) if one != width else nn.Identity() for one in channels)
        self.weights = nn.Parameter(torch.ones(len(channels)))
        self.convolution = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            _norm(width),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The fused map."""
        weights = functional.relu(self.weights)
        weights = weights / (weights.sum() + EPSILON)
        inputs = [_resize(lateral(x), maps[0]) for lateral, x in zip(self.laterals, maps, strict=True)]
        fused: Tensor = self.convolution(sum(weight * x for weight, x in zip(weights, inputs, strict=True)))
        return fused


def _lateral(channels: int, width: int) -> nn.Module:
    """A 1 x 1 convolution that gives a map the width of the neck."""
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), _norm(width))


def _norm(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)  # automl's hparams_config.py and utils.py: 0.99 of the past is kept


def _halve(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2, padding=1)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """The map at the size of another, which has its size, half of it or double."""
    if x.shape[-1] > like.shape[-1]:
        return _halve(x)
    return functional.interpolate(x, like.shape[-2:]) if x.shape[-1] < like.shape[-1] else x
