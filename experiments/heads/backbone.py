"""From a network's name or exported folder to the named feature maps that torchvision's heads take."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nas import NasError, build
from nas.exports import read_export
from nas.networks import export_folder, find_network
from nas.runs import CARD_FILE
from nas.weights import WEIGHTS_FILE, with_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A network without its classifier, and the mean and standard deviation of the images that it reads."""

    features: Any  # timm's FeatureGetterNet: images → a list of maps, with feature_info.channels() and .reduction()
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


def open_backbone(name: str) -> Backbone:
    """An exported folder's network with its weights, or a newly initialised one by name, by file or by text.

    Raises: NasError if there is none, or if it is one of timm's.
    """
    architecture = find_network(name).architecture
    if architecture is None:
        raise NasError(f"network {name!r} is timm's own, whose maps timm.create_model gives; give one that has an architecture")
    features: Any = build(architecture, features_only=True)
    folder = export_folder(name)
    if folder is None:
        return Backbone(features=features)
    network, classes, card = read_export(folder)
    state = with_weights(network, len(classes), folder / WEIGHTS_FILE).state_dict()
    left = features.model.load_state_dict(state, strict=False)
    assert not left.missing_keys, left.missing_keys  # only what lies behind the last map has no place
    try:
        read = card["preprocess"]
        return Backbone(features=features, mean=tuple(read["mean"]), std=tuple(read["std"]))
    except (KeyError, TypeError):
        raise NasError(
            f"{folder / CARD_FILE} is damaged: it does not say how images are read; export the network again"
        ) from None


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
