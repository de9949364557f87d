"""Two networks: a search space of a user's own."""

from dataclasses import dataclass
from types import MappingProxyType

from optuna.distributions import CategoricalDistribution

from nas import SearchSpace, reference

NAMES = ("mobilenetv2_035", "mobilenetv2_050")


@dataclass(frozen=True, kw_only=True)
class Tiny(SearchSpace):
    """One of two published networks."""

    name = "tiny"
    references = MappingProxyType({})
    parameters = MappingProxyType({"which": CategoricalDistribution(NAMES)})

    def decode(self, params):
        return reference(params["which"])

    def encode(self, architecture):
        return {"which": next(name for name in NAMES if reference(name) == architecture)}


SPACE = Tiny()
