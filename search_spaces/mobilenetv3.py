"""MobileNetV3's block choices on its Large and Small skeletons; they include every block choice of Once-for-All.

Sources: Howard et al., arXiv:1905.02244, tables 1 and 2; Cai et al., Once-for-All, arXiv:1908.09791, section 4 (depth 2-4,
kernel 3-5-7, expansion 3-4-6 per layer).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.models.architecture import CONVENTIONS, Architecture, Block, Head, Stem, round_width
from nas.models.stages import Row, make_stages
from nas.models.zoo import MOBILENETV3_LARGE, MOBILENETV3_SMALL, Table, reference
from nas.spaces import Params, SearchSpace, check_choices, check_encoding, check_range, check_resolutions, first_choices

TABLES: Final[dict[str, Table]] = {"large": MOBILENETV3_LARGE, "small": MOBILENETV3_SMALL}
HEAD_WIDTHS: Final = {"large": 1280, "small": 1024}
EXPANSIONS: Final = (2.3, 2.5, 3.0, 3.67, 4.0, 4.5, 6.0)  # of the published networks
WIDTHS: Final = (0.75, 1.0, 1.25)
MAX_DEPTH: Final = 4
REFERENCES: Final = (
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "tf_mobilenetv3_large_minimal_100",
    "tf_mobilenetv3_small_minimal_100",
)


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Space(SearchSpace):
    """MobileNetV3's choices: kernel and expansion of each layer; depth, width, squeeze and activation of each stage.

    Raises: NasError for a field outside its range or choices.
    """

    width_multiple: float = 1.0
    """Multiplies every width but the head's."""
    head_multiple: float = 1.0
    """Multiplies the head's width, 1280 on the Large and 1024 on the Small skeleton."""
    skeletons: tuple[str, ...] = ("large", "small")
    """Choices of the skeleton, which sets the base width and the stride of each stage: large, small."""
    resolutions: tuple[int, ...] = (224, 192, 160, 128, 96)
    """Choices of the side of the input, pixels."""
    conventions: tuple[str, ...] = ("torch", "tensorflow")
    """Choices of padding and BatchNorm epsilon: torch, tensorflow. The published minimalistic networks have tensorflow."""
    stem_stride: int = 2
    """2, or 1 for images of about 32 pixels."""

    def __post_init__(self) -> None:
        check_range("width_multiple", self.width_multiple, 0.1, 4.0)
        check_range("head_multiple", self.head_multiple, 0.01, 4.0)
        check_choices("skeletons", self.skeletons, tuple(TABLES))
        check_choices("conventions", self.conventions, CONVENTIONS)
        check_resolutions(self.resolutions)
        check_choices("stem_stride", (self.stem_stride,), (1, 2))

    @property
    def name(self) -> str:
        """The space's name, `mobilenetv3`."""
        return "mobilenetv3"

    @cached_property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """Parameters of the whole network, of stages 1 to 6, and of each of up to four layers in stages 2 to 6."""
        parameters: dict[str, BaseDistribution] = {
            "resolution": CategoricalDistribution(self.resolutions),
            "skeleton": CategoricalDistribution(self.skeletons),
            "convention": CategoricalDistribution(self.conventions),
            "activation": CategoricalDistribution(("hard_swish", "relu")),  # of stem and head
            "stage1.squeeze": CategoricalDistribution((False, True)),
            "stage1.activation": CategoricalDistribution(("relu", "hard_swish")),
        }
        for stage in range(2, 7):
            prefix = f"stage{stage}"
            parameters[f"{prefix}.depth"] = IntDistribution(1, MAX_DEPTH)
            parameters[f"{prefix}.width"] = CategoricalDistribution(WIDTHS)
            parameters[f"{prefix}.squeeze"] = CategoricalDistribution((False, True))
            parameters[f"{prefix}.activation"] = CategoricalDistribution(("relu", "hard_swish"))
            for layer in range(1, MAX_DEPTH + 1):
                parameters[f"{prefix}.layer{layer}.kernel"] = CategoricalDistribution((3, 5, 7))
                parameters[f"{prefix}.layer{layer}.expansion"] = CategoricalDistribution(EXPANSIONS)
        return parameters

    @cached_property
    def references(self) -> Mapping[str, Params]:
        """MobileNetV3-Large and -Small and their minimalistic variants, if the space has their skeleton and convention."""
        published = MobileNetV3Space()
        points = {name: published.encode(reference(name)) | {"resolution": self.resolutions[0]} for name in REFERENCES}
        return {
            name: point
            for name, point in points.items()
            if point["skeleton"] in self.skeletons and point["convention"] in self.conventions
        }

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network with these choices; layers beyond a stage's depth are ignored."""
        skeleton, activation = params["skeleton"], params["activation"]
        table = TABLES[skeleton]
        stem = Stem(width=round_width(16 * self.width_multiple), stride=self.stem_stride)
        squeeze = "hidden" if params["stage1.squeeze"] else "none"
        first = table[0][0]._replace(squeeze=squeeze, activation=params["stage1.activation"])
        middle = (self._layers(params, stage, rows[0]) for stage, rows in enumerate(table[1:-1], start=2))
        last = table[-1][0]._replace(activation=activation)
        return Architecture(
            resolution=params["resolution"],
            convention=params["convention"],
            activation=activation,
            stem=stem,
            stages=make_stages(stem.width, ((first,), *middle, (last,)), self.width_multiple),
            head=Head(kind="mobilenetv3", width=round_width(HEAD_WIDTHS[skeleton] * self.head_multiple)),
        )

    def _layers(self, params: Mapping[str, Any], stage: int, skeleton: Row) -> tuple[Row, ...]:
        """The rows of a stage, one per layer."""
        prefix = f"stage{stage}"
        width = skeleton.width * params[f"{prefix}.width"]
        squeeze, activation = "hidden" if params[f"{prefix}.squeeze"] else "none", params[f"{prefix}.activation"]
        rows = []
        for layer in range(1, params[f"{prefix}.depth"] + 1):
            kernel, expansion = params[f"{prefix}.layer{layer}.kernel"], params[f"{prefix}.layer{layer}.expansion"]
            stride = skeleton.stride if layer == 1 else 1
            rows.append(Row(width, 1, "mbconv", kernel, stride, expansion, squeeze, activation))
        return tuple(rows)

    def encode(self, architecture: Architecture) -> Params:
        """The choices that the stages' blocks show; for layers beyond a stage's depth, the first choice.

        Raises: SpaceError if they do not decode to the network.
        """
        params = first_choices(self.parameters)
        params |= {field: getattr(architecture, field) for field in ("resolution", "convention", "activation")}
        strides = [blocks[0].stride for blocks in architecture.stages]
        params["skeleton"] = next((s for s, table in TABLES.items() if [rows[0].stride for rows in table] == strides), None)
        width_in, table = architecture.stem.width, TABLES.get(params["skeleton"], ())
        for stage, (blocks, rows) in enumerate(zip(architecture.stages[:-1], table, strict=False), start=1):
            choices = self._choices(stage, blocks, rows[0], width_in)
            params |= {f"stage{stage}.{field}": value for field, value in choices.items()}
            width_in = blocks[-1].width
        return check_encoding(self, architecture, params)

    def _choices(self, stage: int, blocks: tuple[Block, ...], skeleton: Row, width_in: int) -> Params:
        """The choices of a stage that can be read off its blocks."""
        choices: Params = {"squeeze": bool(blocks[0].squeeze), "activation": blocks[0].activation}
        if stage == 1:
            return choices
        choices["depth"] = len(blocks)
        choices["width"] = {round_width(skeleton.width * m * self.width_multiple): m for m in WIDTHS}.get(blocks[0].width)
        for layer, block in enumerate(blocks, start=1):
            choices[f"layer{layer}.kernel"] = block.kernel
            choices[f"layer{layer}.expansion"] = {round_width(width_in * e): e for e in EXPANSIONS}.get(block.hidden)
            width_in = block.width
        return choices


SPACE: Final = MobileNetV3Space()
