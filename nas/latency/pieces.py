"""A network as a sequence of layers, each with a key that says all that its time depends on. Read `runtimes.py` next."""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache, partial

from nas.architecture import Architecture, Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One layer with what is computed right behind it: its norm, folded or not, and its activation."""

    kind: str
    """conv, depthwise, squeeze (and excite), add (of what a skip kept), pool (to one pixel) or linear."""
    width_in: int
    """Channels in."""
    width: int
    """Channels out."""
    size: int
    """Side of the map that comes in, pixels."""
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
    module: str = ""
    """The path of the first of its modules in timm's network; empty for `add`, which has none. Not part of the key."""

    @property
    def key(self) -> str:
        """What its time depends on, as a table has it: `conv1 96>24 @56`, `depthwise5/2 72 relu @56`."""
        name = self.kind + (str(self.kernel) if self.kind in ("conv", "depthwise") else "")
        name += f"/{self.stride}" * (self.stride > 1) + " same" * self.same
        widths = f"{self.width}" if self.width_in == self.width and self.kind != "conv" else f"{self.width_in}>{self.width}"
        inside = f" {self.squeeze} {self.gate}" if self.squeeze else ""
        return f"{name} {widths}{inside}{f' {self.activation}' if self.activation else ''} @{self.size}"


def pieces(architecture: Architecture, num_classes: int) -> list[Piece]:
    """The layers of a network in the order in which they are computed."""
    return [piece for _, found in groups(architecture, num_classes) for piece in found]


def groups(architecture: Architecture, num_classes: int) -> list[tuple[str, list[Piece]]]:
    """(key, layers) of the stem, each block and the head: a table may have the time of the whole, or of each layer."""
    tensorflow = architecture.convention == "tensorflow"
    stem = _stem(architecture)
    found = [(stem.key, [stem])]
    places = (f"blocks.{i}.{j}." for i, stage in enumerate(architecture.stages) for j in range(len(stage)))
    for (block, width, size), place in zip(architecture.walk(), places, strict=True):
        layers = block_pieces(block, width, size, tensorflow=tensorflow, place=place)
        found.append((block_key(block, width, size), layers))
    return [*found, _head(architecture, num_classes)]


def group_keys(architecture: Architecture, num_classes: int) -> list[tuple[str, tuple[str, ...]]]:
    """(key, keys of the layers) of each of the `groups`; those of a block are kept, as a search meets the same ones often."""
    tensorflow = architecture.convention == "tensorflow"
    stem, (head, layers) = _stem(architecture).key, _head(architecture, num_classes)
    blocks = [_block_keys(block, width, size, tensorflow) for block, width, size in architecture.walk()]
    return [(stem, (stem,)), *blocks, (head, tuple(layer.key for layer in layers))]


@lru_cache(maxsize=100_000)
def _block_keys(block: Block, width: int, size: int, tensorflow: bool) -> tuple[str, tuple[str, ...]]:  # noqa: FBT001
    layers = block_pieces(block, width, size, tensorflow=tensorflow)
    return block_key(block, width, size), tuple(layer.key for layer in layers)


def _stem(architecture: Architecture) -> Piece:
    stem = architecture.stem
    return Piece(
        kind="conv",
        width_in=3,
        width=stem.width,
        kernel=3,
        stride=stem.stride,
        activation=architecture.activation,
        size=architecture.resolution,
        same=architecture.convention == "tensorflow" and stem.stride > 1,
        module="conv_stem",
    )


def block_key(block: Block, width: int, size: int) -> str:
    """A block on a map of `width` channels and `size` pixels a side: `mbconv5/2 24>72>40 relu @56`."""
    widths = [width, *([block.hidden] if block.hidden else []), block.width]
    squeeze = f" squeeze {block.squeeze} {block.gate}" if block.squeeze else ""
    plain = " linear" if block.op == "sep" and block.linear else ""
    skip = " skip" if block.skip else ""
    name = f"{block.op}{block.kernel}" + f"/{block.stride}" * (block.stride > 1)
    return f"{name} {'>'.join(map(str, widths))}{squeeze} {block.activation}{plain}{skip} @{size}"


def block_pieces(block: Block, width: int, size: int, *, tensorflow: bool = False, place: str = "") -> list[Piece]:
    """The layers of one block on a map of `width` channels and `size` pixels a side."""
    act, inner, after = block.activation, block.hidden or width, -(-size // block.stride)
    same = tensorflow and block.stride > 1
    spatial = partial(Piece, kernel=block.kernel, stride=block.stride, activation=act, size=size, same=same)
    if block.op == "conv":
        found = [spatial(kind="conv", width_in=width, width=block.width, module=f"{place}conv")]
    elif block.op == "fused":
        found = [spatial(kind="conv", width_in=width, width=inner, module=f"{place}conv_exp")]
    else:
        found = [spatial(kind="depthwise", width_in=inner, width=inner, module=f"{place}conv_dw")]
    if block.op == "mbconv":
        found.insert(0, Piece(kind="conv", width_in=width, width=inner, activation=act, size=size, module=f"{place}conv_pw"))
    if block.squeeze:
        found.append(
            Piece(
                kind="squeeze",
                width_in=inner,
                width=inner,
                size=after,
                squeeze=block.squeeze,
                gate=block.gate,
                activation="relu" if block.gate == "hard_sigmoid" else act,
                module=f"{place}se",
            )
        )
    if block.op != "conv":
        last = "conv_pw" if block.op == "sep" else "conv_pwl"
        found.append(
            Piece(
                kind="conv",
                width_in=inner,
                width=block.width,
                activation=None if block.linear else act,
                size=after,
                module=f"{place}{last}",
            )
        )
    if block.skip:
        found.append(Piece(kind="add", width_in=block.width, width=block.width, size=after))
    return found


def _head(architecture: Architecture, num_classes: int) -> tuple[str, list[Piece]]:
    """From the last map to the logits."""
    head, act = architecture.head, architecture.activation
    last, _, before = deque(architecture.walk(), maxlen=1).pop()
    width, size = last.width, -(-before // last.stride)
    features = head.width or width
    pool = Piece(kind="pool", width_in=features, width=features, size=size, module="global_pool")
    if head.kind == "mobilenetv3":
        pool = Piece(kind="pool", width_in=width, width=width, size=size, module="global_pool")
        found = [pool, Piece(kind="conv", width_in=width, width=features, activation=act, size=1, module="conv_head")]
    elif head.width:
        found = [Piece(kind="conv", width_in=width, width=features, activation=act, size=size, module="conv_head"), pool]
    else:
        found = [pool]
    if num_classes:
        found.append(Piece(kind="linear", width_in=features, width=num_classes, size=1, module="classifier"))
    return f"head {head.kind} {width}>{features}>{num_classes} {act} @{size}", found
