"""A built network is timm's: its whole surface works, on every kind of block, stem and head."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

import nas
from nas.models.architecture import Stem
from nas.models.build import build
from tests.conftest import architectures

NAMES = (
    *("mobilenetv3_small_100", "efficientnet_b0", "mobilenetv1_100", "efficientnetv2_s", "fbnetc_100"),
    "mobilenetv4_conv_small_035",
)


@settings(max_examples=40)
@given(architectures())
def test_any_architecture_runs_and_what_is_written_is_what_is_built(architecture):
    """Widths, kernels, strides, hidden and squeeze widths, gates, activations and skips, read back off the modules."""
    model = build(architecture, num_classes=7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, architecture.resolution, architecture.resolution)).shape == (1, 7)
    assert (model.conv_stem.out_channels, model.conv_stem.stride[0]) == (architecture.stem.width, architecture.stem.stride)
    for blocks, stage in zip(architecture.stages, model.blocks, strict=True):
        for block, module in zip(blocks, stage, strict=True):
            last = module.get_submodule({"conv": "conv", "sep": "conv_pw", "uib": "pw_proj.conv"}.get(block.op, "conv_pwl"))
            assert last.out_channels == block.width
            assert module.has_skip == block.skip
            if block.op == "uib":
                kernels = [dw.conv.kernel_size[0] if hasattr(dw, "conv") else 0 for dw in (module.dw_start, module.dw_mid)]
                strides = [dw.conv.stride[0] for dw in (module.dw_start, module.dw_mid) if hasattr(dw, "conv")]
                assert kernels == [block.start_kernel, block.kernel]
                assert strides == [1, block.stride][2 - len(strides) :]
            else:
                spatial = getattr(module, {"conv": "conv", "fused": "conv_exp"}.get(block.op, "conv_dw"))
                assert spatial.kernel_size == (block.kernel, block.kernel)
                assert spatial.stride == (block.stride, block.stride)
            if block.hidden:
                assert last.in_channels == block.hidden
            if block.squeeze:
                assert module.se.conv_reduce.out_channels == block.squeeze
                assert type(module.se.gate).__name__.lower() == block.gate.replace("_", "")
            elif block.op != "conv":
                assert isinstance(module.se, torch.nn.Identity)


@pytest.mark.parametrize("name", NAMES)
def test_timms_surface(name):
    architecture = nas.reference(name)
    model = build(architecture, num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        features = model.forward_features(x)
        assert torch.equal(model.forward_head(features), model(x))
        final, intermediates = model.forward_intermediates(x)
        assert torch.equal(final, features)
        assert [m.shape[1] for m in intermediates] == [info["num_chs"] for info in model.feature_info]
        assert [64 // m.shape[-1] for m in intermediates] == [info["reduction"] for info in model.feature_info]
        model.reset_classifier(3)
        assert model(x).shape == (1, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_features_only(name, stem_stride):
    architecture = nas.reference(name)
    architecture = replace(architecture, stem=Stem(width=architecture.stem.width, stride=stem_stride))
    model = build(architecture, features_only=True).eval()
    with torch.inference_mode():
        maps = model(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [64 // m.shape[-1] for m in maps] == model.feature_info.reduction()
    assert maps[-1].shape[-1] == (2 if stem_stride == 2 else 4)


def test_dropout_and_stochastic_depth_are_set():
    model = build(nas.reference("efficientnet_b0"), drop_rate=0.25, drop_path_rate=0.2)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert model.drop_rate == 0.25
    assert rates == sorted(rates)
    assert 0.1 < rates[-1] < 0.2
