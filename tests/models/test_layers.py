"""A network's layers are those of the network that is built, and are called in tables what they were always called."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

import nas
from nas.models.layers import layers, parts
from tests.conftest import architectures

MODULES = {"conv": torch.nn.Conv2d, "depthwise": torch.nn.Conv2d, "linear": torch.nn.Linear}


@settings(max_examples=40)
@given(architectures())
def test_the_layers_are_those_of_the_built_network(architecture):
    with torch.device("meta"):
        model = nas.build(architecture, 10)
    found = layers(architecture, 10)
    modules = dict(model.named_modules())
    for layer in found:
        if layer.kind in MODULES:
            module = modules[layer.module]
            assert isinstance(module, MODULES[layer.kind])
            norms = modules[layer.norm].parameters() if layer.norm else ()
            assert layer.params == sum(weight.numel() for weight in (*module.parameters(), *norms))
        if layer.kind in ("conv", "depthwise"):
            assert (module.in_channels, module.out_channels) == (layer.width_in, layer.width)
            assert (module.kernel_size[0], module.stride[0]) == (layer.kernel, layer.stride)
            assert (module.groups > 1) == (layer.kind == "depthwise")
    squeezes = sum(layer.kind == "squeeze" for layer in found)
    convolutions = sum(layer.kind in ("conv", "depthwise") for layer in found)
    assert convolutions + 2 * squeezes == sum(isinstance(module, torch.nn.Conv2d) for module in modules.values())


@settings(max_examples=40)
@given(architectures())
def test_a_network_costs_what_its_layers_cost(architecture):
    found, cost = layers(architecture, 10), nas.cost(architecture, 10)
    assert (sum(layer.params for layer in found), sum(layer.macs for layer in found)) == (cost.params, cost.macs)


@pytest.mark.parametrize(
    ("name", "part", "keys"),
    [
        ("mobilenetv3_small_100", 0, ["conv3/2 3>16 hard_swish @224"]),
        (
            "mobilenetv3_small_100",
            1,
            ["depthwise3/2 16 relu @112", "squeeze 16 8 hard_sigmoid relu @56", "conv1 16>16 @56"],
        ),
        (
            "mobilenetv3_small_100",
            3,
            ["conv1 24>88 relu @28", "depthwise3 88 relu @28", "conv1 88>24 @28", "add 24 @28"],
        ),
        (
            "mobilenetv3_small_100",
            -1,
            ["pool 576 @7", "conv1 576>1024 hard_swish @1", "linear 1024>1000 @1"],
        ),
        (
            "tf_efficientnet_b0",
            4,
            [
                "conv1 24>144 silu @56",
                "depthwise5/2 same 144 silu @56",
                "squeeze 144 6 sigmoid silu @28",
                "conv1 144>40 @28",
            ],
        ),
        (
            "efficientnet_b0",
            -1,
            ["conv1 320>1280 silu @7", "pool 1280 @7", "linear 1280>1000 @1"],
        ),
        (
            "mobilenetv4_conv_small",
            5,
            [
                "depthwise5 64 @28",
                "conv1 64>192 relu @28",
                "depthwise5/2 192 relu @28",
                "conv1 192>96 @14",
            ],
        ),
        (
            "mobilenetv4_conv_small",
            10,
            ["depthwise3 96 @14", "conv1 96>384 relu @14", "conv1 384>96 @14", "add 96 @14"],
        ),
        (
            "mobilenetv4_conv_small",
            -1,
            ["pool 960 @7", "conv1 960>1280 relu @1", "linear 1280>1000 @1"],
        ),
        (
            "efficientnetv2_s",
            3,
            ["conv3/2 24>96 silu @112", "conv1 96>48 @56"],
        ),
    ],
)
def test_tables_on_disk_stay_readable(name, part, keys):
    found = parts(replace(nas.reference(name), resolution=224), 1000)[part]
    assert [layer.key for layer in found.layers()] == keys
