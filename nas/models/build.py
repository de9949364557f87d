"""Builds an Architecture as a torch module from timm's own blocks."""

import json
from typing import Any

from timm.models import is_model, register_model
from torch import nn

from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.standalone import build as build_plain
from nas.models.standalone import feature_maps
from nas.models.standalone import frontier_nas as build_for_timm


def build(
    architecture: Architecture,
    num_classes: int = 1000,
    *,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
) -> nn.Module:
    """timm's EfficientNet or MobileNetV3 class with exactly these blocks, newly initialised and in training mode.

    It has timm's `forward_features`, `forward_intermediates`, `forward_head`, `reset_classifier` and `feature_info`. With
    `features_only` its output is a list of feature maps, one per reduction, as from `timm.create_model(..., features_only=True)`.
    `drop_rate` is the rate of dropout before the classifier. `drop_path_rate` is that of stochastic depth: of n blocks,
    timm drops block i, counted from 0, with probability drop_path_rate * i / n.

    Shapes: (N, 3, resolution, resolution) → (N, num_classes); images of other sizes work too.
    Raises: NasError for a negative number of classes, or a rate that is not from 0 to less than 1.
    """
    if num_classes < 0:
        raise NasError(f"num_classes: {num_classes} is not 0 or more")
    for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not 0 <= rate < 1:
            raise NasError(f"{name}: {rate} is not from 0 to less than 1")
    register_with_timm()
    values = json.loads(architecture.to_json())
    model = build_plain(values, num_classes, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
    return feature_maps(model) if features_only else model


def register_with_timm() -> None:
    """Register our networks with timm, so that `timm.create_model("local-dir:FOLDER")` loads an export.

    `build` and `nas.load` call it too.
    """
    if not is_model("frontier_nas"):
        register_model(frontier_nas)


def frontier_nas(pretrained: bool = False, *, architecture: dict[str, Any], **options: Any) -> nn.Module:  # noqa: FBT001, FBT002
    """timm's entry point for an export's `config.json`; `options` are those of timm's own models.

    Raises: ArchitectureError for values that are not a valid architecture.
    """
    Architecture.from_json(json.dumps(architecture))
    return build_for_timm(pretrained, architecture=architecture, **options)
