"""Further trainings of a run's networks, of scored ones or with another seed: one JSON file each under `alone/`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from nas.files import write_atomically
from nas.records import parse

ALONE: Final = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAlone:
    """A network's training from new weights with the run's settings, and what it reached on the search validation part."""

    trial: int
    """The trial of the network."""
    seed: int
    """Seed of the initial weights and of the batches."""
    epochs: int
    val_top1_pct: float
    """Top-1 after the last epoch, percent."""
    val_loss: float
    """Mean cross-entropy after the last epoch, nat."""
    seconds: float
    """Time of training and validation, seconds."""
    device: str
    """Model name of the device."""
    precision: str
    """float32, bfloat16 or float16."""


RECORD: Final = TypeAdapter(TrainedAlone)


def alone_file(run: Path, trial: int, seed: int) -> Path:
    """The file of a training's record; it exists once the training has ended."""
    return run / ALONE / f"trial{trial}-seed{seed}.json"


def write_alone(run: Path, training: TrainedAlone) -> None:
    """Write the record of a training that has ended, atomically.

    Raises: NasError if it cannot be written.
    """
    write_atomically(alone_file(run, training.trial, training.seed), json.dumps(asdict(training), indent=2) + "\n")


def read_alone(run: Path) -> list[TrainedAlone]:
    """A run's further trainings that have ended, sorted by trial and seed.

    Raises: NasError for a damaged record.
    """
    files = (run / ALONE).glob("trial*-seed*.json")
    return sorted((parse(RECORD, file.read_bytes(), str(file)) for file in files), key=lambda one: (one.trial, one.seed))
