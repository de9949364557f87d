"""The reference networks: published networks of the mobile family as Architectures, under timm's model names.

Each table is the paper's, row by row. Tests compare every network's parameters, multiply-adds and logits with timm's.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from nas.errors import unknown_name
from nas.models.architecture import Architecture, Head, Stem, round_width
from nas.models.stages import Row, make_stages

Table = tuple[tuple[Row, ...], ...]

# MobileNetV1, arXiv:1704.04861, table 1.
MOBILENETV1: Final[Table] = tuple(
    (Row(width, repeats, "sep", stride=stride, activation="relu6", skip=False, linear=False),)
    for width, repeats, stride in ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
)

# MobileNetV2, arXiv:1801.04381, table 2.
MOBILENETV2: Final[Table] = (
    (Row(16, op="sep", activation="relu6"),),
    (Row(24, 2, stride=2, activation="relu6"),),
    (Row(32, 3, stride=2, activation="relu6"),),
    (Row(64, 4, stride=2, activation="relu6"),),
    (Row(96, 3, activation="relu6"),),
    (Row(160, 3, stride=2, activation="relu6"),),
    (Row(320, activation="relu6"),),
)

# MnasNet, arXiv:1807.11626, figure 7 (A1) and tensorflow/tpu models/official/mnasnet/mnasnet_models.py (B1, small).
MNASNET_A1: Final[Table] = (
    (Row(16, op="sep", skip=False),),
    (Row(24, 2, stride=2),),
    (Row(40, 3, kernel=5, stride=2, expansion=3, squeeze="input"),),
    (Row(80, 4, stride=2),),
    (Row(112, 2, squeeze="input"),),
    (Row(160, 3, kernel=5, stride=2, squeeze="input"),),
    (Row(320),),
)
MNASNET_B1: Final[Table] = (
    (Row(16, op="sep", skip=False),),
    (Row(24, 3, stride=2, expansion=3),),
    (Row(40, 3, kernel=5, stride=2, expansion=3),),
    (Row(80, 3, kernel=5, stride=2),),
    (Row(96, 2),),
    (Row(192, 4, kernel=5, stride=2),),
    (Row(320, skip=False),),
)
MNASNET_SMALL: Final[Table] = (
    (Row(8, op="sep"),),
    (Row(16, stride=2, expansion=3),),
    (Row(16, 2, stride=2),),
    (Row(32, 4, kernel=5, stride=2, squeeze="input"),),
    (Row(32, 3, squeeze="input"),),
    (Row(88, 3, kernel=5, stride=2, squeeze="input"),),
    (Row(144),),
)

# MobileNetV3, arXiv:1905.02244, tables 1 and 2; expansions as in tensorflow/models slim mobilenet_v3.py.
_HS = "hard_swish"
MOBILENETV3_LARGE: Final[Table] = (
    (Row(16, op="sep"),),
    (Row(24, stride=2, expansion=4), Row(24, expansion=3)),
    (Row(40, 3, kernel=5, stride=2, expansion=3, squeeze="hidden"),),
    (
        Row(80, stride=2, activation=_HS),
        Row(80, expansion=2.5, activation=_HS),
        Row(80, 2, expansion=2.3, activation=_HS),
    ),
    (Row(112, 2, squeeze="hidden", activation=_HS),),
    (Row(160, 3, kernel=5, stride=2, squeeze="hidden", activation=_HS),),
    (Row(960, op="conv", kernel=1, activation=_HS, skip=False),),
)
MOBILENETV3_SMALL: Final[Table] = (
    (Row(16, op="sep", stride=2, squeeze="hidden"),),
    (Row(24, stride=2, expansion=4.5), Row(24, expansion=3.67)),
    (
        Row(40, kernel=5, stride=2, expansion=4, squeeze="hidden", activation=_HS),
        Row(40, 2, kernel=5, squeeze="hidden", activation=_HS),
    ),
    (Row(48, 2, kernel=5, expansion=3, squeeze="hidden", activation=_HS),),
    (Row(96, 3, kernel=5, stride=2, squeeze="hidden", activation=_HS),),
    (Row(576, op="conv", kernel=1, activation=_HS, skip=False),),
)

# EfficientNet, arXiv:1905.11946, table 1, and its coefficients (width, depth, resolution) from tensorflow/tpu
# models/official/efficientnet/efficientnet_builder.py and lite/efficientnet_lite_builder.py.
EFFICIENTNET: Final[Table] = (
    (Row(16, op="sep", squeeze="input", activation="silu"),),
    (Row(24, 2, stride=2, squeeze="input", activation="silu"),),
    (Row(40, 2, kernel=5, stride=2, squeeze="input", activation="silu"),),
    (Row(80, 3, stride=2, squeeze="input", activation="silu"),),
    (Row(112, 3, kernel=5, squeeze="input", activation="silu"),),
    (Row(192, 4, kernel=5, stride=2, squeeze="input", activation="silu"),),
    (Row(320, squeeze="input", activation="silu"),),
)
EFFICIENTNET_COEFFICIENTS: Final = {
    "b0": (1.0, 1.0, 224),
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
    "b5": (1.6, 2.2, 456),
    "b6": (1.8, 2.6, 528),
    "b7": (2.0, 3.1, 600),
}
EFFICIENTNET_LITE_RESOLUTIONS: Final = (224, 240, 260, 280, 300)  # lite0 to lite4; width and depth are those of b0 to b4

# EfficientNetV2, arXiv:2104.00298; google/automl efficientnetv2/effnetv2_configs.py: rows, stem width, evaluation resolution.
EFFICIENTNETV2_S: Final[Table] = (
    (Row(24, 2, "conv", activation="silu"),),
    (Row(48, 4, "fused", stride=2, expansion=4, activation="silu"),),
    (Row(64, 4, "fused", stride=2, expansion=4, activation="silu"),),
    (Row(128, 6, stride=2, expansion=4, squeeze="input", activation="silu"),),
    (Row(160, 9, squeeze="input", activation="silu"),),
    (Row(256, 15, stride=2, squeeze="input", activation="silu"),),
)
EFFICIENTNETV2_M: Final[Table] = (
    (Row(24, 3, "conv", activation="silu"),),
    (Row(48, 5, "fused", stride=2, expansion=4, activation="silu"),),
    (Row(80, 5, "fused", stride=2, expansion=4, activation="silu"),),
    (Row(160, 7, stride=2, expansion=4, squeeze="input", activation="silu"),),
    (Row(176, 14, squeeze="input", activation="silu"),),
    (Row(304, 18, stride=2, squeeze="input", activation="silu"),),
    (Row(512, 5, squeeze="input", activation="silu"),),
)
EFFICIENTNETV2_L: Final[Table] = (
    (Row(32, 4, "conv", activation="silu"),),
    (Row(64, 7, "fused", stride=2, expansion=4, activation="silu"),),
    (Row(96, 7, "fused", stride=2, expansion=4, activation="silu"),),
    (Row(192, 10, stride=2, expansion=4, squeeze="input", activation="silu"),),
    (Row(224, 19, squeeze="input", activation="silu"),),
    (Row(384, 25, stride=2, squeeze="input", activation="silu"),),
    (Row(640, 7, squeeze="input", activation="silu"),),
)
EFFICIENTNETV2: Final = {"s": (EFFICIENTNETV2_S, 24, 384), "m": (EFFICIENTNETV2_M, 24, 480), "l": (EFFICIENTNETV2_L, 32, 480)}

# FBNet-C, arXiv:1812.03443, table 2 of its supplement as timm reads it.
FBNETC: Final[Table] = (
    (Row(16, expansion=1),),
    (Row(24, stride=2), Row(24, 2, expansion=1)),
    (Row(32, kernel=5, stride=2), Row(32, kernel=5, expansion=3), Row(32, kernel=5), Row(32)),
    (Row(64, kernel=5, stride=2), Row(64, kernel=5, expansion=3), Row(64, 2, kernel=5)),
    (Row(112, 3, kernel=5), Row(112, kernel=5, expansion=3)),
    (Row(184, 4, kernel=5, stride=2),),
    (Row(352),),
)

# Single-Path NAS, arXiv:1904.02877, figure 7.
SPNASNET: Final[Table] = (
    (Row(16, op="sep", skip=False),),
    (Row(24, 3, stride=2, expansion=3),),
    (Row(40, kernel=5, stride=2), Row(40, 3, expansion=3)),
    (Row(80, kernel=5, stride=2), Row(80, 3, expansion=3)),
    (Row(96, kernel=5), Row(96, 3, kernel=5, expansion=3)),
    (Row(192, 4, kernel=5, stride=2),),
    (Row(320, skip=False),),
)


def _universal(width: int, *blocks: tuple[int, int, float]) -> tuple[Row, ...]:
    """A stage of MobileNetV4: each block's kernel before the expansion, kernel inside (0 for none), and expansion."""
    return tuple(
        Row(width, 1, "uib", kernel, stride=1 if number else 2, expansion=expansion, start_kernel=start)
        for number, (start, kernel, expansion) in enumerate(blocks)
    )


