"""Zero-cost proxies give, for networks of a few weights, the values that their papers' equations give by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d, Sigmoid
from torch import Tensor, nn

import nas
from nas.models.network import OwnNetwork
from nas.objectives import Candidate, naswot, synflow, zico

NETWORK = OwnNetwork(architecture=nas.reference("mobilenetv3_small_100"))


def candidate(model: nn.Module, images: Tensor, labels: Sequence[int] = ()) -> Candidate:
    return Candidate(network=NETWORK, num_classes=2, model=model, images=images, labels=torch.tensor(labels))


def linear(*rows: Sequence[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight = nn.Parameter(torch.tensor(rows))
    return layer


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish])
def test_naswot_is_the_log_determinant_of_the_numbers_of_equal_bits(kind):
    model = nn.Sequential(linear([1.0, 0.0], [0.0, 1.0]), kind(inplace=True), linear([1.0, 1.0]), kind(), nn.Hardsigmoid())
    images = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    # The first activation has the codes 11, 01, 00. It passes on little of -1, so its two values add up to more than 0 for the
    # first two images alone. So the codes are 111, 011 and 000.
    kernel = [[3, 2, 0], [2, 3, 1], [0, 1, 3]]
    assert naswot.measure(candidate(model, images)) == pytest.approx(math.log(27 - 3 - 12))
    assert np.linalg.det(kernel) == pytest.approx(12)


def test_two_images_of_the_same_code_have_no_naswot():
    assert naswot.measure(candidate(nn.Sequential(linear([1.0]), nn.ReLU()), torch.tensor([[1.0], [2.0]]))) == -math.inf


def test_synflow_is_the_sum_of_all_paths_once_for_each_layer():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.gate = nn.Conv2d(2, 2, 1), Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gate(self.inside(x))

    first, second = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
    first.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]]).view(2, 2, 1, 1))
    second.weight = nn.Parameter(torch.tensor([[5.0, -6.0]]).view(1, 2, 1, 1))
    normalised = BatchNormAct2d(2)
    nn.init.constant_(normalised.weight, 7.0)
    model = nn.Sequential(first, normalised, nn.Hardswish(), Gated(), second)
    # 5 (1 + 2) + 6 (3 + 4) = 57 over all paths of one pixel, for each of two layers.
    assert synflow.measure(candidate(model, torch.randn(3, 2, 1, 1))) == pytest.approx(math.log(2 * 57))


def test_zico_is_the_mean_over_the_deviation_of_absolute_gradients_summed_over_weights():
    # At weights of 0 both classes have probability 1/2, so that the gradients of a batch are x / 2 and -x / 2, for x of 1 to 4.
    # Mean 5/4 and deviation sqrt(5)/4 of their sizes have the ratio sqrt(5), for each of two weights.
    images = torch.tensor([[1.0], [1.0], [2.0], [2.0], [3.0], [3.0], [4.0], [4.0]])
    labels = [0, 0, 1, 1, 0, 0, 1, 1]
    assert zico.measure(candidate(linear([0.0], [0.0]), images, labels)) == pytest.approx(math.log(2 * math.sqrt(5)))


def test_weights_whose_gradient_does_not_vary_do_not_count_in_zico():
    images = torch.tensor([[1.0, 1.0]] * 2 + [[2.0, 1.0]] * 2 + [[3.0, 1.0]] * 2 + [[4.0, 1.0]] * 2)
    model = linear([0.0, 0.0], [0.0, 0.0])
    assert zico.measure(candidate(model, images, [0] * 8)) == pytest.approx(math.log(2 * math.sqrt(5)))
    assert math.isnan(zico.measure(candidate(model, images[:2], [0, 0])))
