"""An architecture as its list of layers, each with its shape, its costs and its modules in timm's network.

Exact costs (`cost.py`), latency tables and ONNX graphs (`onnx.py`) are all computed from this list.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from nas.models.architecture import Architecture, Block, Convolution, Head, Stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer, with the norm and the activation after it."""

    kind: str
    """conv, depthwise, squeeze (squeeze-and-excite), add (the sum of a skip), pool (global average) or linear."""
    width_in: int
    """Input channels."""
    width: int
    """Output channels."""
    size: int
    """Side of the input map, pixels."""
    size_out: int
    """Side of the output map, pixels."""
    kernel: int = 1
    stride: int = 1
    activation: str | None = None
    squeeze: int = 0
    """Channels inside squeeze-and-excite."""
    gate: str | None = None
    """Gate of squeeze-and-excite."""
    same_padding: bool = False
    """True for a strided convolution with TensorFlow's padding, which some runtimes compute as a separate step."""
    weights: int = 0
    """Number of weights."""
    biases: int = 0
    """Number of biases; with a norm, the number of its scales and shifts instead."""
    skip_values: int = 0
    """Number of values of the block's input, if a skip keeps it in memory while this layer reads another map; else 0."""
    module: str = ""
    """Path in timm's network of its module, without the norm; empty for `add`, which has none."""
    norm: str = ""
    """Path in timm's network of the norm after it; empty for none."""

    @property
    def key(self) -> str:
        """Its key in a latency table, with all that its latency depends on: `conv1 96>24 @56`, `depthwise5/2 72 relu @56`."""
        name = self.kind + (str(self.kernel) if self.kind in ("conv", "depthwise") else "")
        name += f"/{self.stride}" * (self.stride > 1) + " same" * self.same_padding
        widths = f"{self.width}" if self.width_in == self.width and self.kind != "conv" else f"{self.width_in}>{self.width}"
        inside = f" {self.squeeze} {self.gate}" if self.squeeze else ""
        return f"{name} {widths}{inside}{f' {self.activation}' if self.activation else ''} @{self.size}"

    @property
    def padding(self) -> tuple[int, int]:
        """Padding (before, after) the map on each axis, pixels; TensorFlow puts an odd pixel after the map."""
        if not self.same_padding:
            return self.kernel // 2, self.kernel // 2
        total = max((self.size_out - 1) * self.stride + self.kernel - self.size, 0)
        return total // 2, total - total // 2

    @property
    def params(self) -> int:
        """Number of parameters, with those of the norm."""
        return self.weights + self.biases

    @property
    def macs(self) -> int:
        """Multiply-adds for one image; squeeze-and-excite computes on the pooled map, one pixel."""
        return self.weights * (1 if self.kind == "squeeze" else self.size_out**2)

    @property
    def live_values(self) -> int:
        """Number of values in memory while it runs; sums and gates work in place."""
        inputs = self.width_in * self.size**2 + self.skip_values
        if self.kind == "squeeze":  # the map stays in memory beside a small layer of the gate: its input and output
            return inputs + self.width + self.squeeze
        return inputs if self.kind == "add" else inputs + self.width * self.size_out**2


