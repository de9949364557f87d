"""A space of three small networks, which are the same one at three resolutions."""

from dataclasses import dataclass, replace
from typing import ClassVar

from optuna.distributions import CategoricalDistribution

from nas import SearchSpace, reference


@dataclass(frozen=True, kw_only=True)
class TinySpace(SearchSpace):
    """MobileNetV3-Small at 32 to 64 pixels."""

    name: ClassVar = "tiny"
    parameters: ClassVar = {"resolution": CategoricalDistribution((32, 48, 64))}
    references: ClassVar = {}

    def decode(self, params):
        """The network at that resolution."""
        return replace(reference("mobilenetv3_small_075"), resolution=params["resolution"])

    def encode(self, architecture):
        """Its resolution."""
        return {"resolution": architecture.resolution}


SPACE = TinySpace()
