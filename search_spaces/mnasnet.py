"""MnasNet's factorized hierarchical space: one set of choices per stage, relative to MobileNetV2.

Source: Tan et al., arXiv:1807.11626, section 4.1 and figure 4. Its skip choice "pooling" is left out: the published code
(tensorflow/tpu models/official/mnasnet) has only identity and none, and no published network uses pooling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.models.architecture import ACTIVATIONS, RESOLUTIONS, Architecture, Block, Head, Stem, round_width
from nas.models.stages import Row, make_stages
from nas.models.zoo import MOBILENETV2, reference
from nas.spaces import Params, SearchSpace, check_choices, check_encoding, check_range, first_choices

REFERENCES: Final = ("mobilenetv2_100", "semnasnet_100", "mnasnet_100")

# (width, depth, stride) of MobileNetV2's stages. The choices of width and depth are relative to them.
SKELETON: Final = tuple((row.width, row.repeats, row.stride) for (row,) in MOBILENETV2)

# The paper's width multiples. A1's fifth stage (112 = 7/6 * 96) and B1's sixth (192 = 6/5 * 160) need one more each.
WIDTHS: Final = (0.75, 1.0, 1.25)
MORE_WIDTHS: Final = {5: (7 / 6,), 6: (6 / 5,)}


@dataclass(frozen=True, kw_only=True)
class MnasNetSpace(SearchSpace):
    """MnasNet's choices of operation, kernel, expansion, squeeze ratio, skip, width and depth for each of seven stages.

    Raises: NasError for a field outside its range or choices.
    """

    width_multiple: float = 1.0
    """Multiplies every width but the head's."""
    resolution: int = 224
    """Side of the input, pixels."""
    stem_stride: int = 2
    """2, or 1 for images of about 32 pixels."""
    activations: tuple[str, ...] = ("relu", "relu6")
    """Choices of the network's activation: relu as in MnasNet, relu6 as in MobileNetV2."""

    def __post_init__(self) -> None:
        check_range("width_multiple", self.width_multiple, 0.1, 4.0)
        check_range("resolution", self.resolution, *RESOLUTIONS)
        check_choices("stem_stride", (self.stem_stride,), (1, 2))
        check_choices("activations", self.activations, ACTIVATIONS)

    @property
    def name(self) -> str:
        """The space's name, `mnasnet`."""
        return "mnasnet"

    @cached_property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """`activation`, and seven parameters for each stage; `squeeze` and `width` are ratios, `depth` counts blocks."""
        parameters: dict[str, BaseDistribution] = {"activation": CategoricalDistribution(self.activations)}
        for stage, (_, depth, _) in enumerate(SKELETON, start=1):
            prefix = f"stage{stage}"
            parameters[f"{prefix}.op"] = CategoricalDistribution(("conv", "sep", "mbconv"))
            parameters[f"{prefix}.kernel"] = CategoricalDistribution((3, 5))
            parameters[f"{prefix}.expansion"] = CategoricalDistribution((3, 6))
            parameters[f"{prefix}.squeeze"] = CategoricalDistribution((0.0, 0.25))
            parameters[f"{prefix}.skip"] = CategoricalDistribution((True, False))
            parameters[f"{prefix}.width"] = CategoricalDistribution(WIDTHS + MORE_WIDTHS.get(stage, ()))
            parameters[f"{prefix}.depth"] = IntDistribution(max(1, depth - 1), depth + 1)
        return parameters

    @cached_property
    def references(self) -> Mapping[str, Params]:
        """MobileNetV2, MnasNet-A1 (semnasnet) and MnasNet-B1, if the space has their activation."""
        published = MnasNetSpace()
        points = {name: published.encode(reference(name)) for name in REFERENCES}
        return {name: point for name, point in points.items() if point["activation"] in self.activations}

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network whose stages have these choices, with MobileNetV2's strides and a head of 1280 channels."""
        activation = params["activation"]
        stem = Stem(width=round_width(32 * self.width_multiple), stride=self.stem_stride)
        table = []
        for stage, (base, _, stride) in enumerate(SKELETON, start=1):
            op, kernel, expansion, squeeze, skip, multiple, depth = (params[f"stage{stage}.{field}"] for field in FIELDS)
            ratio = "input" if squeeze else "none"
            table.append((Row(base * multiple, depth, op, kernel, stride, expansion, ratio, activation, skip),))
        stages = make_stages(stem.width, tuple(table), self.width_multiple)
        head = Head(kind="efficientnet", width=1280)
        return Architecture(
            resolution=self.resolution, convention="torch", activation=activation, stem=stem, stages=stages, head=head
        )

    def encode(self, architecture: Architecture) -> Params:
        """The choices that each stage's blocks show; for all others, the first choice.

        Raises: SpaceError if they do not decode to the network.
        """
        params = first_choices(self.parameters) | {"activation": architecture.activation}
        width_in = architecture.stem.width
        for stage, blocks in enumerate(architecture.stages[: len(SKELETON)], start=1):
            params |= {f"stage{stage}.{field}": value for field, value in self._choices(stage, blocks, width_in).items()}
            width_in = blocks[-1].width
        return check_encoding(self, architecture, params)

    def _choices(self, stage: int, blocks: tuple[Block, ...], width_in: int) -> Params:
        """The choices of a stage that can be read off its blocks."""
        first = blocks[0]
        choices: Params = {"op": first.op, "kernel": first.kernel, "depth": len(blocks)}
        choices["squeeze"] = 0.25 if first.squeeze else 0.0
        if first.op == "mbconv":
            choices["expansion"] = round(first.hidden / width_in)
        if any(can_skip(block, before) for block, before in zip(blocks, (width_in, *(b.width for b in blocks)), strict=False)):
            choices["skip"] = any(block.skip for block in blocks)
        multiples = {
            round_width(SKELETON[stage - 1][0] * m * self.width_multiple): m for m in WIDTHS + MORE_WIDTHS.get(stage, ())
        }
        choices["width"] = multiples.get(first.width)
        return choices


FIELDS: Final = ("op", "kernel", "expansion", "squeeze", "skip", "width", "depth")


def can_skip(block: Block, width_in: int) -> bool:
    """True if the block's shapes allow a skip."""
    return block.stride == 1 and block.width == width_in


SPACE: Final = MnasNetSpace()
