"""A network as its layers, each with what it computes, what it costs and what timm calls it: the one place that knows.

Read `costs.py` next, which adds them up.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from nas.architecture import Architecture, Block, Convolution, Head, Stem

BEFORE, AFTER, PIXEL = 0, 1, 2  # the maps of a part: before its stride, after it, and of one pixel
Terms = tuple[int, int, int]  # a sum over them: so much for each pixel of the first, of the second, and once


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with what is computed right behind it: its norm, folded or not, and its activation."""

    kind: str
    """conv, depthwise, squeeze (and excite), add (of what a skip kept), pool (to one pixel) or linear."""
    width_in: int
    """Channels in."""
    width: int
    """Channels out."""
    sides: tuple[int, int, int]
    """Pixels a side of the maps of its part: BEFORE, AFTER and PIXEL."""
    reads: int = BEFORE
    """Which of these comes in."""
    writes: int = BEFORE
    """Which of these goes out."""
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
    """Channels of the map BEFORE that a skip keeps meanwhile, where that is not what comes in."""
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
    def size(self) -> int:
        """Side of the map that comes in, pixels."""
        return self.sides[self.reads]

    @property
    def size_out(self) -> int:
        """Side of the map that goes out, pixels."""
        return self.sides[self.writes]

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
        """Multiply-adds for one image."""
        return sum(term * side**2 for term, side in zip(self.macs_terms, self.sides, strict=True))

    @property
    def macs_terms(self) -> Terms:
        """Multiply-adds for each pixel of the part's maps; squeeze-and-excite multiplies at one pixel."""
        return _terms((PIXEL if self.kind == "squeeze" else self.writes, self.weights))

    @property
    def alive_terms(self) -> Terms:
        """Numbers alive while it runs, for each pixel of the part's maps; sums and gates work in place."""
        came, kept = (self.reads, self.width_in), (BEFORE, self.kept)
        if self.kind == "squeeze":  # the map stays, beside the layers of the gate
            return _terms(came, kept, (PIXEL, self.width + self.squeeze))
        return _terms(came, kept, (self.writes, 0 if self.kind == "add" else self.width))


