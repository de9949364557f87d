"""Builds a network from its JSON values with timm and torch alone. Each export has a copy of this file, `model.py`.

In an export, `network()` builds its network, newly initialised, and `load()` adds the weights. Importing the copy registers the
model "frontier_nas" with timm. This is the only file that imports timm's private modules.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from timm.layers import get_act_layer
from timm.models import build_model_with_cfg, create_model, is_model, load_checkpoint, register_model
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._features import FeatureGetterNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn


def build(architecture: dict[str, Any], num_classes: int = 1000, **options: Any) -> nn.Module:
    """timm's EfficientNet or MobileNetV3 class with exactly the blocks of an `architecture.json`, newly initialised.

    `options` are those of timm's classes, such as drop_rate, drop_path_rate and in_chans.
    Shapes: (N, 3, resolution, resolution) → (N, num_classes); images of other sizes work too.
    """
    tensorflow, head = architecture["convention"] == "tensorflow", architecture["head"]
    network = EfficientNet if head["kind"] == "efficientnet" else MobileNetV3
    if head["kind"] == "mobilenetv4":
        options["head_norm"] = True
    width = architecture["stem"]["width"]
    stages: list[list[dict[str, Any]]] = []
    for stage in architecture["stages"]:
        stages.append([])
        for block in stage:
            stages[-1].append(_arguments(block, width))
            width = block["width"]
    module: Any = network(
        block_args=stages,
        num_classes=num_classes,
        num_features=head["width"],
        stem_size=architecture["stem"]["width"],
        fix_stem=True,
        round_chs_fn=_unchanged,
        pad_type="same" if tensorflow else "",
        act_layer=get_act_layer(architecture["activation"]),
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3 if tensorflow else 1e-5),
        **options,
    )
    if architecture["stem"]["stride"] == 1:  # timm's classes always make it 2
        module.conv_stem.stride = (1, 1)
        for info in module.feature_info:
            info["reduction"] //= 2
    built: nn.Module = module
    return built


def frontier_nas(pretrained: bool = False, *, architecture: dict[str, Any], **options: Any) -> nn.Module:  # noqa: FBT001, FBT002
    """timm's entry point for an export's `config.json`; `options` are those of timm's own models."""
    maps = 1 + sum(stage[0]["stride"] == 2 for stage in architecture["stages"])
    module: nn.Module = build_model_with_cfg(
        partial(build, architecture),
        "frontier_nas",
        pretrained,
        feature_cfg={"feature_cls": "getter", "out_indices": tuple(range(maps))},
        **options,
    )
    return module


def feature_maps(model: nn.Module) -> nn.Module:
    """A timm network without its head. It returns a list of feature maps, one per reduction."""
    indices = tuple(range(len(model.feature_info)))  # type: ignore[arg-type]  # every module of timm's has it
    maps: nn.Module = FeatureGetterNet(model, out_indices=indices)
    return maps


def network(folder: str | Path = Path(__file__).parent, **options: Any) -> nn.Module:
    """The network of an export's folder, newly initialised; `options` are those of timm.create_model, such as num_classes."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    arguments = {"num_classes": config["num_classes"], **config.get("model_args", {}), **options}
    module: nn.Module = create_model(config["architecture"], **arguments)
    return module


def load(folder: str | Path = Path(__file__).parent) -> nn.Module:
    """The network of an export's folder with its weights, in eval mode."""
    module = network(folder)
    load_checkpoint(module, str(Path(folder, "model.safetensors")))
    return module.eval()


def _unchanged(width: int) -> int:
    return width


def _arguments(block: dict[str, Any], width_in: int) -> dict[str, Any]:
    """A block as arguments for timm's EfficientNetBuilder."""
    arguments: dict[str, Any] = {
        "block_type": {"conv": "cn", "sep": "ds", "mbconv": "ir", "uib": "uir", "fused": "er"}[block["op"]],
        "out_chs": block["width"],
        "stride": block["stride"],
        "act_layer": get_act_layer(block["activation"]),
    }
    if block["op"] == "conv":
        return arguments | {"kernel_size": block["kernel"], "skip": block["skip"]}
    arguments["noskip"] = not block["skip"]
    if block["squeeze"]:
        inside = nn.ReLU if block["gate"] == "hard_sigmoid" else None
        arguments["se_layer"] = partial(
            SqueezeExcite, rd_channels=block["squeeze"], gate_layer=block["gate"], force_act_layer=inside
        )
    if block["op"] == "sep":
        return arguments | {"dw_kernel_size": block["kernel"], "pw_act": not block["linear"]}
    arguments["exp_ratio"] = block["hidden"] / width_in  # timm multiplies by `width_in` and rounds, which gives `hidden` again
    if block["op"] == "uib":
        return arguments | {"dw_kernel_size_start": block.get("start_kernel", 0), "dw_kernel_size_mid": block["kernel"]}
    return arguments | {"exp_kernel_size" if block["op"] == "fused" else "dw_kernel_size": block["kernel"]}


if __name__ != "nas.models.standalone" and not is_model("frontier_nas"):  # a copy; in `nas`, register_with_timm() does it
    register_model(frontier_nas)
