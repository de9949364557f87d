"""Every space keeps its contract: what a parameter set means is one network, and a network means one parameter set."""

import math
import random
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch

import nas
from nas.errors import SpaceError
from nas.models.architecture import Head, Stem
from nas.models.stages import Row, make_block, make_stages
from nas.models.zoo import EFFICIENTNET_COEFFICIENTS, MOBILENETV3_LARGE
from nas.plugins import plugin_names
from nas.spaces import num_points, sample
from search_spaces.compound import CompoundSpace, multiples
from search_spaces.efficientnet import EfficientNetSpace
from search_spaces.mnasnet import MnasNetSpace
from search_spaces.mobilenetv3 import MobileNetV3Space
from search_spaces.mobilenetv4 import MobileNetV4Space

DATA = Path(__file__).parents[1] / "data"
SPACES = plugin_names("space")
POINTS = {
    "mnasnet": {"mobilenetv2_100", "semnasnet_100", "mnasnet_100"},
    "mobilenetv3": {
        "mobilenetv3_large_100",
        "mobilenetv3_small_100",
        "tf_mobilenetv3_large_minimal_100",
        "tf_mobilenetv3_small_minimal_100",
    },
    "mobilenetv4": {"mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_large"},
    "efficientnet": {f"efficientnet_{name}" for name in EFFICIENTNET_COEFFICIENTS},
    "compound": {"efficientnet_b0"},
}


@pytest.fixture(params=SPACES)
def space(request):
    return nas.space(request.param)


def test_encode_and_decode_are_each_others_inverse_on_40_samples(space):
    generator = random.Random(1)
    for _ in range(40):
        architecture = space.decode(sample(space.parameters, generator))
        params = space.encode(architecture)
        assert space.decode(params) == architecture
        assert space.encode(space.decode(params)) == params


def test_the_same_seed_gives_the_same_architectures(space):
    one, other = ([space.decode(sample(space.parameters, random.Random(seed))).id for seed in range(20)] for _ in range(2))
    assert one == other


def test_every_sample_builds_and_trains_a_step_with_finite_gradients(space):
    generator = random.Random(2)
    for _ in range(3):
        architecture = space.decode(sample(space.parameters, generator))
        model = nas.build(architecture, num_classes=4)
        side = min(32, architecture.resolution)  # the same layers as at its own resolution, in a test's time
        loss = model(torch.randn(2, 3, side, side)).square().mean()
        loss.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_published_networks_are_points(space):
    assert set(space.references) >= POINTS.get(space.name, set())
    for name, params in space.references.items():
        assert space.decode(params) == nas.reference(name)
        assert space.decode(space.encode(nas.reference(name))) == nas.reference(name)


def test_another_network_is_not_a_point(space):
    with pytest.raises(SpaceError, match=f"is not in space {space.name}"):
        space.encode(nas.reference("fbnetc_100"))


