"""The shared weights as a torch module: whole tensors, and in each step one network that computes with slices of them.

The networks are timm's own modules. Their blocks are built once for each position and kind, and take their weights from
`torch.func.functional_call`, so a step builds nothing. Read next: `training.py`, `scoring.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.errors import NasError
from nas.models.architecture import Architecture, Block, Head, Stem
from nas.models.build import build
from nas.models.layers import Part
from nas.models.slices import Shape, parameter_shapes, parts_by_path, slices

SMALL: Final = 8  # channels of the modules that are built; their own weights are never used


def shared_path(path: str, part: Part) -> str:
    """The path of a part among the whole tensors: a block's has its operation, as different ones share nothing."""
    return f"{path}{part.value.op}." if isinstance(part.value, Block) else ""


def shared_shapes(architecture: Architecture, num_classes: int) -> dict[str, Shape]:
    """Name among the whole tensors → the shape that the network needs of it."""
    return {
        shared_path(path, part) + name: shape
        for path, part in parts_by_path(architecture, num_classes)
        for name, shape in parameter_shapes(part)
    }


class SharedNetwork(nn.Module):
    """Whole tensors for all networks of a space.

    In training mode it computes as the network that `become` has set last, in eval mode as `validated`, which stays the same.
    In both, BatchNorm normalises by the statistics of the batch. `scoring.py` makes networks of their own.

    Shapes: (N, 3, side, side) → (N, num_classes), for images of any size.
    """

    def __init__(self, shapes: Mapping[str, Shape], num_classes: int, validated: Architecture | None = None) -> None:
        """New tensors of these shapes, drawn from torch's global generator."""
        super().__init__()
        self.num_classes = num_classes
        self.validated = self.architecture = validated
        for name, shape in shapes.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for step in path:
                if step not in module._modules:  # noqa: SLF001 - get_submodule would raise
                    module.add_module(step, nn.Module())
                module = module.get_submodule(step)
            module.register_parameter(last, nn.Parameter(new_tensor(name, shape)))
        self._whole = dict(self.named_parameters())
        self._modules_by_kind: dict[tuple[Architecture, tuple[int, ...]], nn.Module] = {}  # none is a submodule of this one

    def become(self, architecture: Architecture) -> None:
        """Compute as this network in training mode from now on.

        Raises: NasError for a network that does not fit into the whole tensors.
        """
        for name, shape in shared_shapes(architecture, self.num_classes).items():
            whole = self._whole.get(name)
            if whole is None or any(side > have for side, have in zip(shape, whole.shape, strict=True)):
                raise NasError(f"architecture {architecture.id} does not fit into the shared weights: {name} must be {shape}")
        self.architecture = architecture

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the current network."""
        architecture = self.architecture if self.training else self.validated
        assert architecture is not None, "become() sets the network"
        logits: Tensor = functional_call(self._assembled(architecture), self.slices_of(architecture), (x,), tie_weights=False)
        return logits

    def slices_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """Name in timm's network → its slice of a whole tensor, through which gradients flow."""
        return {
            path + name: (whole := self._whole[shared_path(path, part) + name])[slices(whole.shape, shape)]
            for path, part in parts_by_path(architecture, self.num_classes)
            for name, shape in parameter_shapes(part)
        }

    def _assembled(self, architecture: Architecture) -> nn.Module:
        """timm's module of a network, made of modules that were built before; without weights of its own."""
        network: Any = self._shell(architecture)
        width, stages = architecture.stem.width, []
        for i, stage in enumerate(architecture.stages):
            stages.append(nn.Sequential())
            for j, block in enumerate(stage):
                module: Any = self._block(architecture.convention, i, j, block)
                for conv in block.convolutions(width):
                    if conv.kind == "depthwise":
                        module.get_submodule(conv.module).groups = conv.width
                stages[-1].append(module)
                width = block.width
        network.blocks = nn.Sequential(*stages)
        assembled: nn.Module = network.train(self.training)
        return assembled

    def _shell(self, architecture: Architecture) -> nn.Module:
        """The network without its blocks."""
        head = replace(architecture.head, width=SMALL if architecture.head.width else 0)
        stem = replace(architecture.stem, width=SMALL)
        return self._built(replace(architecture, resolution=32, stem=stem, stages=((_SMALL_BLOCK,),), head=head))

    def _block(self, convention: str, i: int, j: int, block: Block) -> nn.Module:
        """The module of block `j` in stage `i`."""
        small = replace(block, width=SMALL, hidden=SMALL if block.hidden else 0, squeeze=SMALL if block.squeeze else 0)
        head = Head(kind="mobilenetv4", width=SMALL) if block.op == "uib" else _SMALL.head  # with which any block may be built
        architecture = replace(_SMALL, convention=convention, stages=((small,),), head=head)
        network: Any = self._built(architecture, (i, j))
        module: nn.Module = network.blocks[0][0]
        return module

    def _built(self, architecture: Architecture, position: tuple[int, ...] = ()) -> nn.Module:
        """A small network whose modules the large ones are made of, built once for each position."""
        key = (architecture, position)
        if key not in self._modules_by_kind:
            module = build(architecture, SMALL)
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d):  # without running statistics it uses those of the batch
                    norm.track_running_stats = False
                    norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            self._modules_by_kind[key] = module
        return self._modules_by_kind[key]


def new_tensor(name: str, shape: Shape) -> Tensor:
    """A newly initialised whole tensor.

    Source: timm's initialisation of EfficientNet and MobileNetV3, from tensorflow/tpu models/official/mnasnet.
    """
    if len(shape) == 1:  # of a norm: scales; else biases, and shifts
        is_scale = name.endswith("weight")
        return torch.ones(shape) if is_scale else torch.zeros(shape)
    if len(shape) == 2:  # the classifier
        return nn.init.uniform_(torch.empty(shape), -1 / math.sqrt(shape[0]), 1 / math.sqrt(shape[0]))
    out, into, *kernel = shape
    groups = out if into == 1 else 1
    return nn.init.normal_(torch.empty(shape), 0.0, math.sqrt(2.0 * groups / (math.prod(kernel) * out)))


_SMALL_BLOCK: Final = Block(
    op="conv", kernel=1, stride=1, width=SMALL, hidden=0, squeeze=0, gate=None, activation="relu", linear=False, skip=False
)
_SMALL: Final = Architecture(
    resolution=32,
    convention="torch",
    activation="relu",
    stem=Stem(width=SMALL, stride=1),
    stages=((_SMALL_BLOCK,),),
    head=Head(kind="efficientnet", width=0),
)
