"""A network as its layers, each with what it computes, what it costs and what timm calls it: the one place that knows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from nas.models.architecture import Architecture, Block, Convolution, Head, Stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with what is computed right behind it: its norm, folded or not, and its activation."""

    kind: str
    """conv, depthwise, squeeze (and excite), add (of what a skip kept), pool (to one pixel) or linear."""
    width_in: int
    """Channels in."""
    width: int
    """Channels out."""
    size: int
    """Side of the map that comes in, pixels."""
    size_out: int
    """Side of the map that goes out, pixels."""
    kernel: int = 1
    stride: int = 1
    activation: str | None = None
    """None for none."""
    squeeze: int = 0
    """Channels inside squeeze-and-excite."""
    gate: str | None = None
    """Of squeeze-and-excite."""
    same: bool = False
    """Whether a stride pads as TensorFlow does, which runs may have to do in a step of their own."""
    weights: int = 0
    """Learned numbers that it multiplies by."""
    biases: int = 0
    """Its other learned numbers, with those of the norm behind it."""
    kept: int = 0
    """Numbers of the map that a skip keeps meanwhile, where that is not what comes in."""
    module: str = ""
    """The path of the first of its modules in timm's network; empty for `add`, which has none."""
    norm: str = ""
    """The path of the norm behind it; empty for none."""

    @property
    def key(self) -> str:
        """What its time depends on, as a latency table has it: `conv1 96>24 @56`, `depthwise5/2 72 relu @56`."""
        name = self.kind + (str(self.kernel) if self.kind in ("conv", "depthwise") else "")
        name += f"/{self.stride}" * (self.stride > 1) + " same" * self.same
        widths = f"{self.width}" if self.width_in == self.width and self.kind != "conv" else f"{self.width_in}>{self.width}"
        inside = f" {self.squeeze} {self.gate}" if self.squeeze else ""
        return f"{name} {widths}{inside}{f' {self.activation}' if self.activation else ''} @{self.size}"

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels (before, after) the map on both axes; TensorFlow puts the odd one after it."""
        if not self.same:
            return self.kernel // 2, self.kernel // 2
        total = max((self.size_out - 1) * self.stride + self.kernel - self.size, 0)
        return total // 2, total - total // 2

    @property
    def params(self) -> int:
        """Learned numbers, those of the norm among them."""
        return self.weights + self.biases

    @property
    def macs(self) -> int:
        """Multiply-adds for one image; squeeze-and-excite multiplies at one pixel."""
        return self.weights * (1 if self.kind == "squeeze" else self.size_out**2)

    @property
    def alive(self) -> int:
        """Numbers alive while it runs; sums and gates work in place."""
        came = self.width_in * self.size**2 + self.kept
        if self.kind == "squeeze":  # the map stays, beside the layers of the gate
            return came + self.width + self.squeeze
        return came if self.kind == "add" else came + self.width * self.size_out**2


class Part(NamedTuple):
    """The stem, a block or the head, and all that its layers depend on; equal parts have equal layers."""

    value: Stem | Block | Head
    width: int
    """Channels in."""
    size: int = 1
    """Side of the map that comes in, pixels."""
    size_out: int = 1
    """Behind its stride."""
    tensorflow: bool = False
    """Whether strides pad as TensorFlow does."""
    activation: str = ""
    """Of the stem and the head; a block has its own."""
    num_classes: int = 0
    """Of the head."""

    def layers(self) -> list[Layer]:
        """Its layers in order; paths of modules are those in the block."""
        match self.value:
            case Stem(width=width, stride=stride):
                conv = Convolution("conv", "conv_stem", self.width, width, self.activation, 3, stride)
                return [self._convolution(conv, self.size, norm="bn1")]
            case Block():
                return self._block_layers(self.value)
            case Head():
                return self._head_layers(self.value)

    def _block_layers(self, block: Block) -> list[Layer]:
        found: list[Layer] = []
        area, size, kept = self.size**2, self.size, 0
        *_, last = convolutions = block.convolutions(self.width)
        for number, conv in enumerate(convolutions, start=1):
            if block.squeeze and conv is last:
                found.append(_squeeze(block, conv.width_in, size, kept))
            found.append(self._convolution(conv, size, kept, norm=f"bn{number}"))
            size, kept = found[-1].size_out, self.width * area * block.skip
        if block.skip:
            found.append(Layer(kind="add", width_in=self.width, width=self.width, size=size, size_out=size, kept=kept))
        return found

    def _head_layers(self, head: Head) -> list[Layer]:
        features, num, late = head.width or self.width, self.num_classes, head.kind == "mobilenetv3"
        pooled = self.width if late else features
        found = [Layer(kind="pool", width_in=pooled, width=pooled, size=self.size, size_out=1, module="global_pool")]
        if head.width:
            conv = Convolution("conv", "conv_head", self.width, features, self.activation)
            found.insert(late, self._convolution(conv, 1) if late else self._convolution(conv, self.size, norm="bn2"))
        if num:
            linear = Layer(kind="linear", width_in=features, width=num, size=1, size_out=1, module="classifier")
            found.append(replace(linear, weights=features * num, biases=num))
        return found

    def _convolution(self, conv: Convolution, size: int, kept: int = 0, *, norm: str = "") -> Layer:
        strided = conv.stride > 1
        return Layer(
            **conv._asdict(),
            size=size,
            size_out=self.size_out if strided else size,
            same=self.tensorflow and strided,
            weights=conv.weights,
            biases=conv.width * (2 if norm else 1),
            kept=kept,
            norm=norm,
        )


def _squeeze(block: Block, width: int, size: int, kept: int) -> Layer:
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
        kept=kept,
        module="se",
    )


def parts(architecture: Architecture, num_classes: int) -> list[Part]:
    """The stem, each block and the head of a network, in order."""
    tensorflow, activation = architecture.convention == "tensorflow", architecture.activation
    stem, *blocks, head = (Part(*shape, tensorflow) for shape in architecture.walk())
    return [stem._replace(activation=activation), *blocks, head._replace(activation=activation, num_classes=num_classes)]


def layers_by_part(architecture: Architecture, num_classes: int) -> Iterator[list[Layer]]:
    """The layers of the stem, of each block and of the head, in the order in which they are computed."""
    blocks = [f"blocks.{i}.{j}." for i, stage in enumerate(architecture.stages) for j in range(len(stage))]
    for part, place in zip(parts(architecture, num_classes), ["", *blocks, ""], strict=True):
        yield [
            replace(layer, module=layer.module and place + layer.module, norm=layer.norm and place + layer.norm)
            for layer in part.layers()
        ]


def layers(architecture: Architecture, num_classes: int) -> list[Layer]:
    """The layers of a network in the order in which they are computed."""
    return [layer for found in layers_by_part(architecture, num_classes) for layer in found]


@lru_cache(maxsize=100_000)
def layer_keys(part: Part) -> tuple[str, ...]:
    """The keys of a part's layers."""
    return tuple(layer.key for layer in part.layers())
