"""A network as a backbone with named feature maps, as torchvision's heads need it."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nas import Architecture, build, load
from nas.models.network import CARD_FILE, export_folder, find_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A network without its head, and the mean and standard deviation of its input, per channel, of pixels from 0 to 1."""

    features: Any  # timm's FeatureGetterNet: images → a list of maps, with feature_info.channels() and .reduction()
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


def open_backbone(network: str | Architecture) -> Backbone:
    """The backbone of an exported folder with its weights, or a newly initialised one of a reference, file or Architecture.

    Raises: NasError for an unknown network, or one of timm's own.
    """
    architecture, folder = find_network(network).architecture, export_folder(network)
    if folder is None:
        return Backbone(features=build(architecture, features_only=True))
    features = load(folder, features_only=True)
    preprocess = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))["preprocess"]
    return Backbone(features=features, mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"]))


class NamedMaps(nn.Module):
    """Some of a network's feature maps, by name.

    Shapes: (N, 3, height, width) → for each name (N, channels, height / stride, width / stride).
    """

    def __init__(self, features: nn.Module, names: Mapping[str, int]) -> None:
        super().__init__()
        self.features = features
        self.names = dict(names)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The feature maps by name; the names' indices are those of feature_info."""
        maps = self.features(x)
        return OrderedDict((name, maps[index]) for name, index in self.names.items())
