"""Checkpoints, from which a killed training resumes: the state after the last saved epoch, and the best epoch's weights."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors.torch import save
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from nas.errors import NasError, describe_error
from nas.files import write_atomically
from nas.training.settings import LAST_FILE, Epoch


class CheckpointError(NasError):
    """A checkpoint from which the training cannot resume; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where and how often a training saves its state."""

    folder: Path
    """The folder of the checkpoint files."""
    keep_best: bool = True
    """True to save the weights of the best epoch so far, too."""
    max_share: float = 1.0
    """Largest ratio of a save's time to the training time between saves; 1 saves after every epoch, however long that takes."""
    optional: bool = False
    """Whether training goes on, with a warning, where a checkpoint cannot be written."""
    initial_weights: str = "new"
    """Description of the initial weights; a training resumes only from a checkpoint with the same description."""
    images: str = ""
    """Key of the images' fingerprint, for the same reason; empty if the caller knows that they are the same."""

    def is_due(self, save_seconds: float, unsaved_seconds: float) -> bool:
        """True if it is time to save, where the last save took `save_seconds` and training since then took `unsaved_seconds`."""
        return self.max_share >= 1 or save_seconds <= self.max_share * unsaved_seconds


PROCESSES: Final = "number of processes"  # in a training's identity
DIGEST_BYTES: Final = 32  # a SHA-256 digest, which precedes the data of torch.save


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Everything that a training step changes."""

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler

    @property
    def parts(self) -> dict[str, Any]:
        """Name → object with a state_dict."""
        ema = {} if self.ema is None else {"ema": self.ema.module}
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler} | ema

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the moving average, if there is one."""
        return self.model if self.ema is None else self.ema.module


def best_file(folder: Path, epoch: int) -> Path:
    """The file of the best epoch's weights."""
    return folder / f"best-{epoch}.safetensors"


def save_last(folder: Path, state: TrainState, identity: Mapping[str, Any], history: Sequence[Epoch]) -> None:
    """Save the state, the training's identity and its epochs, replacing the last checkpoint atomically."""
    record = {name: part.state_dict() for name, part in state.parts.items()}
    saved = io.BytesIO()
    torch.save(record | {"identity": dict(identity), "history": [asdict(epoch) for epoch in history]}, saved)
    data = saved.getvalue()
    write_atomically(folder / LAST_FILE, hashlib.sha256(data).digest() + data)


def restore_last(folder: Path, state: TrainState, identity: Mapping[str, Any]) -> list[Epoch]:
    """Load the checkpoint into `state`; return its epochs, none without a checkpoint. Unpickles only tensors and plain values.

    Raises: CheckpointError if the checkpoint is damaged, or is of a training with another `identity`.
    """
    file = folder / LAST_FILE
    record = _read(file)
    if record is None:
        return []
    try:
        saved_identity, history = dict(record["identity"]), [Epoch(**epoch) for epoch in record["history"]]
    except (KeyError, TypeError, ValueError):
        raise _other_version(file) from None
    changed = [name for name in {**saved_identity, **identity} if saved_identity.get(name) != identity.get(name)]
    if changed:
        was, now = saved_identity.get(changed[0]), identity.get(changed[0])
        raise CheckpointError(
            f"{folder} holds the checkpoint of another training: its {changed[0]} was {was}, and now it is {now}; "
            "begin in another folder, or remove that one"
        )
    try:
        for name, part in state.parts.items():
            part.load_state_dict(record[name])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {file} does not fit: {describe_error(error)}; remove {folder} to begin anew") from None
    return history


def saved_processes(folder: Path) -> int | None:
    """The number of processes of the training whose checkpoint is in a folder; None without a checkpoint.

    Raises: CheckpointError if it is damaged.
    """
    file = folder / LAST_FILE
    record = _read(file)
    if record is None:
        return None
    try:
        return int(record["identity"][PROCESSES])
    except (KeyError, TypeError, ValueError):
        raise _other_version(file) from None


def _read(file: Path) -> Any:
    """What a checkpoint holds; None without one."""
    if not file.is_file():
        return None
    saved = file.read_bytes()
    digest, data = saved[:DIGEST_BYTES], saved[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise CheckpointError(f"checkpoint {file} is damaged; remove {file.parent} to begin anew")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError):
        raise _other_version(file) from None


def _other_version(file: Path) -> CheckpointError:
    return CheckpointError(f"checkpoint {file} is not of this version; remove {file.parent} to begin anew")


def save_weights(model: nn.Module, path: Path) -> None:
    """Save a model's state dict as a safetensors file, atomically."""
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}))
