"""Zero-cost proxy SynFlow: how much flows through the absolute weights of an untrained network; only to look at.

R is the sum of the outputs for an image of ones, with every weight replaced by its absolute value, without BatchNorm, and with
activations that pass on their input, as a ReLU does to what is positive. The gates of squeeze-and-excite are open (1). So R is
the sum over all paths of the product of their weights. The score is the logarithm of the sum of weight times dR/dweight over the
weights of all convolutions and linear layers. The logarithm keeps the ranking; the sums themselves reach 10^120.

Source: arXiv:2006.05467; as the score of a network, and without BatchNorm: arXiv:2101.08134 and its authors' code.
"""

import math
from typing import TYPE_CHECKING, Final

from nas.models.architecture import ACTIVATIONS
from nas.objectives import Candidate, Objective

if TYPE_CHECKING:
    from torch import nn


def measure(candidate: Candidate) -> float:
    """The logarithm of the sum over all weights; -inf if nothing flows through."""
    import torch  # takes seconds; only a worker needs it
    from torch import nn

    model = candidate.model
    _make_linear(model)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.abs_()
    model(torch.ones_like(candidate.images[:1], dtype=torch.float64)).sum().backward()
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    flows = [(weight * weight.grad).sum() for weight in weights if weight.grad is not None]
    return float(torch.stack(flows).sum().log().detach())


def _make_linear(model: "nn.Module") -> None:
    """Leave out BatchNorm with the activation in it, and activations; open the gates."""
    from timm.layers import Sigmoid, get_act_layer
    from torch import nn

    passing = (nn.BatchNorm2d, *(get_act_layer(name) for name in ACTIVATIONS))
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, passing):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, Sigmoid | nn.Hardsigmoid):
                setattr(parent, name, nn.Threshold(math.inf, 1.0))


OBJECTIVE: Final = Objective(
    name="synflow",
    title="SynFlow, log",
    direction="maximize",
    needs_training=False,
    measure=measure,
    steers=False,
    needs_images=True,
)
