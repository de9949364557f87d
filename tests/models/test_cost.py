"""Costs by arithmetic are those of the built network, to the last digit."""

import random

import pytest
import torch
from hypothesis import given, settings

import nas
from nas.spaces import sample
from tests.conftest import architectures, count

pytestmark = pytest.mark.slow


def mismatch(architecture, num_classes=1000):
    """How the arithmetic and the built network differ; None where they agree."""
    with torch.device("meta"):
        model = nas.build(architecture, num_classes)
    counted, cost = count(model, architecture.resolution), nas.cost(architecture, num_classes)
    ours = (cost.params, cost.macs, cost.activation_bytes)
    theirs = (counted.params, counted.macs, 4 * counted.peak)
    return None if ours == theirs else (architecture.id, ours, theirs)


@settings(max_examples=60)
@given(architectures())
def test_any_architecture(architecture):
    assert mismatch(architecture, num_classes=11) is None


def test_every_reference():
    assert [found for name in nas.references() if (found := mismatch(nas.reference(name)))] == []


@pytest.mark.parametrize("name", ["mnasnet", "mobilenetv3", "mobilenetv4", "efficientnet", "compound"])
def test_40_samples_of_each_space(name):
    space, generator = nas.space(name), random.Random(7)
    drawn = [space.decode(sample(space.parameters, generator)) for _ in range(40)]
    assert [found for architecture in drawn if (found := mismatch(architecture))] == []
