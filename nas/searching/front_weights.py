"""The weights that a run keeps: by default those of the networks that are or may yet be on its front."""

import logging
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from nas.errors import NasError, is_disk_fault
from nas.files import atomic_file
from nas.runs.pareto import Losses, dominates
from nas.runs.run_folder import weights_file
from nas.searching.checkpoint_storage import TrialFolder

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class FrontWeights:
    """Keeps the weights of the trials on the front, and removes those of the others.

    What is believed of noisy trainings changes with every further one. Where the front goes by that, the weights of a dominated
    trial stay until `prune`.
    """

    run: Path
    folder: Callable[[int], TrialFolder]
    """Trial → the folder of its checkpoints while it runs."""
    keep_all: bool
    trained: bool
    """True if trials train, and so have weights."""
    believed: bool = False
    """True if the front goes by what is believed of the trainings."""
    pinned: set[int] = field(default_factory=set)
    """Baselines in the space: their weights stay, since new limits can put them on the front, and they are not trained again."""
    front: dict[int, Losses] = field(default_factory=dict)
    """Trial → losses, of the finished trials that no other dominates."""
    finished: dict[int, Losses] = field(default_factory=dict)
    """Trial → losses, of all finished feasible trials."""

    def weights(self, trial: int) -> Path:
        """The file of a finished trial's weights."""
        return weights_file(self.run, trial)

    def add(self, trial: int, losses: Losses) -> None:
        """Add a finished trial to the front unless one dominates it; trials that it dominates leave the front."""
        self.finished[trial] = losses
        if any(dominates(other, losses) for other in self.front.values()):
            return
        for number in [number for number, other in self.front.items() if dominates(losses, other)]:
            del self.front[number]
            if not (self.keep_all or self.believed or number in self.pinned):
                self.weights(number).unlink(missing_ok=True)
        self.front[trial] = losses

    def prune(self, wanted: Collection[int]) -> None:
        """Remove the weights of finished trials that are not wanted."""
        for trial in self.finished.keys() - set(wanted) - self.pinned if not self.keep_all else ():
            self.weights(trial).unlink(missing_ok=True)

    def done(self, trial: int, losses: Losses | None, *, weights: Path | None = None) -> None:
        """Keep a finished trial's weights if it is on the front; `weights` is their file, by default that in its folder.

        `losses` is None for a trial that cannot be on the front.
        """
        if losses is not None:
            self.add(trial, losses)
        self.collect(trial, weights=weights)

    def collect(self, trial: int, *, weights: Path | None = None, again: bool = False) -> None:
        """Copy an ended trial's weights to the run if they are wanted and missing there; remove the trial's folder.

        With `again` the trial is of an earlier session, which may have pruned its weights.

        Raises: NasError if the disk cannot be written; the trial's folder then stays.
        """
        wanted = self.keep_all or trial in self.front or trial in self.pinned or (self.believed and trial in self.finished)
        pruned = again and self.believed and not self.folder(trial).has_weights()
        if self.trained and wanted and not pruned and not self.weights(trial).is_file():
            try:
                self._copy_weights(trial, weights)
            except NasError as error:
                if is_disk_fault(str(error)):  # the trial's folder keeps them for the next session
                    raise
                # a trial's row is worth more than its weights, so the search continues
                logger.warning("the weights of trial %d are not kept: %s", trial, error)
        self.ended(trial)

    def _copy_weights(self, trial: int, weights: Path | None) -> None:
        if weights is None:
            self.folder(trial).take_weights(self.weights(trial))
        elif weights.is_file():
            with atomic_file(self.weights(trial)) as partial:
                shutil.copyfile(weights, partial)

    def ended(self, trial: int) -> None:
        """Remove the folder of an ended trial."""
        if self.trained:
            try:
                self.folder(trial).remove()
            except NasError as error:
                logger.warning("%s", error)
