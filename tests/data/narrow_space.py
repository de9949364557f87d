"""A space of a few thousand small networks, which have few different layers."""

from dataclasses import dataclass
from typing import ClassVar

from optuna.distributions import CategoricalDistribution, IntDistribution

from nas import SearchSpace
from nas.models.architecture import Architecture, Head, Stem
from nas.models.stages import Row, make_stages
from nas.spaces import check_encoding, first_choices

WIDTHS = (16, 24, 40)  # of the stages
PARAMETERS = {"resolution": CategoricalDistribution((24, 32))}
for _stage in (1, 2, 3):
    PARAMETERS[f"stage{_stage}.depth"] = IntDistribution(1, 2)
    PARAMETERS[f"stage{_stage}.squeeze"] = CategoricalDistribution((False, True))
    for _layer in (1, 2):
        PARAMETERS[f"stage{_stage}.layer{_layer}.kernel"] = CategoricalDistribution((3, 5))
        PARAMETERS[f"stage{_stage}.layer{_layer}.expansion"] = CategoricalDistribution((2, 3, 6))


@dataclass(frozen=True, kw_only=True)
class NarrowSpace(SearchSpace):
    """Three stages of one or two inverted bottlenecks at 24 or 32 pixels."""

    name: ClassVar = "narrow"
    parameters: ClassVar = PARAMETERS
    references: ClassVar = {}

    def decode(self, params):
        """The network with these choices."""
        stages = []
        for stage, width in enumerate(WIDTHS, start=1):
            squeeze = "hidden" if params[f"stage{stage}.squeeze"] else "none"
            choices = [
                (params[f"stage{stage}.layer{layer}.kernel"], params[f"stage{stage}.layer{layer}.expansion"])
                for layer in range(1, params[f"stage{stage}.depth"] + 1)
            ]
            rows = [
                Row(width, 1, "mbconv", kernel, 2 if i == 0 else 1, expansion, squeeze)
                for i, (kernel, expansion) in enumerate(choices)
            ]
            stages.append(tuple(rows))
        return Architecture(
            resolution=params["resolution"],
            convention="torch",
            activation="relu",
            stem=Stem(width=16, stride=1),
            stages=make_stages(16, tuple(stages)),
            head=Head(kind="mobilenetv3", width=64),
        )

    def encode(self, architecture):
        """The choices that the blocks show."""
        params, width = first_choices(self.parameters) | {"resolution": architecture.resolution}, architecture.stem.width
        for stage, blocks in enumerate(architecture.stages, start=1):
            params |= {f"stage{stage}.depth": len(blocks), f"stage{stage}.squeeze": bool(blocks[0].squeeze)}
            for layer, block in enumerate(blocks, start=1):
                params |= {f"stage{stage}.layer{layer}.kernel": block.kernel}
                params |= {f"stage{stage}.layer{layer}.expansion": block.hidden // width}
                width = block.width
        return check_encoding(self, architecture, params)


SPACE = NarrowSpace()
