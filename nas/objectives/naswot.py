"""Zero-cost proxy NASWOT: how differently an untrained network codes 128 training images; only to look at.

A network's code of an image has a bit for each activation: whether its input is positive, so for a ReLU whether it passes it on.
SiLU, hard-swish and ReLU6 are cut at 0 too, as they pass on positive inputs and little of negative ones. The gates of
squeeze-and-excite have no bits. The score is log |det K|, where K[i, j] is the number of equal bits of images i and j.

Source: arXiv:2006.04647 and its authors' code, with its 128 images, and BatchNorm by the statistics of these images.
"""

import math
from typing import Any, Final

from nas.models.architecture import ACTIVATIONS
from nas.objectives import Candidate, Objective


def measure(candidate: Candidate) -> float:
    """The log-determinant; -inf if two images have the same code."""
    import torch
    from timm.layers import get_act_layer  # both take seconds to import; only a worker needs them

    model, images = candidate.model, candidate.images
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def count_equal_bits(_: Any, inputs: tuple[Any, ...]) -> None:
        code = (inputs[0] > 0).flatten(1).float()
        kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

    kinds = tuple(get_act_layer(name) for name in ACTIVATIONS)
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_pre_hook(count_equal_bits)
    with torch.no_grad():
        model(images)
    sign, log_determinant = torch.linalg.slogdet(kernel)
    return float(log_determinant) if sign > 0 else -math.inf


OBJECTIVE: Final = Objective(
    name="naswot", title="NASWOT", direction="maximize", needs_training=False, measure=measure, steers=False, needs_images=True
)
