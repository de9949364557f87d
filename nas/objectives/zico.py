"""Zero-cost proxy ZiCo: how alike the gradients of 4 batches are in an untrained network; only to look at.

The score is the sum over convolutions and linear layers of log(sum over the layer's weights of mean / standard deviation), both
of the absolute gradient of the cross-entropy over the batches. Weights whose gradient does not vary are left out, as in the
authors' code. BatchNorm normalises each batch by its own statistics, as in training.

Source: arXiv:2301.11300. Its authors' code adds the gradients of each batch to those before, and divides by the deviation of
signed gradients. Here each batch has its own gradients, and mean and deviation are both of their absolute values.
With two batches, single weights whose two gradients are equal by chance would dominate the sum, so these are four of 32 images.
"""

import math
from typing import Final

from nas.objectives import Candidate, Objective

BATCHES: Final = 4


def measure(candidate: Candidate) -> float:
    """The sum over layers; NaN if no gradient varies, as with fewer than 4 images."""
    import torch  # takes seconds; only a worker needs it
    from torch import nn
    from torch.nn import functional

    model, number = candidate.model, len(candidate.images)
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    batches = max(1, min(BATCHES, number // 2))  # BatchNorm needs two images or more
    gradients = []
    for images, labels in zip(candidate.images.chunk(batches), candidate.labels.chunk(batches), strict=True):
        loss = functional.cross_entropy(model(images), labels)
        gradients.append([gradient.abs() for gradient in torch.autograd.grad(loss, weights, materialize_grads=True)])
    layers = [torch.stack(of_batches) for of_batches in zip(*gradients, strict=True)]
    ratios = [layer.mean(0) / layer.std(0, correction=0) for layer in layers]
    sums = [float(ratio[ratio.isfinite()].double().sum()) for ratio in ratios]
    return sum(math.log(total) for total in sums if total > 0) if any(sums) else math.nan


OBJECTIVE: Final = Objective(
    name="zico",
    title="ZiCo",
    direction="maximize",
    needs_training=False,
    measure=measure,
    needs_architecture=False,
    steers=False,
    needs_images=True,
)
