"""The Architecture: a mobile network as one frozen value, with a canonical JSON text and an id.

Every width is the final channel count, already multiplied and rounded. Read next: `stages.py`, `layers.py`, `build.py`.
"""

import hashlib
import itertools
import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self, TypeVar

from nas.errors import ArchitectureError

T = TypeVar("T")

OPS: Final = ("conv", "sep", "mbconv", "uib", "fused")
ACTIVATIONS: Final = ("relu", "relu6", "silu", "hard_swish")
KERNELS: Final = {"conv": (1, 3, 5, 7), "sep": (3, 5, 7), "mbconv": (3, 5, 7), "uib": (0, 3, 5, 7), "fused": (3, 5, 7)}
EXPANDING_OPS: Final = ("mbconv", "uib", "fused")
LINEAR_BY_OP: Final = {"conv": (False,), "sep": (False, True), "mbconv": (True,), "uib": (True,), "fused": (True,)}
GATES: Final = ("sigmoid", "hard_sigmoid")
CONVENTIONS: Final = ("torch", "tensorflow")
HEADS: Final = ("efficientnet", "mobilenetv3", "mobilenetv4")
DEFAULTS: Final = {"start_kernel": 0}  # fields that a text leaves out where they have this value

# Bounds on every network, so that a text from elsewhere cannot fill the memory. The largest published network of the family,
# EfficientNet-L2, has widths up to 5,504 (hidden 8,256), a resolution of 800 px and 480 M weights.
MAX_WIDTH: Final = 16_384  # channels
RESOLUTIONS: Final = (16, 1024)  # lowest and highest, pixels
MAX_STAGES: Final = 16
MAX_BLOCKS: Final = 64  # in one stage
MAX_DOWNSAMPLINGS: Final = 4  # stages with stride 2; with the stem, total stride 32; beyond that, timm dilates
MAX_WEIGHTS: Final = 2**31  # 8 GiB in float32
MAX_FEATURES: Final = 2**28  # values in one feature map of one image; 1 GiB in float32
MAX_TEXT: Final = 2**20  # characters


def round_width(width: float) -> int:
    """`width` rounded to a multiple of 8, at least 8 and at least 90 % of `width`.

    Source: `_make_divisible` of tensorflow/models slim mobilenet.py, the rule of MobileNetV2, V3, MnasNet and EfficientNet.
    """
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def _invalid(field: str, value: object, allowed: str) -> ArchitectureError:
    return ArchitectureError(f"{field}: {reprlib.repr(value)} is not {allowed}")  # reprlib shortens long and deep values


def _check_width(field: str, value: int) -> None:
    if not (type(value) is int and 8 <= value <= MAX_WIDTH and value % 8 == 0):
        raise _invalid(field, value, f"a multiple of 8 from 8 to {MAX_WIDTH}")


