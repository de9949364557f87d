"""MobileNetV4's universal inverted bottlenecks on the skeletons of its convolutional networks: Small, Medium and Large.

Source: Qin et al., arXiv:2404.10518: kernels 0, 3 and 5 before and inside the expansion of each block; expansions as published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.models.architecture import Architecture, Block, Head, Stem, round_width
from nas.models.stages import Row, make_stages
from nas.models.zoo import MOBILENETV4, Table, reference
from nas.spaces import Params, SearchSpace, check_choices, check_encoding, check_range, check_resolutions, first_choices

KERNELS: Final = (0, 3, 5)  # 0 for no depthwise convolution
EXPANSIONS: Final = (2, 3, 4, 6)  # of the published networks
FIELDS: Final = ("start_kernel", "kernel", "expansion")  # of each layer
WIDTHS: Final = (0.75, 1.0, 1.25)
MAX_DEPTHS: Final = {2: 3, 3: 12, 4: 14}  # stage → one more than in the deepest published network
REFERENCES: Final = ("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_large")


@dataclass(frozen=True, kw_only=True)
class MobileNetV4Space(SearchSpace):
    """MobileNetV4's choices: two kernels, either of which may be absent, and expansion of each layer; depth, width of each stage.

    Raises: NasError for a field outside its range or choices.
    """

    width_multiple: float = 1.0
    """Multiplies every width but the stem's and the head's, as in the published networks."""
    skeletons: tuple[str, ...] = ("small", "medium", "large")
    """Choices of the skeleton, which sets the stem, the first stage and each stage's base width: small, medium, large. The second
    stage of small is two convolutions without choices."""
    resolutions: tuple[int, ...] = (384, 320, 256, 224, 192, 160, 128)
    """Choices of the side of the input, pixels."""
    stem_stride: int = 2
    """2, or 1 for images of about 32 pixels."""

    def __post_init__(self) -> None:
        check_range("width_multiple", self.width_multiple, 0.1, 4.0)
        check_choices("skeletons", self.skeletons, tuple(MOBILENETV4))
        check_resolutions(self.resolutions)
        check_choices("stem_stride", (self.stem_stride,), (1, 2))

    @property
    def name(self) -> str:
        """The space's name, `mobilenetv4`."""
        return "mobilenetv4"

    @cached_property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """Parameters of the whole network, of stages 2 to 4, and of each of their layers.

        `start_kernel` is before the expansion, `kernel` inside it. Both: extra depthwise; the second: inverted bottleneck; the
        first: ConvNeXt; none: feed-forward. A stage's first layer has stride 2 and always the second.
        """
        parameters: dict[str, BaseDistribution] = {
            "resolution": CategoricalDistribution(self.resolutions),
            "skeleton": CategoricalDistribution(self.skeletons),
        }
        for stage, max_depth in MAX_DEPTHS.items():
            parameters[f"stage{stage}.depth"] = IntDistribution(1, max_depth)
            parameters[f"stage{stage}.width"] = CategoricalDistribution(WIDTHS)
            for layer in range(1, max_depth + 1):
                prefix = f"stage{stage}.layer{layer}"
                parameters[f"{prefix}.start_kernel"] = CategoricalDistribution(KERNELS)
                parameters[f"{prefix}.kernel"] = CategoricalDistribution(KERNELS[1:] if layer == 1 else KERNELS)
                parameters[f"{prefix}.expansion"] = CategoricalDistribution(EXPANSIONS)
        return parameters

    @cached_property
    def references(self) -> Mapping[str, Params]:
        """MobileNetV4-Conv-Small, -Medium and -Large, if the space has their skeleton; at their resolution, if it has that."""
        published = MobileNetV4Space()
        points = {name: published.encode(reference(name)) for name in REFERENCES}
        return {
            name: point if point["resolution"] in self.resolutions else point | {"resolution": self.resolutions[0]}
            for name, point in points.items()
            if point["skeleton"] in self.skeletons
        }

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network with these choices; layers beyond a stage's depth are ignored."""
        table, stem = self._skeleton(params["skeleton"])
        rows = tuple(_rows(params, stage, skeleton) for stage, skeleton in enumerate(table, start=1))
        return Architecture(
            resolution=params["resolution"],
            convention="torch",
            activation="relu",
            stem=stem,
            stages=make_stages(stem.width, rows, self.width_multiple),
            head=Head(kind="mobilenetv4", width=1280),
        )

    def _skeleton(self, name: str) -> tuple[Table, Stem]:
        """The published table and the stem of a skeleton."""
        table, width = MOBILENETV4[name]
        return table, Stem(width=width, stride=self.stem_stride)

    def encode(self, architecture: Architecture) -> Params:
        """The choices that the stages' blocks show; for layers beyond a stage's depth, the first choice.

        Raises: SpaceError if they do not decode to the network.
        """
        params = first_choices(self.parameters) | {"resolution": architecture.resolution}
        params["skeleton"] = next((name for name in MOBILENETV4 if self._has_skeleton(architecture, name)), None)
        table, _ = MOBILENETV4.get(params["skeleton"], ((), 0))
        width_in = architecture.stem.width
        for stage, (blocks, rows) in enumerate(zip(architecture.stages, table, strict=False), start=1):
            if rows[0].op == "uib":
                choices = self._choices(blocks, rows[0], width_in)
                params |= {f"stage{stage}.{field}": value for field, value in choices.items()}
            width_in = blocks[-1].width
        return check_encoding(self, architecture, params)

    def _has_skeleton(self, architecture: Architecture, name: str) -> bool:
        """True if the stem and the first stage are the skeleton's."""
        table, stem = self._skeleton(name)
        return (architecture.stem, architecture.stages[0]) == (stem, *make_stages(stem.width, table[:1], self.width_multiple))

    def _choices(self, blocks: tuple[Block, ...], skeleton: Row, width_in: int) -> Params:
        """The choices of a stage that can be read off its blocks."""
        widths = {round_width(skeleton.width * multiple * self.width_multiple): multiple for multiple in WIDTHS}
        choices: Params = {"depth": len(blocks), "width": widths.get(blocks[0].width)}
        for layer, block in enumerate(blocks, start=1):
            choices[f"layer{layer}.start_kernel"], choices[f"layer{layer}.kernel"] = block.start_kernel, block.kernel
            choices[f"layer{layer}.expansion"] = block.hidden // width_in
            width_in = block.width
        return choices


def _rows(params: Mapping[str, Any], stage: int, skeleton: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of a stage: the skeleton's, or if they are universal inverted bottlenecks one per layer with its choices."""
    first, prefix = skeleton[0], f"stage{stage}"
    if first.op != "uib":
        return skeleton
    width, rows = first.width * params[f"{prefix}.width"], []
    for layer in range(1, params[f"{prefix}.depth"] + 1):
        start_kernel, kernel, expansion = (params[f"{prefix}.layer{layer}.{field}"] for field in FIELDS)
        stride = first.stride if layer == 1 else 1
        rows.append(Row(width, 1, "uib", kernel, stride, expansion, start_kernel=start_kernel))
    return tuple(rows)


SPACE: Final = MobileNetV4Space()
