"""A network as an ONNX graph with its norms folded into the convolutions, as it is deployed."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.models.architecture import Architecture
from nas.models.layers import Layer, layers_by_part

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
        if kind == "relu6":
            return self.node("Clip", [x, self.value(f"{name}.low", 0.0), self.value(f"{name}.high", 6.0)], name)
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}.sigmoid")], name)
        return self.node({"relu": "Relu", "hard_swish": "HardSwish"}[kind], [x], name) if kind else x

    def folded(self, shape: tuple[int, ...], layer: Layer) -> tuple[Any, Any]:
        """(weight, bias) of a layer with the norm behind it; random where there are no weights."""
        if self.weights is None:
            fan_in = float(np.prod(shape[1:]))
            return self.random.standard_normal(shape, dtype=np.float32) * np.sqrt(2.0 / fan_in), np.zeros(shape[0])
        weight = self.weights[f"{layer.module}.weight"]
        bias = self.weights.get(f"{layer.module}.bias", np.zeros(shape[0], dtype=np.float32))
        if not layer.norm:
            return weight, bias
        of = {what: self.weights[f"{layer.norm}.{what}"] for what in ("weight", "bias", "running_mean", "running_var")}
        scale = of["weight"] / np.sqrt(of["running_var"] + self.epsilon)
        return weight * scale.reshape(-1, *[1] * (len(shape) - 1)), of["bias"] + (bias - of["running_mean"]) * scale

    def conv(self, layer: Layer, x: str, name: str, *, more: tuple[int, int] = (0, 0)) -> str:
        """A convolution with the norm behind it; `more` channels of zeros (out, in)."""
        groups, kernel, (before, after) = layer.width if layer.kind == "depthwise" else 1, layer.kernel, layer.padding
        weight, bias = self.folded((layer.width, layer.width_in // groups, kernel, kernel), layer)
        weight, bias = np.pad(weight, ((0, more[0]), (0, more[1]), (0, 0), (0, 0))), np.pad(bias, (0, more[0]))
        inputs = [x, self.value(f"{name}.weight", weight), self.value(f"{name}.bias", bias)]
        pads = [before, before, after, after]
        sides: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [layer.stride] * 2, "pads": pads, "group": groups}
        return self.node("Conv", inputs, name, **sides)

    def layer(self, layer: Layer, x: str, kept: str, number: int) -> str:
        """A layer behind `x`; `kept` is what its block got."""
        name = f"{number}/{layer.kind}"
        match layer.kind:
            case "conv" | "depthwise":
                return self.activation(layer.activation, self.conv(layer, x, name), f"{number}/{layer.activation}")
            case "squeeze":
                return self.squeeze(layer, x, name)
            case "add":
                return self.node("Add", [x, kept], name)
            case "pool":
                return self.node("GlobalAveragePool", [x], name)
            case _:
                flat = self.node("Flatten", [x], f"{number}/flatten")
                weight, bias = self.folded((layer.width, layer.width_in), layer)
                inputs = [flat, self.value(f"{name}.weight", weight), self.value(f"{name}.bias", bias)]
                return self.node("Gemm", inputs, name, output="logits", transB=1)

    def squeeze(self, layer: Layer, x: str, name: str) -> str:
        """Squeeze-and-excite, as onnxruntime keeps it in its own layout of channels.

        Its convolutions take channels by eights, so zeros fill them up and stay zeros. It multiplies in that layout where both
        sides are of one shape, so the gate is spread over the map. EfficientNet-B0 runs 1.03 times as fast so, as a whole.
        """
        pooled = self.node("GlobalAveragePool", [x], f"{name}/pool")
        more = -layer.squeeze % LANES
        at_pixel = replace(layer, kind="conv", size=1, size_out=1)
        down = replace(at_pixel, width=layer.squeeze, module=f"{layer.module}.conv_reduce")
        up = replace(at_pixel, width_in=layer.squeeze, module=f"{layer.module}.conv_expand")
        inside = self.activation(layer.activation, self.conv(down, pooled, f"{name}/reduce", more=(more, 0)), f"{name}/act")
        inside = self.conv(up, inside, f"{name}/expand", more=(0, more))
        if layer.gate == "hard_sigmoid":
            gate = self.node("HardSigmoid", [inside], f"{name}/gate", alpha=1 / 6, beta=0.5)
        else:
            gate = self.node("Sigmoid", [inside], f"{name}/gate")
        scales = self.value(f"{name}/scales", [1, 1, layer.size, layer.size])
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        spread = self.node("Resize", [gate, "", scales], f"{name}/spread", **nearest)
        shape = [self.batch, layer.width, layer.size, layer.size]
        self.shapes.append(helper.make_tensor_value_info(spread, TensorProto.FLOAT, shape))
        return self.node("Mul", [x, spread], f"{name}/scale")


def onnx_model(
    architecture: Architecture, num_classes: int, *, batch: int | str, weights: Arrays | None = None
) -> onnx.ModelProto:
    """The graph of a network, in float32; every node's name begins with the number of its layer and a slash.

    `weights` are a state of timm's network by name; without, they are random, as times do not depend on them. A `batch` that is a
    name may be of any size.
    Shapes: image (batch, 3, resolution, resolution) → logits (batch, num_classes).
    """
    graph = _Graph(weights, 1e-3 if architecture.convention == "tensorflow" else 1e-5, batch)
    x, numbers = "image", count()
    for found in layers_by_part(architecture, num_classes):
        part_input = x
        for layer, number in zip(found, numbers, strict=False):
            x = graph.layer(layer, x, part_input, number)
    side = architecture.resolution
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])
    logits = helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, num_classes])
    made = helper.make_graph(graph.nodes, "network", [image], [logits], graph.values, value_info=graph.shapes)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
