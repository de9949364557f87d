"""When a search by `--trials auto` is over: what a further trial is expected to add to the hypervolume of the front.

`state.py` tells it of every trial, `searcher.py` asks it whether the search is over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nas.runs.pareto import Box, Losses

# Found on recorded searches of experiments/benchmarks/ending.py.
NUM_RECENT: Final = 8  # trials over which the expected growth is averaged
NUM_OUTCOMES: Final = 32  # latest outcomes that say how far to trust it
NUM_ADDED: Final = 48  # latest trials over which what they added is averaged
MIN_CHECKED: Final = 8  # outcomes that had been predicted, before a search may be over
MIN_ADDED: Final = 16  # trials before what they added gives an estimate; the first ones add much
DEVIATIONS: Final = 2.0  # standard deviations that a search which is over adds to the expected growth


@dataclass(frozen=True, slots=True)
class Gain:
    """What a single further trial adds to the hypervolume of the front, as a share of it."""

    mean: float
    deviation: float
    """Its standard deviation."""

    @property
    def high(self) -> float:
        """A share that a further trial hardly exceeds."""
        return self.mean + DEVIATIONS * self.deviation

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} % (± {100 * self.deviation:.2f} %)"


@dataclass(slots=True)
class Growth:
    """How the hypervolume of the front grows from trial to trial of a session, and is expected to grow.

    A sampler with a surrogate, such as FrontierSampler, expects a growth of each trial: their latest mean is the estimate. What
    a single trial adds has about the standard deviation of an exponential distribution, which is its mean. It is wider where
    outcomes strayed from their predictions by more than these said: by the root mean square of outcome minus prediction, in
    predicted standard deviations.

    For any other sampler both come from what the latest 48 trials have added. So they do where that is less: under much noise a
    surrogate expects growth for ever, and the front does not move.

    Only trials of this session count. So a resumed search checks 8 more outcomes before it is over, or 48 where the sampler
    expects nothing. A failed or stopped trial adds nothing; a reused result is no trial.
    """

    expected: list[float] = field(default_factory=list)
    """What the sampler expected each trial to add, in the order of the proposals."""
    surprises: list[float] = field(default_factory=list)
    """Outcome minus prediction of each done trial that the sampler predicted, in predicted standard deviations."""
    added: list[float] = field(default_factory=list)
    """The share by which each ended trial made the hypervolume grow."""
    _highs: list[float] = field(default_factory=list)
    """After each ended trial, what a further one hardly exceeds; infinite while too few outcomes are known."""

    def end(self, added: float | None, surprise: float | None) -> None:
        """Note an ended trial: what it added, None if there was no hypervolume before; its surprise, None if not predicted."""
        if added is not None:
            self.added.append(added)
        if surprise is not None:
            self.surprises.append(surprise)
        gain = self.gain
        is_known = len(self.surprises) >= MIN_CHECKED if self.expected else len(self.added) >= NUM_ADDED
        self._highs.append(gain.high if gain is not None and is_known else math.inf)

    @property
    def gain(self) -> Gain | None:
        """What a further trial is expected to add; None until something is expected or known."""
        gains = []
        if self.expected:
            mean = float(np.mean(self.expected[-NUM_RECENT:]))
            squares = np.square(self.surprises[-NUM_OUTCOMES:] or [0.0])
            gains.append(Gain(mean, mean * max(1.0, float(np.sqrt(squares.mean())))))
        if len(self.added) >= (NUM_ADDED if self.expected else MIN_ADDED):
            latest = self.added[-NUM_ADDED:]
            gains.append(Gain(float(np.mean(latest)), float(np.std(latest))))
        return min(gains, key=lambda gain: gain.high, default=None)

    def is_over(self, min_gain: float, workers: int) -> bool:
        """Whether a further trial has hardly been worth `min_gain`, a share, for as many ended trials as there are workers."""
        latest = self._highs[-workers:]
        return len(latest) == workers and max(latest) < min_gain


def added_share(before: Sequence[Losses], after: Sequence[Losses], finished: Sequence[Losses]) -> float | None:
    """By which share the hypervolume of a front grew, within the box around all `finished`; None where it was empty before."""
    if not before:
        return None
    if set(before) == set(after):
        return 0.0
    box = Box.around(finished)
    return max(0.0, box.share(after) / box.share(before) - 1)
