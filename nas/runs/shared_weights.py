"""The record of how a run came by its shared weights, which `RUN/shared/training.json` holds. Needs neither torch nor Ray."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from nas.errors import NasError
from nas.files import write_atomically
from nas.records import parse
from nas.runs.run_folder import SHARED

RECORD_FILE: Final = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRecord:
    """The training of a run's shared weights. It stays when `nas clean` removes the weights."""

    train_loss: tuple[float, ...]
    """Mean cross-entropy of each epoch."""
    seconds: float
    """Time of the training, seconds; epochs before a resume count too."""
    processes: int
    device: str
    """Model name of the device of each process."""
    precision: str
    """float32, bfloat16 or float16."""
    seed: int
    copied_from: str | None = None
    """The name of the run that trained them; None for this run."""

    @property
    def epochs(self) -> int:
        """Epochs of the training."""
        return len(self.train_loss)


RECORD: Final = TypeAdapter(SharedRecord)


def read_shared_record(run: Path) -> SharedRecord | None:
    """The record of a run's shared weights; None if the run has none, or not yet.

    Raises: NasError if it is damaged.
    """
    file = run / SHARED / RECORD_FILE
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NasError(f"{file} cannot be read: {error.strerror}") from None
    return parse(RECORD, text, str(file))


def write_shared_record(run: Path, record: SharedRecord) -> None:
    """Write the record of a run's shared weights, atomically.

    Raises: NasError if it cannot be written.
    """
    write_atomically(run / SHARED / RECORD_FILE, json.dumps(asdict(record), indent=2) + "\n")