# MobileNetV4's convolutional networks, arXiv:2404.10518, appendix, and timm/models/mobilenetv3.py.
_CONV_960: Final = (Row(960, op="conv", kernel=1, skip=False),)
MOBILENETV4_SMALL: Final[Table] = (
    (Row(32, op="conv", stride=2), Row(32, op="conv", kernel=1, skip=False)),
    (Row(96, op="conv", stride=2), Row(64, op="conv", kernel=1)),
    _universal(96, (5, 5, 3), *[(0, 3, 2)] * 4, (3, 0, 4)),
    _universal(128, (3, 3, 6), (5, 5, 4), (0, 5, 4), (0, 5, 3), (0, 3, 4), (0, 3, 4)),
    _CONV_960,
)
MOBILENETV4_MEDIUM: Final[Table] = (
    (Row(48, op="fused", stride=2, expansion=4),),
    _universal(80, (3, 5, 4), (3, 3, 2)),
    _universal(160, (3, 5, 6), (3, 3, 4), (3, 3, 4), (3, 5, 4), (3, 3, 4), (3, 0, 4), (0, 0, 2), (3, 0, 4)),
    _universal(
        256, (5, 5, 6), (5, 5, 4), *[(3, 5, 4)] * 2, (0, 0, 4), (3, 0, 4), (3, 5, 2), (5, 5, 4), *[(0, 0, 4)] * 2, (5, 0, 2)
    ),
    _CONV_960,
)
MOBILENETV4_LARGE: Final[Table] = (
    (Row(48, op="fused", stride=2, expansion=4),),
    _universal(96, (3, 5, 4), (3, 3, 4)),
    _universal(192, (3, 5, 4), *[(3, 3, 4)] * 3, (3, 5, 4), *[(5, 3, 4)] * 5, (3, 0, 4)),
    _universal(512, *[(5, 5, 4)] * 4, (5, 0, 4), (5, 3, 4), *[(5, 0, 4)] * 2, (5, 3, 4), (5, 5, 4), *[(5, 0, 4)] * 3),
    _CONV_960,
)
MOBILENETV4: Final = {"small": (MOBILENETV4_SMALL, 32), "medium": (MOBILENETV4_MEDIUM, 32), "large": (MOBILENETV4_LARGE, 24)}


