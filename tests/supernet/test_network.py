"""Every network of a space computes with slices of the whole tensors exactly as timm's module with those weights does."""

import random

import pytest
import torch

from nas.errors import NasError
from nas.models.build import build
from nas.models.slices import parameter_shapes, parts_by_path, slices
from nas.models.zoo import reference, references
from nas.spaces import sample
from nas.supernet.network import SharedNetwork, shared_shapes
from nas.supernet.whole import fits, whole_shapes
from search_spaces.compound import CompoundSpace
from search_spaces.mnasnet import MnasNetSpace
from search_spaces.mobilenetv3 import MobileNetV3Space
from search_spaces.mobilenetv4 import MobileNetV4Space

SMALL = {
    "mobilenetv3": MobileNetV3Space(width_multiple=0.25, head_multiple=0.1, resolutions=(32, 24), stem_stride=1),
    "mnasnet": MnasNetSpace(width_multiple=0.25, resolution=32, stem_stride=1),
    "mobilenetv4": MobileNetV4Space(width_multiple=0.25, resolutions=(32, 24), stem_stride=1),
    "compound": CompoundSpace(min_phi=-3.0, max_phi=-1.0),
}


def networks(space, num, seed=0):
    generator = random.Random(seed)
    return [space.decode(sample(space.parameters, generator)) for _ in range(num)]


@pytest.mark.parametrize("name", list(references())[::6])
def test_shapes_are_those_of_the_built_network(name):
    architecture = reference(name)
    shapes = {
        path + parameter: shape for path, part in parts_by_path(architecture, 10) for parameter, shape in parameter_shapes(part)
    }
    with torch.device("meta"):
        built = build(architecture, 10)
    assert shapes == {parameter: tuple(value.shape) for parameter, value in built.named_parameters()}


def test_a_slice_has_the_first_channels_and_the_middle_of_the_kernel():
    whole = torch.arange(4 * 3 * 5 * 5).reshape(4, 3, 5, 5)
    part = whole[slices((4, 3, 5, 5), (2, 3, 3, 3))]
    assert torch.equal(part, whole[:2, :, 1:4, 1:4])


@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_slices_computes_what_the_built_one_does(name):
    space = SMALL[name]
    shared = SharedNetwork(whole_shapes(space, 10), 10)
    for architecture in networks(space, 4):
        shared.become(architecture)
        built = build(architecture, 10)
        built.load_state_dict(shared.slices_of(architecture), strict=False)
        x = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(shared.train()(x), built.train()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_random_network_fits_into_the_whole_tensors(name):
    whole = whole_shapes(SMALL[name], 10)
    assert all(fits(whole, shared_shapes(architecture, 10)) for architecture in networks(SMALL[name], 500, seed=7))


def test_whole_tensors_are_no_larger_than_some_network_needs():
    space = SMALL["mobilenetv3"]
    whole, needed = whole_shapes(space, 10), {}
    for architecture in networks(space, 500):
        for name, shape in shared_shapes(architecture, 10).items():
            needed[name] = tuple(map(max, shape, needed.get(name, shape)))
    assert sum(needed[name] == shape for name, shape in whole.items()) > 0.9 * len(whole)


def test_gradients_reach_the_slice_alone():
    space = SMALL["mobilenetv3"]
    shared = SharedNetwork(whole_shapes(space, 10), 10)
    (architecture,) = networks(space, 1)
    shared.become(architecture)
    shared.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    needed = shared_shapes(architecture, 10)
    for name, whole in shared.named_parameters():
        if name not in needed:
            assert whole.grad is None
        else:
            outside = whole.grad.clone()
            outside[slices(whole.shape, needed[name])] = 0
            assert not outside.any()


def test_a_network_that_is_too_large_is_refused_in_a_sentence():
    shared = SharedNetwork(whole_shapes(SMALL["mobilenetv3"], 10), 10)
    with pytest.raises(NasError, match=r"does not fit into the shared weights: conv_stem\.weight must be"):
        shared.become(reference("mobilenetv3_large_100"))
