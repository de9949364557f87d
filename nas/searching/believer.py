"""Keeps what a surrogate believes of a run's networks up to date, whatever sampler proposes them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import optuna

from nas.runs.beliefs import Belief, write_beliefs
from nas.searching.problem import Problem
from nas.searching.samplers import frontier

if TYPE_CHECKING:
    from nas.sampler.frontier import FrontierSampler

MIN_TRAININGS: Final = 8  # done ones, before what the surrogate believes replaces what was measured
UPDATE_SECONDS: Final = 10.0  # between two updates, as each takes the driver tens of milliseconds


class Believer:
    """Writes the beliefs of a run of trainings into its folder."""

    def __init__(self, run: Path, problem: Problem, study: optuna.Study, *, seed: int, is_own: bool) -> None:
        """`is_own` says that the study's sampler is a FrontierSampler of this problem."""
        self._run, self._problem, self._study, self._seed = run, problem, study, seed
        self._sampler: FrontierSampler | None = study.sampler if is_own else None  # type: ignore[assignment]
        self._updated = -UPDATE_SECONDS

    def update(self, *, at_once: bool = False) -> dict[str, Belief]:
        """Network id → what is believed of its top-1; empty if the last update was a moment ago, unless `at_once`, or too early.

        Raises: NasError if the run folder cannot be written, or the user's space raises.
        """
        done = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if len(done) < MIN_TRAININGS or (time.monotonic() < self._updated + UPDATE_SECONDS and not at_once):
            return {}
        if self._sampler is None:
            self._sampler = frontier(self._problem, self._seed)
        beliefs = {str(network): Belief(*belief) for network, belief in self._sampler.beliefs(self._study).items()}
        write_beliefs(self._run, beliefs)
        self._updated = time.monotonic()
        return beliefs
