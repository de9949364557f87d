"""Scaling follows EfficientNet's rounding rules: B0 by the published coefficients is B1 to B7."""

import pytest

import nas
from nas.models.zoo import EFFICIENTNET_COEFFICIENTS


@pytest.mark.parametrize("name", EFFICIENTNET_COEFFICIENTS)
def test_b0_by_the_published_coefficients_is_each_of_the_family(name):
    width, depth, resolution = EFFICIENTNET_COEFFICIENTS[name]
    b0 = nas.reference("efficientnet_b0")
    assert nas.scale(b0, width=width, depth=depth, resolution=resolution) == nas.reference(f"efficientnet_{name}")
    assert nas.scale(b0, depth, width, resolution) == nas.reference(f"efficientnet_{name}")
    assert nas.scale(b0, width=width, depth=depth, resolution=resolution / 224) == nas.reference(f"efficientnet_{name}")


@pytest.mark.parametrize("name", nas.references())
def test_scaling_by_one_changes_nothing(name):
    assert nas.scale(nas.reference(name)) == nas.reference(name)


@pytest.mark.parametrize("percent", [35, 50, 75, 140])
def test_mobilenetv2s_width_multiples(percent):
    scaled = nas.scale(nas.reference("mobilenetv2_100"), width=percent / 100)
    published = nas.reference(f"mobilenetv2_{percent:03}")
    assert scaled.stages == published.stages
    assert scaled.stem == published.stem


@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "mobilenetv3_small_100"])
def test_mobilenetv3s_width_multiples_keep_its_squeeze_rule(name):
    scaled = nas.scale(nas.reference(name), width=0.75)
    assert [[b.width for b in s] for s in scaled.stages] == [
        [b.width for b in s] for s in nas.reference(name.replace("100", "075")).stages
    ]
    assert all(block.squeeze % 8 == 0 for stage in scaled.stages for block in stage)


def test_a_deeper_stage_repeats_its_last_block_and_keeps_the_last_convolution_of_mobilenetv3_single():
    base = nas.reference("mobilenetv3_large_100")
    deep = nas.scale(base, depth=2)
    assert [len(stage) for stage in deep.stages] == [2, 4, 6, 8, 4, 6, 1]
    assert deep.stages[3][-1] == base.stages[3][-1]


def test_half_and_double_depth_round_up():
    depths = [len(stage) for stage in nas.scale(nas.reference("efficientnet_b0"), depth=0.5).stages]
    assert depths == [1, 1, 1, 2, 2, 2, 1]


@pytest.mark.parametrize(
    "multiples",
    [
        {"depth": 0},
        {"width": -1},
        {"resolution": float("nan")},
        {"width": float("inf")},
        {"width": 1e307},
        {"depth": 3e6},
    ],
)
def test_a_multiple_that_is_not_positive_is_refused(multiples):
    with pytest.raises(nas.NasError, match="is not a positive number up to"):
        nas.scale(nas.reference("efficientnet_b0"), **multiples)


def test_a_network_beyond_the_bounds_is_refused():
    with pytest.raises(nas.NasError, match="resolution: 2240 is not a whole number from 16 to 1024"):
        nas.scale(nas.reference("efficientnet_b0"), resolution=10.0)