def _terms(*given: tuple[int, int]) -> Terms:
    found = [0, 0, 0]
    for which, number in given:
        found[which] += number
    return found[0], found[1], found[2]


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

    @property
    def key(self) -> str:
        """The whole in a latency table: `mbconv5/2 24>72>40 relu @56`, `head mobilenetv3 960>1280>1000 hard_swish @7`."""
        match self.value:
            case Stem():
                return self.layers()[0].key
            case Block():
                return _block_key(self.value, self.width, self.size)
            case Head(kind=kind, width=features):
                widths = f"{self.width}>{features or self.width}>{self.num_classes}"
                return f"head {kind} {widths} {self.activation} @{self.size}"

    def layers(self, place: str = "") -> list[Layer]:
        """Its layers in order; `place` leads to a block in timm's network, such as `blocks.2.0.`."""
        match self.value:
            case Stem(width=width, stride=stride):
                return [
                    self._convolution(Convolution("conv", "conv_stem", self.width, width, self.activation, 3, stride), norm="bn1")
                ]
            case Block():
                found = self._block_layers(self.value)
                return [_at(place, layer) for layer in found] if place else found
            case Head():
                return self._head_layers(self.value)

    def _block_layers(self, block: Block) -> list[Layer]:
        found: list[Layer] = []
        *_, last = convolutions = block.convolutions(self.width)
        for number, conv in enumerate(convolutions, start=1):
            reads, kept = (found[-1].writes, self.width * block.skip) if found else (BEFORE, 0)
            if block.squeeze and conv is last:
                found.append(self._squeeze(block, conv.width_in, reads, kept))
            found.append(self._convolution(conv, reads, kept, norm=f"bn{number}"))
        if block.skip:
            found.append(Layer(kind="add", width_in=block.width, width=block.width, sides=self._sides, kept=block.width))
        return found

    def _head_layers(self, head: Head) -> list[Layer]:
        features, num, late = head.width or self.width, self.num_classes, head.kind == "mobilenetv3"
        pooled = self.width if late else features
        found = [Layer(kind="pool", width_in=pooled, width=pooled, sides=self._sides, writes=PIXEL, module="global_pool")]
        if head.width:
            conv = Convolution("conv", "conv_head", self.width, features, self.activation)
            found.insert(late, self._convolution(conv, PIXEL) if late else self._convolution(conv, norm="bn2"))
        if num:
            linear = Layer(kind="linear", width_in=features, width=num, sides=self._sides, reads=PIXEL, writes=PIXEL)
            found.append(replace(linear, weights=features * num, biases=num, module="classifier"))
        return found

    @property
    def _sides(self) -> tuple[int, int, int]:
        return self.size, self.size_out, 1

    def _convolution(self, conv: Convolution, reads: int = BEFORE, kept: int = 0, *, norm: str = "") -> Layer:
        strided = conv.stride > 1
        maps: dict[str, Any] = {
            "sides": self._sides,
            "reads": reads,
            "writes": AFTER if strided else reads,
            "same": self.tensorflow and strided,
        }
        biases = conv.width * (2 if norm else 1)
        return Layer(**conv._asdict(), **maps, weights=conv.weights, biases=biases, kept=kept, norm=norm)

    def _squeeze(self, block: Block, width: int, reads: int, kept: int) -> Layer:
        inside, gate = block.squeeze, block.gate
        act = "relu" if gate == "hard_sigmoid" else block.activation
        maps: dict[str, Any] = {"sides": self._sides, "reads": reads, "writes": reads, "kept": kept}
        numbers: dict[str, Any] = {"width_in": width, "width": width, "weights": 2 * width * inside, "biases": width + inside}
        return Layer(kind="squeeze", squeeze=inside, gate=gate, activation=act, module="se", **maps, **numbers)


def _at(place: str, layer: Layer) -> Layer:
    """The layer with its paths behind `place`."""
    return replace(layer, module=layer.module and place + layer.module, norm=layer.norm and place + layer.norm)


def _block_key(block: Block, width: int, size: int) -> str:
    widths = [width, *([block.hidden] if block.hidden else []), block.width]
    squeeze = f" squeeze {block.squeeze} {block.gate}" if block.squeeze else ""
    plain = " linear" if block.op == "sep" and block.linear else ""
    skip = " skip" if block.skip else ""
    name = f"{block.op}{block.kernel}" + f"/{block.stride}" * (block.stride > 1)
    return f"{name} {'>'.join(map(str, widths))}{squeeze} {block.activation}{plain}{skip} @{size}"


def parts(architecture: Architecture, num_classes: int) -> list[Part]:
    """The stem, each block and the head of a network, in order."""
    tensorflow, activation = architecture.convention == "tensorflow", architecture.activation
    stem, *blocks, head = (Part(*shape, tensorflow) for shape in architecture.walk())
    return [stem._replace(activation=activation), *blocks, head._replace(activation=activation, num_classes=num_classes)]


def layers_by_part(architecture: Architecture, num_classes: int) -> list[list[Layer]]:
    """The layers of the stem, of each block and of the head, in the order in which they are computed."""
    blocks = [f"blocks.{i}.{j}." for i, stage in enumerate(architecture.stages) for j in range(len(stage))]
    return [part.layers(place) for part, place in zip(parts(architecture, num_classes), ["", *blocks, ""], strict=True)]


def layers(architecture: Architecture, num_classes: int) -> list[Layer]:
    """The layers of a network in the order in which they are computed."""
    return [layer for found in layers_by_part(architecture, num_classes) for layer in found]


@lru_cache(maxsize=100_000)
def part_keys(part: Part) -> tuple[str, tuple[str, ...]]:
    """(key, keys of the layers) of a part: a latency table may have the time of the whole, or of each layer."""
    return part.key, tuple(layer.key for layer in part.layers())