def _network(
    table: Table, activation: str, stem: int, head: Head, *, multiple: float = 1.0, resolution: int = 224
) -> Architecture:
    stem_width = round_width(stem * multiple)
    return Architecture(
        resolution=resolution,
        convention="torch",
        activation=activation,
        stem=Stem(width=stem_width, stride=2),
        stages=make_stages(stem_width, table, multiple),
        head=head,
    )


_HEAD_1280: Final = Head(kind="efficientnet", width=1280)


def _mobilenetv2(multiple: float) -> Architecture:
    head = Head(kind="efficientnet", width=max(1280, round_width(1280 * multiple)))
    return _network(MOBILENETV2, "relu6", 32, head, multiple=multiple)


def _mobilenetv3(table: Table, features: int, multiple: float) -> Architecture:
    return _network(table, _HS, 16, Head(kind="mobilenetv3", width=features), multiple=multiple)


def _minimalistic(table: Table, features: int) -> Architecture:
    """MobileNetV3 without 5 x 5 kernels, hard-swish or squeeze-and-excite, in TensorFlow's convention."""
    minimal = _map_rows(table, lambda row: row._replace(kernel=min(row.kernel, 3), squeeze="none", activation="relu"))
    return replace(_mobilenetv3(minimal, features, 1.0), activation="relu", convention="tensorflow")


def _map_rows(table: Table, change: Callable[[Row], Row]) -> Table:
    return tuple(tuple(map(change, rows)) for rows in table)


def _deeper(table: Table, depth: float) -> Table:
    return _map_rows(table, lambda row: row._replace(repeats=math.ceil(row.repeats * depth)))


def _efficientnet(width: float, depth: float, resolution: int) -> Architecture:
    head = Head(kind="efficientnet", width=round_width(1280 * width))
    return _network(_deeper(EFFICIENTNET, depth), "silu", 32, head, multiple=width, resolution=resolution)


