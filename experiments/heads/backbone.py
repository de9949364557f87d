"""From a network's name or exported folder to the named feature maps that torchvision's heads take."""

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
    """A network without its classifier, and the mean and standard deviation of the images that it reads."""

    features: Any  # timm's FeatureGetterNet: images → a list of maps, with feature_info.channels() and .reduction()
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


def open_backbone(network: str | Architecture) -> Backbone:
    """An exported folder's network with its weights, or a newly initialised one by name, by file or as an architecture.

    Raises: NasError if there is none, or if it is one of timm's.
    """
    architecture, folder = find_network(network).architecture, export_folder(network)
    if folder is None:
        return Backbone(features=build(architecture, features_only=True))
    features = load(folder, features_only=True)
    read = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))["preprocess"]
    return Backbone(features=features, mean=tuple(read["mean"]), std=tuple(read["std"]))


class NamedMaps(nn.Module):
    """Some of a network's feature maps, by name.

    Shapes: (N, 3, height, width) → for each name (N, channels, height / stride, width / stride).
    """

    def __init__(self, features: nn.Module, names: Mapping[str, int]) -> None:
        super().__init__()
        self.features = features
        self.names = dict(names)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The maps at the places that the names stand for, as they are counted in feature_info."""
        maps = self.features(x)
        return OrderedDict((name, maps[place]) for name, place in self.names.items())
