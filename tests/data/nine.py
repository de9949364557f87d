"""Nine networks, a kernel and a width, of which three fail: one kills its process, one has no memory, one gives no number."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution
from shades import Shades

from nas import Architecture, Experiment, Objective, SearchSpace, TrainSettings, objective, reference
from nas.objectives import Candidate


@dataclass(frozen=True, kw_only=True)
class Nine(SearchSpace):
    """Nine networks: a kernel and a width."""

    resolution: int = 16
    """Side of the input, pixels."""

    name = "nine"
    references: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    parameters: ClassVar[Mapping[str, BaseDistribution]] = {
        "kernel": CategoricalDistribution((3, 5, 7)),
        "width": CategoricalDistribution((8, 16, 24)),
    }

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network of a kernel and a width."""
        base = reference("mobilenetv2_035")
        (block,) = base.stages[0]
        second = replace(base.stages[1][0], kernel=params["kernel"], width=params["width"])
        third = replace(base.stages[2][0], hidden=params["width"] * 6)
        return replace(base, resolution=self.resolution, stages=((block,), (second,), (third,)))

    def encode(self, architecture: Architecture) -> dict[str, Any]:
        """The kernel and the width of a network."""
        block = architecture.stages[1][0]
        return {"kernel": block.kernel, "width": block.width}


def measure_confidence(candidate: Candidate) -> float:
    """One minus the last training loss, or what goes wrong with a wide kernel."""
    block = candidate.architecture.stages[1][0]
    if (block.kernel, block.width) == (7, 8):
        os.kill(os.getpid(), signal.SIGKILL)
    if (block.kernel, block.width) == (7, 16):
        raise MemoryError("no room")
    if (block.kernel, block.width) == (7, 24):
        return float("nan")
    assert candidate.report is not None
    return 1.0 - candidate.report.history[-1].train_loss


def measure_kernel(candidate: Candidate) -> float:
    """Side of the kernel of the second stage."""
    return candidate.architecture.stages[1][0].kernel


CONFIDENCE: Final = Objective(name="confidence_nat", direction="maximize", needs_training=True, measure=measure_confidence)
KERNEL: Final = Objective(name="kernel_px", direction="minimize", needs_training=False, measure=measure_kernel)
EXPERIMENT: Final = Experiment(
    space=Nine(),
    dataset=Shades(),
    objectives=(objective("val_top1_pct"), CONFIDENCE, KERNEL),
    train=TrainSettings(epochs=2, batch_size=16),
    trials=9,
    workers=2,
)