class Part(NamedTuple):
    """The stem, a block or the head, with everything that its layers depend on; equal parts have equal layers."""

    value: Stem | Block | Head
    width: int
    """Input channels."""
    size: int = 1
    """Side of the input map, pixels."""
    size_out: int = 1
    """Side of the output map, pixels."""
    tensorflow: bool = False
    """True for TensorFlow's padding of strided convolutions."""
    activation: str = ""
    """Activation of the stem or the head; a block has its own."""
    num_classes: int = 0
    """Outputs of the head; 0 leaves the classifier out."""

    def layers(self) -> list[Layer]:
        """Its layers in order; module paths are relative to the part."""
        match self.value:
            case Stem(width=width, stride=stride):
                conv = Convolution("conv", "conv_stem", self.width, width, self.activation, 3, stride)
                return [self._convolution(conv, self.size, norm="bn1")]
            case Block():
                return self._block_layers(self.value)
            case Head():
                return self._head_layers(self.value)

    def _block_layers(self, block: Block) -> list[Layer]:
        layers: list[Layer] = []
        size, skip_values = self.size, 0
        *_, last = convolutions = block.convolutions(self.width)
        for number, conv in enumerate(convolutions, start=1):
            if block.squeeze and conv is last:
                layers.append(_squeeze(block, conv.width_in, size, skip_values))
            norm = conv.module.replace(".conv", ".bn") if block.op == "uib" else f"bn{number}"
            layers.append(self._convolution(conv, size, skip_values, norm=norm))
            size, skip_values = layers[-1].size_out, self.width * self.size**2 * block.skip
        if block.skip:
            layers.append(
                Layer(kind="add", width_in=self.width, width=self.width, size=size, size_out=size, skip_values=skip_values)
            )
        return layers

    def _head_layers(self, head: Head) -> list[Layer]:
        features, num, pool_first = head.width or self.width, self.num_classes, head.kind != "efficientnet"
        pooled = self.width if pool_first else features
        layers = [Layer(kind="pool", width_in=pooled, width=pooled, size=self.size, size_out=1, module="global_pool")]
        if head.width:
            conv = Convolution("conv", "conv_head", self.width, features, self.activation)
            norm = {"efficientnet": "bn2", "mobilenetv3": "", "mobilenetv4": "norm_head"}[head.kind]
            layers.insert(pool_first, self._convolution(conv, 1 if pool_first else self.size, norm=norm))
        if num:
            linear = Layer(kind="linear", width_in=features, width=num, size=1, size_out=1, module="classifier")
            layers.append(replace(linear, weights=features * num, biases=num))
        return layers

    def _convolution(self, conv: Convolution, size: int, skip_values: int = 0, *, norm: str = "") -> Layer:
        strided = conv.stride > 1
        return Layer(
            **conv._asdict(),
            size=size,
            size_out=self.size_out if strided else size,
            same_padding=self.tensorflow and strided,
            weights=conv.weights,
            biases=conv.width * (2 if norm else 1),
            skip_values=skip_values,
            norm=norm,
        )


def _squeeze(block: Block, width: int, size: int, skip_values: int) -> Layer:
    return Layer(
        kind="squeeze",
        width_in=width,
        width=width,
        size=size,
        size_out=size,
        activation="relu" if block.gate == "hard_sigmoid" else block.activation,
        squeeze=block.squeeze,
        gate=block.gate,
        weights=2 * width * block.squeeze,
        biases=width + block.squeeze,
        skip_values=skip_values,
        module="se",
    )


def parts(architecture: Architecture, num_classes: int) -> list[Part]:
    """The stem, the blocks and the head of a network, in order."""
    tensorflow, activation = architecture.convention == "tensorflow", architecture.activation
    stem, *blocks, head = (Part(*shape, tensorflow) for shape in architecture.walk())
    return [stem._replace(activation=activation), *blocks, head._replace(activation=activation, num_classes=num_classes)]


def layers_by_part(architecture: Architecture, num_classes: int) -> Iterator[list[Layer]]:
    """The layers of the stem, of each block and of the head, in order of computation; module paths start at the network."""
    blocks = [f"blocks.{i}.{j}." for i, stage in enumerate(architecture.stages) for j in range(len(stage))]
    for part, prefix in zip(parts(architecture, num_classes), ["", *blocks, ""], strict=True):
        yield [
            replace(layer, module=layer.module and prefix + layer.module, norm=layer.norm and prefix + layer.norm)
            for layer in part.layers()
        ]


def layers(architecture: Architecture, num_classes: int) -> list[Layer]:
    """The layers of a network, in order of computation."""
    return [layer for part in layers_by_part(architecture, num_classes) for layer in part]


@lru_cache(maxsize=100_000)
def layer_keys(part: Part) -> tuple[str, ...]:
    """The latency-table keys of a part's layers."""
    return tuple(layer.key for layer in part.layers())
