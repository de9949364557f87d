"""Where a training run goes on after it was killed: its last epoch, and the weights of its best."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from nas.errors import NasError
from nas.files import write_atomically
from nas.training.settings import LAST_FILE, Epoch


class CheckpointError(NasError):
    """A checkpoint that cannot be gone on from; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where and how often a training writes down how far it is."""

    folder: Path
    keep_best: bool = True
    """Whether the weights of the best epoch so far are kept beside the last epoch's state."""
    max_share: float = 1.0
    """Share of the time that writing may take; with 1 the state is written after every epoch, however long that takes."""
    initial_weights: str = "new"
    """What the training began with, which a checkpoint to go on from must share."""

    def is_due(self, save_seconds: float, unsaved_seconds: float) -> bool:
        """Whether to write after an epoch, when the last writing took so long and so much has been trained since."""
        return self.max_share >= 1 or save_seconds <= self.max_share * unsaved_seconds


DIGEST_BYTES: Final = 32  # of SHA-256, before what torch.save wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Everything that a step of training changes."""

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state_dict, by name."""
        ema = {} if self.ema is None else {"ema": self.ema.module}
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler} | ema

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the average, where there is one."""
        return self.model if self.ema is None else self.ema.module


def best_file(folder: Path, epoch: int) -> Path:
    """The weights of the best epoch so far."""
    return folder / f"best-{epoch}.safetensors"


def save_last(folder: Path, state: TrainState, identity: Mapping[str, Any], history: Sequence[Epoch]) -> None:
    """Write all of the state over what was there, with what the training is and its epochs; in place at once or not at all."""
    record = {name: part.state_dict() for name, part in state.parts.items()}
    saved = io.BytesIO()
    torch.save(record | {"identity": dict(identity), "history": [asdict(epoch) for epoch in history]}, saved)
    data = saved.getvalue()
    write_atomically(folder / LAST_FILE, hashlib.sha256(data).digest() + data)


def restore_last(folder: Path, state: TrainState, identity: Mapping[str, Any]) -> list[Epoch]:
    """Put the saved state back and give its epochs; none where nothing was saved. Nothing is unpickled but tensors.

    Raises: CheckpointError if it was saved by a training whose `identity` was another, or is damaged.
    """
    file = folder / LAST_FILE
    if not file.is_file():
        return []
    saved = file.read_bytes()
    digest, data = saved[:DIGEST_BYTES], saved[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise CheckpointError(f"checkpoint {file} is damaged; remove {folder} to begin anew")
    record = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    before = record["identity"]
    changed = [name for name in {**before, **identity} if before.get(name) != identity.get(name)]
    if changed:
        was, now = before.get(changed[0]), identity.get(changed[0])
        raise CheckpointError(
            f"{folder} holds the checkpoint of another training: its {changed[0]} was {was}, and now it is {now}; "
            "give another --output, or remove that folder"
        )
    for name, part in state.parts.items():
        part.load_state_dict(record[name])
    return [Epoch(**epoch) for epoch in record["history"]]


def save_weights(model: nn.Module, path: Path) -> None:
    """The state of a model as a safetensors file, in place at once or not at all."""
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}))
