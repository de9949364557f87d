"""Which weights a run keeps: by default those of the networks on its front."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nas.errors import NasError
from nas.files import atomic_file
from nas.runs.folder import weights_file
from nas.runs.pareto import Box, Losses, dominates
from nas.searching.storage import TrialFolder

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Keeper:
    """The weights of a run while it is searched."""

    run: Path
    folder: Callable[[int], TrialFolder]
    """Trial → where it keeps its checkpoints while it is under way."""
    keep_all: bool
    trained: bool
    """Whether trials have weights at all."""
    pinned: set[int] = field(default_factory=set)
    """Trials whose weights are kept whatever others do: baselines, which are not trained again when limits change."""
    front: dict[int, Losses] = field(default_factory=dict)
    """Trial → losses, of the finished trials that no other finished one dominates."""
    found: list[Losses] = field(default_factory=list)
    """Losses of all finished trials that could be on the front."""

    def weights(self, trial: int) -> Path:
        """Where the weights of a finished trial are kept."""
        return weights_file(self.run, trial)

    def note(self, trial: int, losses: Losses) -> None:
        """Put a finished trial on the front, if it belongs there; those that it dominates leave it."""
        self.found.append(losses)
        if any(dominates(other, losses) for other in self.front.values()):
            return
        for number in [number for number, other in self.front.items() if dominates(losses, other)]:
            del self.front[number]
            if not self.keep_all and number not in self.pinned:
                self.weights(number).unlink(missing_ok=True)
        self.front[trial] = losses

    def done(self, trial: int, losses: Losses | None, *, weights: Path | None = None) -> None:
        """Keep the weights of a trial that has finished, if it is on the front; they come from its folder, or from `weights`.

        Without `losses` it is no candidate for the front.
        """
        if losses is not None:
            self.note(trial, losses)
        self.settle(trial, weights=weights)

    def settle(self, trial: int, *, weights: Path | None = None) -> None:
        """Keep the weights of an ended trial that are wanted and not there yet, and remove what it had written on its way."""
        wanted = self.keep_all or trial in self.front or trial in self.pinned
        if self.trained and wanted and not self.weights(trial).is_file():
            self._take(trial, weights)
        self.ended(trial)

    def hypervolume(self) -> float:
        """The share that the front dominates of the box around all that was found, 0 to 1."""
        return Box.around(self.found).share(self.front.values())

    def _take(self, trial: int, weights: Path | None) -> None:
        """A trial's row is worth more than its weights: what cannot be kept is told, and the search goes on."""
        try:
            if weights is None:
                self.folder(trial).take_weights(self.weights(trial))
            elif weights.is_file():
                with atomic_file(self.weights(trial)) as partial:
                    shutil.copyfile(weights, partial)
        except NasError as error:
            logger.warning("the weights of trial %d are not kept: %s", trial, error)

    def ended(self, trial: int) -> None:
        """Remove what a trial that has ended had written on its way."""
        if self.trained:
            try:
                self.folder(trial).remove()
            except NasError as error:
                logger.warning("%s", error)