def _efficientnet_lite(width: float, depth: float, resolution: int) -> Architecture:
    """EfficientNet with ReLU6 and no squeeze-and-excite; stem and head keep their width, the first and last stage their depth."""
    first, *middle, last = _map_rows(EFFICIENTNET, lambda row: row._replace(squeeze="none", activation="relu6"))
    network = _network((first,), "relu6", 32, _HEAD_1280, resolution=resolution)
    return replace(network, stages=make_stages(network.stem.width, (first, *_deeper(tuple(middle), depth), last), width))


def _mobilenetv4(table: Table, stem: int, multiple: float = 1.0, resolution: int = 224) -> Architecture:
    """MobileNetV4 with its widths multiplied, but those of stem and head."""
    head = Head(kind="mobilenetv4", width=1280)
    network = _network(table, "relu", stem, head, resolution=resolution)
    return replace(network, stages=make_stages(stem, table, multiple))


def _tensorflow(build: Callable[[], Architecture]) -> Architecture:
    return replace(build(), convention="tensorflow")


def _builders() -> dict[str, Callable[[], Architecture]]:
    builders: dict[str, Callable[[], Architecture]] = {}
    for percent in (75, 100):
        builders[f"mobilenetv3_large_{percent:03}"] = partial(_mobilenetv3, MOBILENETV3_LARGE, 1280, percent / 100)
        builders[f"mobilenetv3_small_{percent:03}"] = partial(_mobilenetv3, MOBILENETV3_SMALL, 1024, percent / 100)
    for name, coefficients in EFFICIENTNET_COEFFICIENTS.items():
        builders[f"efficientnet_{name}"] = partial(_efficientnet, *coefficients)
    for number, resolution in enumerate(EFFICIENTNET_LITE_RESOLUTIONS):
        width, depth, _ = EFFICIENTNET_COEFFICIENTS[f"b{number}"]
        builders[f"efficientnet_lite{number}"] = partial(_efficientnet_lite, width, depth, resolution)
    for name, (table, stem, resolution) in EFFICIENTNETV2.items():
        builders[f"efficientnetv2_{name}"] = partial(_network, table, "silu", stem, _HEAD_1280, resolution=resolution)
    builders |= {f"tf_{name}": partial(_tensorflow, build) for name, build in builders.items()}

    builders["tf_mobilenetv3_large_minimal_100"] = partial(_minimalistic, MOBILENETV3_LARGE, 1280)
    builders["tf_mobilenetv3_small_minimal_100"] = partial(_minimalistic, MOBILENETV3_SMALL, 1024)
    builders["mobilenetv1_100"] = partial(_network, MOBILENETV1, "relu6", 32, Head(kind="efficientnet", width=0))
    for percent in (35, 50, 75, 100, 140):
        builders[f"mobilenetv2_{percent:03}"] = partial(_mobilenetv2, percent / 100)
    for percent in (50, 75, 100, 140):
        builders[f"mnasnet_{percent:03}"] = partial(_network, MNASNET_B1, "relu", 32, _HEAD_1280, multiple=percent / 100)
        builders[f"semnasnet_{percent:03}"] = partial(_network, MNASNET_A1, "relu", 32, _HEAD_1280, multiple=percent / 100)
    builders["mnasnet_small"] = partial(_network, MNASNET_SMALL, "relu", 8, _HEAD_1280)
    builders["fbnetc_100"] = partial(_network, FBNETC, "relu", 16, Head(kind="efficientnet", width=1984))
    for percent in (35, 50):
        builders[f"mobilenetv4_conv_small_{percent:03}"] = partial(_mobilenetv4, *MOBILENETV4["small"], percent / 100)
    for size, resolution in (("small", 224), ("medium", 256), ("large", 384)):  # of timm's default weights
        builders[f"mobilenetv4_conv_{size}"] = partial(_mobilenetv4, *MOBILENETV4[size], resolution=resolution)
    builders["spnasnet_100"] = partial(_network, SPNASNET, "relu", 32, _HEAD_1280)
    return builders


_BUILDERS: Final = _builders()


def references() -> tuple[str, ...]:
    """The sorted names of all reference networks; `reference(name)` gives the network."""
    return tuple(sorted(_BUILDERS))


def reference(name: str) -> Architecture:
    """The reference network with this timm model name, at its paper's evaluation resolution.

    Raises: NasError for a name that is not in `references()`.
    """
    if name not in _BUILDERS:
        raise unknown_name("reference", name, _BUILDERS)
    return _BUILDERS[name]()
