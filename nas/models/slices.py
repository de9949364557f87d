"""The shape of every parameter of a network, and the slicing rule: how a smaller network's weights lie in larger tensors."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

from nas.models.architecture import Architecture
from nas.models.layers import Layer, Part, parts

Shape = tuple[int, ...]
T = TypeVar("T")


def slices(whole: Shape, part: Shape) -> tuple[slice, ...]:
    """Where a tensor of the shape `part` lies in one of the shape `whole`: its first channels, and the middle of its kernel.

    The axes are output channels, input channels, and the two axes of the kernel.
    """
    starts = ((large - small) // 2 if axis > 1 else 0 for axis, (large, small) in enumerate(zip(whole, part, strict=True)))
    return tuple(slice(start, start + small) for start, small in zip(starts, part, strict=True))


def parts_by_path(architecture: Architecture, num_classes: int) -> Iterator[tuple[str, Part]]:
    """The stem, the blocks and the head, each with the path of its modules in timm's network: `blocks.0.1.`, else empty.

    The parts have no sides, so that networks at different resolutions have equal ones.
    """
    blocks = [f"blocks.{i}.{j}." for i, stage in enumerate(architecture.stages) for j in range(len(stage))]
    for path, part in zip(["", *blocks, ""], parts(architecture, num_classes), strict=True):
        yield path, part._replace(size=1, size_out=1)


@lru_cache(maxsize=100_000)
def parameter_shapes(part: Part) -> tuple[tuple[str, Shape], ...]:
    """(name, shape) of every parameter of a part; names are relative to the part."""
    return tuple(pair for layer in part.layers() for pair in _layer_shapes(layer))


def _layer_shapes(layer: Layer) -> Iterator[tuple[str, Shape]]:
    module, width = layer.module, layer.width
    match layer.kind:
        case "conv" | "depthwise":
            yield f"{module}.weight", (width, layer.width_in if layer.kind == "conv" else 1, layer.kernel, layer.kernel)
            if not layer.norm:
                yield f"{module}.bias", (width,)
        case "squeeze":
            for name, out, into in (("conv_reduce", layer.squeeze, width), ("conv_expand", width, layer.squeeze)):
                yield f"{module}.{name}.weight", (out, into, 1, 1)
                yield f"{module}.{name}.bias", (out,)
        case "linear":
            yield f"{module}.weight", (width, layer.width_in)
            yield f"{module}.bias", (width,)
    if layer.norm:
        yield f"{layer.norm}.weight", (width,)
        yield f"{layer.norm}.bias", (width,)
