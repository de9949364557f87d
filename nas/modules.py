"""An Architecture as a torch module, made of timm's own blocks; the only file that touches timm's private modules.

Read `spaces.py` next for where architectures come from.
"""

from functools import partial
from typing import Any, Final

from timm.layers import get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._features import FeatureGetterNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from nas.architecture import Architecture, Block
from nas.errors import NasError

_EPSILON: Final = {"torch": 1e-5, "tensorflow": 1e-3}
_PADDING: Final = {"torch": "", "tensorflow": "same"}
_TIMM_OPS: Final = {"conv": "cn", "sep": "ds", "mbconv": "ir", "fused": "er"}


def build(
    architecture: Architecture,
    num_classes: int = 1000,
    *,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
) -> nn.Module:
    """timm's EfficientNet or MobileNetV3 with exactly these blocks, newly initialised, in training mode.

    It has `forward_features`, `forward_intermediates`, `forward_head`, `reset_classifier` and `feature_info`; with
    `features_only` it gives the list of feature maps, one a reduction, as `timm.create_model(..., features_only=True)` does.
    `drop_rate` is dropout before the classifier, `drop_path_rate` stochastic depth of the last block, growing to it linearly.

    Shapes: (N, 3, resolution, resolution) → (N, num_classes); other sizes work too.
    Raises: NasError for a negative number of classes, or a rate that is no share.
    """
    if num_classes < 0:
        raise NasError(f"num_classes: {num_classes} is not 0 or more")
    for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not 0 <= rate < 1:
            raise NasError(f"{name}: {rate} is not from 0 to less than 1")
    network = EfficientNet if architecture.head.kind == "efficientnet" else MobileNetV3
    module: Any = network(
        block_args=_block_arguments(architecture),
        num_classes=num_classes,
        num_features=architecture.head.width,
        stem_size=architecture.stem.width,
        fix_stem=True,
        round_chs_fn=_unchanged,
        pad_type=_PADDING[architecture.convention],
        act_layer=get_act_layer(architecture.activation),
        norm_layer=partial(nn.BatchNorm2d, eps=_EPSILON[architecture.convention]),
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    if architecture.stem.stride == 1:  # timm's classes fix it at 2
        module.conv_stem.stride = (1, 1)
        for info in module.feature_info:
            info["reduction"] //= 2
    if features_only:
        module = FeatureGetterNet(module, out_indices=tuple(range(len(module.feature_info))))
    built: nn.Module = module
    return built


def _unchanged(width: int) -> int:
    return width


def _block_arguments(architecture: Architecture) -> list[list[dict[str, Any]]]:
    widths_in = iter([width for _, width, _ in architecture.walk()])
    return [[_arguments(block, next(widths_in)) for block in stage] for stage in architecture.stages]


def _arguments(block: Block, width_in: int) -> dict[str, Any]:
    """A block in the terms of timm's EfficientNetBuilder."""
    arguments: dict[str, Any] = {
        "block_type": _TIMM_OPS[block.op],
        "out_chs": block.width,
        "stride": block.stride,
        "act_layer": get_act_layer(block.activation),
    }
    if block.op == "conv":
        return arguments | {"kernel_size": block.kernel, "skip": block.skip}
    arguments["noskip"] = not block.skip
    if block.squeeze:
        inside = nn.ReLU if block.gate == "hard_sigmoid" else None
        arguments["se_layer"] = partial(SqueezeExcite, rd_channels=block.squeeze, gate_layer=block.gate, force_act_layer=inside)
    if block.op == "sep":
        return arguments | {"dw_kernel_size": block.kernel, "pw_act": not block.linear}
    arguments["exp_ratio"] = block.hidden / width_in  # timm multiplies back and rounds to 8, which gives `hidden` again
    return arguments | {"exp_kernel_size" if block.op == "fused" else "dw_kernel_size": block.kernel}
