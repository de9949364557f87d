"""Networks of one stage and one parameter, its width, that train in a second."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from optuna.distributions import BaseDistribution, IntDistribution
from shades import Shades

from nas import Architecture, Experiment, SearchSpace, TrainSettings, objective, reference


@dataclass(frozen=True, kw_only=True)
class Widths(SearchSpace):
    """A width."""

    largest: int = 256
    """In steps of 8."""

    name = "widths"
    references: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """The width of the one block."""
        return {"width": IntDistribution(8, self.largest, step=8)}

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network of a width."""
        base = reference("mobilenetv2_035")
        (block,) = base.stages[0]
        return replace(base, resolution=16, stages=((replace(block, width=params["width"]),),))

    def encode(self, architecture: Architecture) -> dict[str, Any]:
        """The width of a network."""
        return {"width": architecture.stages[0][0].width}


EXPERIMENT: Final = Experiment(
    space=Widths(),
    dataset=Shades(contrast=50),
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    train=TrainSettings(epochs=2, batch_size=16),
    sampler="random",
    trials=4,
    workers=2,
)
