"""One stretch of a run's search, from Ray's start to its end, as a value. Read `driver.py` next."""

from dataclasses import dataclass, field
from pathlib import Path

from nas.experiment import Experiment
from nas.plan import Plan
from nas.recipe import Epoch
from nas.runs import WEIGHTS
from nas.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An experiment, its run folder, and what earlier sessions left there."""

    experiment: Experiment
    run: Path
    plan: Plan
    number: int = 0
    """From 0."""
    past: list[Trial] = field(default_factory=list)
    history: list[tuple[int, Epoch]] = field(default_factory=list)
    """(trial, epoch) of every epoch of the trials in `past`."""

    @property
    def storage(self) -> str:
        """The folder or URI where trials under way keep their checkpoints."""
        storage = self.experiment.storage
        return f"{storage.rstrip('/')}/{self.run.name}" if storage else str(self.run / WEIGHTS)
