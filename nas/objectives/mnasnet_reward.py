"""MnasNet's reward: top-1 times a power of latency / target (arXiv:1807.11626, section 3.1).

`OBJECTIVE` has the paper's target of 75 ms and its soft exponents; `mnasnet_reward(8.0)` makes one for another target.
"""

import math
from dataclasses import dataclass
from typing import Final

from nas.errors import NasError
from nas.objectives import Candidate, Objective, latency_ms

PAPER_TARGET_MS: Final = 75.0  # on a Pixel 1, arXiv:1807.11626, section 6.1
SOFT: Final = (-0.07, -0.07)  # twice the latency must bring 5 % more top-1 (relative), arXiv:1807.11626, equation 3
HARD: Final = (0.0, -1.0)  # being faster than the target gains nothing, arXiv:1807.11626, figure 3
SMALL: Final = (-0.15, -0.15)  # for small networks, whose accuracy falls faster, arXiv:1905.02244, section 4.1


@dataclass(frozen=True, slots=True)
class Reward:
    """Top-1 in percent times (latency / target) ^ exponent; the first exponent applies up to the target, the second above it.

    Raises: NasError for a target that is not more than 0, or an exponent above 0, which would reward slowness.
    """

    target_ms: float
    exponents: tuple[float, float] = SOFT

    def __post_init__(self) -> None:
        if not 0 < self.target_ms < math.inf:
            raise NasError(f"target: {self.target_ms} is not more than 0 ms")
        if not all(-math.inf < exponent <= 0 for exponent in self.exponents):
            raise NasError(f"exponents: {self.exponents} are not 0 or less")

    def __call__(self, candidate: Candidate) -> float:
        """The reward of a trained network; its latency comes from the table, or is measured on this machine if there is none."""
        assert candidate.report is not None
        ratio = latency_ms.measure(candidate) / self.target_ms
        power: float = ratio ** self.exponents[0 if ratio <= 1 else 1]
        return candidate.report.val_top1_pct * power


def mnasnet_reward(target_ms: float, exponents: tuple[float, float] = SOFT) -> Objective:
    """The objective for a target in milliseconds: see `Reward`."""
    reward = Reward(target_ms, exponents)
    return Objective(
        name="mnasnet_reward",
        title="MnasNet's reward",
        direction="maximize",
        needs_training=True,
        measure=reward,
        needs_latency=True,
    )


OBJECTIVE: Final = mnasnet_reward(PAPER_TARGET_MS)
