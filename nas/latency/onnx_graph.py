"""A network as an ONNX graph with its norms folded into the convolutions, as it is deployed. Read `timing.py` next."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.architecture import Architecture
from nas.latency.pieces import Piece, pieces

OPSET: Final = 17
LANES: Final = 8
IR_VERSION: Final = 9  # of opset 17's time, so that older runtimes read it too

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class _Graph:
    """Nodes and weights, while a graph is written."""

    def __init__(self, weights: Arrays | None, epsilon: float, batch: int | str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[onnx.TensorProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []
        self.batch = batch
        self.weights = weights
        self.epsilon = epsilon
        self.random = np.random.default_rng(0)

    def value(self, name: str, array: Any) -> str:
        self.values.append(numpy_helper.from_array(np.asarray(array, dtype=np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, output: str | None = None, **attributes: Any) -> str:
        output = output or name
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def activation(self, kind: str | None, x: str, name: str) -> str:
        match kind:
            case None:
                return x
            case "relu":
                return self.node("Relu", [x], name)
            case "relu6":
                return self.node("Clip", [x, self.value(f"{name}.low", 0.0), self.value(f"{name}.high", 6.0)], name)
            case "silu":
                return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}.sigmoid")], name)
            case _:
                return self.node("HardSwish", [x], name)

    def folded(self, shape: tuple[int, ...], conv: str, norm: str | None) -> tuple[Any, Any]:
        """(weight, bias) of a convolution with the norm behind it; random where there are no weights."""
        if self.weights is None:
            fan_in = float(np.prod(shape[1:]))
            return self.random.standard_normal(shape, dtype=np.float32) * np.sqrt(2.0 / fan_in), np.zeros(shape[0])
        weight = self.weights[f"{conv}.weight"]
        bias = self.weights.get(f"{conv}.bias", np.zeros(shape[0], dtype=np.float32))
        if norm is None:
            return weight, bias
        of = {what: self.weights[f"{norm}.{what}"] for what in ("weight", "bias", "running_mean", "running_var")}
        scale = of["weight"] / np.sqrt(of["running_var"] + self.epsilon)
        return weight * scale.reshape(-1, *[1] * (len(shape) - 1)), of["bias"] + (bias - of["running_mean"]) * scale

    def conv(
        self,
        piece: Piece,
        x: str,
        name: str,
        *,
        conv: str,
        norm: str | None,
        groups: int = 1,
        more: tuple[int, int] = (0, 0),
    ) -> str:
        """A convolution with the norm behind it; `more` channels of zeros (out, in)."""
        shape = (piece.width, piece.width_in // groups, piece.kernel, piece.kernel)
        weight, bias = self.folded(shape, conv, norm)
        weight, bias = np.pad(weight, ((0, more[0]), (0, more[1]), (0, 0), (0, 0))), np.pad(bias, (0, more[0]))
        pads = [piece.kernel // 2] * 4
        if piece.same:  # the odd pixel at the end
            total = max((-(-piece.size // piece.stride) - 1) * piece.stride + piece.kernel - piece.size, 0)
            pads = [total // 2] * 2 + [total - total // 2] * 2
        inputs = [x, self.value(f"{name}.weight", weight), self.value(f"{name}.bias", bias)]
        sides: dict[str, Any] = {"kernel_shape": [piece.kernel] * 2, "strides": [piece.stride] * 2, "pads": pads, "group": groups}
        return self.node("Conv", inputs, name, **sides)

    def squeeze(self, piece: Piece, x: str, name: str) -> str:
        """Squeeze-and-excite, as onnxruntime keeps it in its own layout of channels.

        Its convolutions take channels by eights, so zeros fill them up and stay zeros. It multiplies in that layout where both
        sides are of one shape, so the gate is spread over the map. EfficientNet-B0 runs 1.03 times as fast so, as a whole.
        """
        pooled = self.node("GlobalAveragePool", [x], f"{name}/pool")
        more = -piece.squeeze % LANES
        down = Piece(kind="conv", width_in=piece.width, width=piece.squeeze, size=1)
        up = Piece(kind="conv", width_in=piece.squeeze, width=piece.width, size=1)
        inside = self.conv(down, pooled, f"{name}/reduce", conv=f"{piece.module}.conv_reduce", norm=None, more=(more, 0))
        inside = self.activation(piece.activation, inside, f"{name}/act")
        inside = self.conv(up, inside, f"{name}/expand", conv=f"{piece.module}.conv_expand", norm=None, more=(0, more))
        if piece.gate == "hard_sigmoid":
            gate = self.node("HardSigmoid", [inside], f"{name}/gate", alpha=1 / 6, beta=0.5)
        else:
            gate = self.node("Sigmoid", [inside], f"{name}/gate")
        scales = self.value(f"{name}/scales", [1, 1, piece.size, piece.size])
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        spread = self.node("Resize", [gate, "", scales], f"{name}/spread", **nearest)
        shape = [self.batch, piece.width, piece.size, piece.size]
        self.shapes.append(helper.make_tensor_value_info(spread, TensorProto.FLOAT, shape))
        return self.node("Mul", [x, spread], f"{name}/scale")


# timm's name of the norm behind each of its convolutions.
_NORMS: Final = {"conv_stem": "bn1", "conv_head": "bn2", "conv": "bn1", "conv_exp": "bn1", "conv_dw": "bn1", "conv_pw": "bn1"}


def _norm(piece: Piece, architecture: Architecture, found: list[Piece]) -> str | None:
    """The path of the norm behind a convolution."""
    place, _, name = piece.module.rpartition(".")
    if name == "conv_head" and architecture.head.kind == "mobilenetv3":
        return None
    before = sum(other.kind in ("conv", "depthwise") and other.module.rpartition(".")[0] == place for other in found)
    norm = f"bn{before + 1}" if place else _NORMS[name]
    return f"{place}.{norm}" if place else norm


def onnx_model(
    architecture: Architecture, num_classes: int, *, batch: int | str, weights: Arrays | None = None
) -> onnx.ModelProto:
    """The graph of a network, in float32; every node's name begins with the number of its piece and a slash.

    `weights` are a state of timm's network by name; without, they are random, as times do not depend on them. A `batch` that is a
    name may be of any size.
    Shapes: image (batch, 3, resolution, resolution) → logits (batch, num_classes).
    """
    graph = _Graph(weights, 1e-3 if architecture.convention == "tensorflow" else 1e-5, batch)
    sequence = pieces(architecture, num_classes)
    x = kept = "image"
    for i, piece in enumerate(sequence):
        name = f"{i}/{piece.kind}"
        if piece.module.startswith("blocks.") and not sequence[i - 1].module.startswith(piece.module.rpartition(".")[0] + "."):
            kept = x  # a block begins
        match piece.kind:
            case "conv" | "depthwise":
                groups = piece.width if piece.kind == "depthwise" else 1
                norm = _norm(piece, architecture, sequence[:i])
                x = graph.conv(piece, x, name, conv=piece.module, norm=norm, groups=groups)
                x = graph.activation(piece.activation, x, f"{i}/{piece.activation}")
            case "squeeze":
                x = graph.squeeze(piece, x, name)
            case "add":
                x = graph.node("Add", [x, kept], name)
            case "pool":
                x = graph.node("GlobalAveragePool", [x], name)
            case _:
                flat = graph.node("Flatten", [x], f"{i}/flatten")
                weight, bias = graph.folded((piece.width, piece.width_in), "classifier", None)
                inputs = [flat, graph.value(f"{name}.weight", weight), graph.value(f"{name}.bias", bias)]
                x = graph.node("Gemm", inputs, name, output="logits", transB=1)
    side = architecture.resolution
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])
    logits = helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, num_classes])
    made = helper.make_graph(graph.nodes, "network", [image], [logits], graph.values, value_info=graph.shapes)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