def _check_choice(field: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices or type(value) is not type(choices[0]):  # True equals 1, but is not a stride
        raise _invalid(field, value, "one of " + ", ".join(map(str, choices)))


class Convolution(NamedTuple):
    """One convolution and the activation after it; `kind` is conv or depthwise, `module` is its name in timm's block."""

    kind: str
    module: str
    width_in: int
    width: int
    activation: str | None
    kernel: int = 1
    stride: int = 1

    @property
    def weights(self) -> int:
        """Number of weights, without bias and norm."""
        return self.kernel**2 * self.width * (self.width_in if self.kind == "conv" else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a stage.

    `conv` is a kernel x kernel convolution. `sep` is depthwise, then pointwise. `mbconv` is pointwise to `hidden`, depthwise,
    pointwise. `fused` is kernel x kernel to `hidden`, then pointwise. A norm follows each convolution.

    `uib`, MobileNetV4's universal inverted bottleneck, is depthwise without activation, pointwise to `hidden`, depthwise,
    pointwise; 0 leaves out either depthwise convolution. The last one that is there has the stride.

    Raises: ArchitectureError, naming the field, the value and what is allowed.
    """

    op: str
    """One of conv, sep, mbconv, uib, fused."""
    kernel: int
    """Side of the kernel x kernel or depthwise convolution, pixels: 3, 5 or 7; `conv` also takes 1, and `uib` 0 for none."""
    stride: int
    """1 or 2; only the first block of a stage may have 2."""
    width: int
    """Output channels."""
    hidden: int
    """Channels after expansion; 0 in `conv` and `sep`, which do not expand."""
    squeeze: int
    """Channels inside squeeze-and-excite; 0 for none."""
    gate: str | None
    """Gate of squeeze-and-excite: `sigmoid` (with the block's activation inside), `hard_sigmoid` (ReLU inside); else None."""
    activation: str
    """One of relu, relu6, silu, hard_swish."""
    linear: bool
    """True for no activation after the last convolution. False in `conv`, either in `sep`, True in the others."""
    skip: bool
    """True if the input is added to the output; needs stride 1 and as many channels in as out."""
    start_kernel: int = 0
    """Side of the depthwise convolution before the expansion, pixels: 0 for none; in `uib` also 3, 5 or 7."""

    def __post_init__(self) -> None:
        _check_choice("op", self.op, OPS)
        _check_choice("kernel", self.kernel, KERNELS[self.op])
        _check_choice("stride", self.stride, (1, 2))
        if self.op == "uib":
            self._check_universal()
        elif type(self.start_kernel) is not int or self.start_kernel != 0:
            raise _invalid("start_kernel", self.start_kernel, f"0, as op {self.op!r} has none")
        _check_width("width", self.width)
        if self.op in EXPANDING_OPS:
            _check_width("hidden", self.hidden)
        elif type(self.hidden) is not int or self.hidden != 0:
            raise _invalid("hidden", self.hidden, f"0, as op {self.op!r} has none")
        most = 0 if self.op == "conv" else MAX_WIDTH
        if not (type(self.squeeze) is int and 0 <= self.squeeze <= most):
            raise _invalid("squeeze", self.squeeze, f"a whole number from 0 to {most} in op {self.op!r}")
        _check_choice("gate", self.gate, GATES if self.squeeze else (None,))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("linear", self.linear, LINEAR_BY_OP[self.op])
        _check_choice("skip", self.skip, (False, True))

    def _check_universal(self) -> None:
        _check_choice("start_kernel", self.start_kernel, KERNELS["uib"])
        if self.stride != 1 and not (self.kernel or self.start_kernel):
            raise _invalid("stride", self.stride, "1, as a block without kernels cannot downsample")

    @property
    def is_inverted_bottleneck(self) -> bool:
        """True for `mbconv`, and for `uib` with its inner depthwise convolution alone."""
        return self.op == "mbconv" or (self.op == "uib" and self.kernel > 0 and self.start_kernel == 0)

    def convolutions(self, width: int) -> list[Convolution]:
        """Its convolutions in order, for an input of `width` channels. Squeeze-and-excite, before the last one, is left out."""
        inner, act, kernel_stride = self.hidden or width, self.activation, (self.kernel, self.stride)
        last = Convolution("conv", "conv_pwl", inner, self.width, None if self.linear else act)
        depthwise = Convolution("depthwise", "conv_dw", inner, inner, act, *kernel_stride)
        match self.op:
            case "conv":
                return [Convolution("conv", "conv", width, self.width, act, *kernel_stride)]
            case "fused":
                return [Convolution("conv", "conv_exp", width, inner, act, *kernel_stride), last]
            case "sep":
                return [depthwise, last._replace(module="conv_pw")]
            case "uib":
                return self._universal_convolutions(width)
            case _:
                return [Convolution("conv", "conv_pw", width, inner, act), depthwise, last]

    def _universal_convolutions(self, width: int) -> list[Convolution]:
        """Those of `uib`, for an input of `width` channels."""
        inner, act, start_stride = self.hidden, self.activation, 1 if self.kernel else self.stride
        start = Convolution("depthwise", "dw_start.conv", width, width, None, self.start_kernel, start_stride)
        middle = Convolution("depthwise", "dw_mid.conv", inner, inner, act, self.kernel, self.stride)
        expand = Convolution("conv", "pw_exp.conv", width, inner, act)
        project = Convolution("conv", "pw_proj.conv", inner, self.width, None)
        return [conv for conv in (start, expand, middle, project) if conv.kernel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first convolution: 3 x 3 on the 3 channels of the image, norm, activation."""

    width: int
    """Output channels."""
    stride: int
    """2, or 1 for images of about 32 pixels."""

    def __post_init__(self) -> None:
        _check_width("width", self.width)
        _check_choice("stride", self.stride, (1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The layers from the last feature map to the logits."""

    kind: str
    """`efficientnet`: 1 x 1 convolution, norm, activation, pool, linear. `mobilenetv3`: pool, 1 x 1 convolution with bias,
    activation, linear. `mobilenetv4`: pool, 1 x 1 convolution, norm, activation, linear."""
    width: int
    """Output channels of the 1 x 1 convolution; 0 leaves it out (`efficientnet` only)."""

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, HEADS)
        if self.kind != "efficientnet" or self.width != 0 or type(self.width) is not int:
            _check_width("width", self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network for square images. Equal networks have equal texts and equal ids.

    An inverted bottleneck has one name: `uib` with the head `mobilenetv4`, as in timm's MobileNetV4, else `mbconv`.

    Raises: ArchitectureError, naming the field, the value and what is allowed.
    """

    resolution: int
    """Side of the input in pixels, 16 to 1024."""
    convention: str
    """Padding and BatchNorm epsilon: `torch` (symmetric, 1e-5) or `tensorflow` (SAME padding: an odd pixel goes last; 1e-3)."""
    activation: str
    """Activation of the stem and the head."""
    stem: Stem
    stages: tuple[tuple[Block, ...], ...]
    head: Head

    def __post_init__(self) -> None:
        low, high = RESOLUTIONS
        if not (type(self.resolution) is int and low <= self.resolution <= high):
            raise _invalid("resolution", self.resolution, f"a whole number from {low} to {high}")
        _check_choice("convention", self.convention, CONVENTIONS)
        _check_choice("activation", self.activation, ACTIVATIONS)
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise _invalid("stages", self.stages, f"1 to {MAX_STAGES} stages")
        for i, stage in enumerate(self.stages):
            if not 1 <= len(stage) <= MAX_BLOCKS:
                raise _invalid(f"stages[{i}]", stage, f"1 to {MAX_BLOCKS} blocks")
        self._check_blocks()
        self._check_size()

    def _check_blocks(self) -> None:
        width, inverted_op = self.stem.width, "uib" if self.head.kind == "mobilenetv4" else "mbconv"
        for i, j, block in ((i, j, block) for i, stage in enumerate(self.stages) for j, block in enumerate(stage)):
            if block.op != inverted_op and block.is_inverted_bottleneck:
                allowed = f"{inverted_op!r}, which is an inverted bottleneck's op in a network with head {self.head.kind!r}"
                raise _invalid(f"stages[{i}][{j}].op", block.op, allowed)
            if j and block.stride != 1:
                raise _invalid(f"stages[{i}][{j}].stride", block.stride, "1, as only the first block of a stage may downsample")
            if block.skip and (block.stride != 1 or block.width != width):
                raise _invalid(f"stages[{i}][{j}].skip", True, "possible: it needs stride 1 and as many channels out as in")
            width = block.width
        if (downsamplings := sum(stage[0].stride - 1 for stage in self.stages)) > MAX_DOWNSAMPLINGS:
            raise _invalid("stages", downsamplings, f"a number of stages with stride 2 up to {MAX_DOWNSAMPLINGS}")

    def _check_size(self) -> None:
        """Check that weights and the largest feature map fit into memory (exact costs: `cost.py`)."""
        weights = features = 0
        for part, width, size, size_out in self.walk():
            if type(part) is Block:
                more, widest = _weights_and_width(part, width)
                features = max(features, size * size * widest)
            else:
                more = width * part.width if type(part) is Head else 0
                features = max(features, size_out * size_out * part.width)
            weights += more
        if weights > MAX_WEIGHTS:
            raise _invalid("stages", weights, f"a number of weights up to {MAX_WEIGHTS:,}")
        if features > MAX_FEATURES:
            raise _invalid("stages", features, f"a number of values in one feature map up to {MAX_FEATURES:,}")

    def walk(self) -> Iterator[tuple[Stem | Block | Head, int, int, int]]:
        """The stem, the blocks and the head, each as (part, input channels, input side, output side); sides in pixels."""
        width, size = 3, self.resolution
        parts: list[Stem | Block] = [self.stem, *itertools.chain(*self.stages)]
        for part in parts:
            size_out = -(-size // part.stride)
            yield part, width, size, size_out
            width, size = part.width, size_out
        yield self.head, width, size, size

    def to_json(self) -> str:
        """The canonical text: JSON with sorted keys and no spaces, without `start_kernel` where it is 0."""
        return json.dumps(self, default=_as_dict, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The architecture in a JSON text. Whitespace and key order are free; `start_kernel` may be missing, no other field may.

        Raises: ArchitectureError for any other text.
        """
        if not (type(text) is str and len(text) <= MAX_TEXT):
            raise _invalid("architecture", text, f"a text of at most {MAX_TEXT:,} characters")
        try:
            value = json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise ArchitectureError(f"architecture: the text is not JSON ({str(error)[:80]})") from None
        return _construct(cls, value, "architecture")

    @property
    def id(self) -> str:
        """`a` and the first 15 hexadecimal digits of the SHA-256 of the canonical text."""
        return architecture_id(self.to_json())

    def _repr_svg_(self) -> str:
        """The drawing of the network that a notebook shows."""
        from nas.models.draw import draw  # which imports this module

        return draw(self)


@lru_cache(maxsize=100_000)
def _weights_and_width(block: Block, width: int) -> tuple[int, int]:
    """(weights, channels of the widest feature map) of a block with `width` input channels."""
    convolutions = block.convolutions(width)
    squeeze_weights = 2 * convolutions[-1].width_in * block.squeeze
    return sum(conv.weights for conv in convolutions) + squeeze_weights, max(width, *(conv.width for conv in convolutions))


def architecture_id(text: str) -> str:
    """The id of the architecture with this canonical text. Its first letter keeps a reader from taking it for a number."""
    return f"a{hashlib.sha256(text.encode()).hexdigest()[:15]}"


def _as_dict(value: Any) -> dict[str, Any]:
    values = {name: getattr(value, name) for name in value.__slots__}
    for name, default in DEFAULTS.items():
        if values.get(name) == default:
            del values[name]
    return values


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _construct(cls: type[T], value: Any, path: str) -> T:
    """An instance of `cls` from a JSON object with its fields and no other. `path` says where it is; errors begin with it."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if type(value) is not dict:
        raise _invalid(path, value, f"an object with the fields {', '.join(names)}")
    for name in value:
        if name not in names:
            raise _invalid(path, name, f"a field; the fields are {', '.join(names)}")
    for name in names:
        if name not in value and name not in DEFAULTS:
            raise ArchitectureError(f"{path}.{name}: missing; the fields are {', '.join(names)}")
    if cls is Architecture:
        value |= {name: _construct(kind, value[name], f"{path}.{name}") for name, kind in (("stem", Stem), ("head", Head))}
        value["stages"] = tuple(
            tuple(_construct(Block, block, f"{path}.stages[{i}][{j}]") for j, block in _numbered(stage, f"{path}.stages[{i}]"))
            for i, stage in _numbered(value["stages"], f"{path}.stages")
        )
    try:
        return cls(**value)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}.{error}") from None


def _numbered(value: Any, path: str) -> Iterator[tuple[int, Any]]:
    if type(value) is not list:
        raise _invalid(path, value, "a list")
    return enumerate(value)