def test_optuna_draws_from_it_what_it_decodes(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        architecture = space.decode(study.ask(dict(space.parameters)).params)
        assert space.decode(space.encode(architecture)) == architecture


def test_size_is_the_product_of_the_choices(space):
    alone = [num_points({name: distribution}) for name, distribution in space.parameters.items()]
    assert all(choices >= 1 for choices in alone)
    assert num_points(space.parameters) == pytest.approx(math.prod(alone))


def test_choices_that_change_nothing_leave_no_trace():
    space = nas.space("mobilenetv3")
    params = space.references["mobilenetv3_large_100"]
    assert params["stage2.depth"] == 2
    for other in ({"stage2.layer3.kernel": 7}, {"stage2.layer4.expansion": 6.0}):
        assert space.decode(params | other).id == space.decode(params).id
    assert space.decode(params | {"stage2.layer2.kernel": 7}).id != space.decode(params).id
    space = nas.space("mnasnet")
    params = space.references["mnasnet_100"] | {"stage3.op": "conv"}
    for other in ({"stage3.expansion": 6}, {"stage3.squeeze": 0.25}):
        assert space.decode(params | other).id == space.decode(params).id
    space = nas.space("mobilenetv4")
    params = space.references["mobilenetv4_conv_small"]
    for other in ({"stage2.layer1.kernel": 5}, {"stage2.depth": 3}, {"stage3.layer7.start_kernel": 5}):
        assert space.decode(params | other).id == space.decode(params).id
    assert space.decode(params | {"stage3.layer6.start_kernel": 5}).id != space.decode(params).id
    space = nas.space("compound")
    ids = {space.decode({"depth_share": d, "width_share": w, "phi": 0.0}).id for d in (0.0, 0.5, 1.0) for w in (0.0, 1.0)}
    assert ids == {nas.reference("efficientnet_b0").id}


def test_any_once_for_all_network_of_the_family_is_a_point_of_mobilenetv3():
    """Depth 2 to 4, kernel 3, 5 or 7 and expansion 3, 4 or 6 a layer, as built here without the space."""
    space, generator = nas.space("mobilenetv3"), random.Random(3)
    for _ in range(40):
        table = [MOBILENETV3_LARGE[0]]
        for rows in MOBILENETV3_LARGE[1:-1]:
            layers = [
                rows[0]._replace(
                    repeats=1,
                    stride=rows[0].stride if layer == 0 else 1,
                    kernel=generator.choice((3, 5, 7)),
                    expansion=generator.choice((3, 4, 6)),
                )
                for layer in range(generator.choice((2, 3, 4)))
            ]
            table.append(tuple(layers))
        table.append(MOBILENETV3_LARGE[-1])
        base = nas.reference("mobilenetv3_large_100")
        architecture = replace(base, stages=make_stages(16, tuple(table)), resolution=generator.choice((128, 160, 192, 224)))
        assert space.decode(space.encode(architecture)) == architecture


@pytest.mark.parametrize("percent", [35, 50])
def test_the_narrow_mobilenetv4s_are_points_of_the_narrow_space(percent):
    space = MobileNetV4Space(width_multiple=percent / 100)
    published = nas.reference(f"mobilenetv4_conv_small_{percent:03}")
    assert space.decode(space.references["mobilenetv4_conv_small"]) == published
    assert space.decode(space.encode(published)) == published


def test_each_kind_of_universal_block_is_a_choice_of_mobilenetv4():
    """Extra depthwise, inverted bottleneck, ConvNeXt and feed-forward."""
    space = nas.space("mobilenetv4")
    params = space.references["mobilenetv4_conv_medium"]
    for start_kernel, kernel, num_convolutions in ((5, 3, 4), (0, 5, 3), (3, 0, 3), (0, 0, 2)):
        network = space.decode(params | {"stage3.layer2.start_kernel": start_kernel, "stage3.layer2.kernel": kernel})
        block = network.stages[2][1]
        assert (block.op, block.start_kernel, block.kernel) == ("uib", start_kernel, kernel)
        assert len(block.convolutions(160)) == num_convolutions
        assert space.decode(space.encode(network)) == network


@pytest.mark.parametrize("phi", [-1.0, 0.5, 1.0, 3.0])
def test_compound_scaling_doubles_the_budget_by_construction(phi):
    for depth_share in (0.0, 0.3, 1.0):
        for width_share in (0.0, 0.45, 1.0):
            depth, width, resolution = multiples({"depth_share": depth_share, "width_share": width_share, "phi": phi})
            assert depth * width**2 * resolution**2 == pytest.approx(2.0**phi)


def test_compound_takes_any_network():
    for base in ("mobilenetv3_large_100", nas.reference("mnasnet_small")):
        space = CompoundSpace(base=base, max_phi=2.0)
        bigger = space.decode({"depth_share": 0.4, "width_share": 0.5, "phi": 1.0})
        assert nas.cost(bigger).macs > 1.5 * nas.cost(space.architecture).macs
        assert space.decode(space.encode(bigger)) == bigger


def test_fields_make_the_small_spaces_that_small_images_need():
    for space in (
        MobileNetV3Space(width_multiple=0.35, resolutions=(32,), stem_stride=1, skeletons=("small",), conventions=("torch",)),
        MobileNetV4Space(width_multiple=0.35, resolutions=(32,), stem_stride=1, skeletons=("small", "medium")),
        MnasNetSpace(width_multiple=0.35, resolution=32, stem_stride=1),
    ):
        assert space.references  # the published choices, at this width and resolution
        for params in space.references.values():
            architecture = space.decode(params)
            assert (architecture.resolution, architecture.stem.stride) == (32, 1)
            assert space.decode(space.encode(architecture)) == architecture  # rounding may make two choices one network


@pytest.mark.parametrize(
    "make",
    [
        lambda: MobileNetV3Space(skeletons=("huge",)),
        lambda: MobileNetV3Space(resolutions=()),
        lambda: MobileNetV3Space(resolutions=(8,)),
        lambda: MobileNetV4Space(skeletons=("hybrid",)),
        lambda: MobileNetV4Space(resolutions=(2000,)),
        lambda: MobileNetV4Space(stem_stride=4),
        lambda: MnasNetSpace(width_multiple=-1.0),
        lambda: MnasNetSpace(activations=("gelu",)),
        lambda: CompoundSpace(base="resnet50"),
        lambda: CompoundSpace(max_phi=7.0),  # B0 at more than 1024 pixels
        lambda: CompoundSpace(min_phi=1.0, max_phi=0.0),
        lambda: CompoundSpace(min_phi=-1.1),  # between the steps
        lambda: EfficientNetSpace(min_resolution=98),
    ],
)
def test_a_wrong_field_is_refused_when_the_space_is_made(make):
    with pytest.raises(nas.NasError):
        make()


def test_a_space_of_ones_own_needs_one_file():
    space = nas.space(str(DATA / "two_networks.py"))
    assert space.decode({"which": "mobilenetv2_050"}) == nas.reference("mobilenetv2_050")
    assert num_points(space.parameters) == 2


def test_the_spaces_have_their_published_sizes():
    assert num_points(nas.space("compound").parameters) == 21 * 21 * 21
    assert num_points(nas.space("efficientnet").parameters) == 286 * 176 * 127
    assert num_points(nas.space("mnasnet").parameters) > 1e13  # the paper's, of five stages
    assert num_points(nas.space("mobilenetv3").parameters) > 1e19  # once-for-all's


def test_blocks_of_a_row_follow_each_networks_squeeze_rule():
    """A quarter of the input (MnasNet, EfficientNet) or of the hidden width, rounded (MobileNetV3)."""
    assert make_block(Row(24, squeeze="input"), 16, 24, 2).squeeze == 4
    assert make_block(Row(24, squeeze="hidden"), 16, 24, 2).squeeze == 24
    assert Stem(width=16, stride=2).width == Head(kind="mobilenetv3", width=16).width
