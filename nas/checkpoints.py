"""Where a training run goes on after it was killed: its last epoch, and the weights of its best. Read `train.py` next."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, Final

import torch
from safetensors.torch import save
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from nas.errors import NasError

LAST_FILE: Final = "last.pt"
BEST_FILE: Final = "best.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Everything that a step of training changes."""

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the average, where there is one."""
        return self.model if self.ema is None else self.ema.module


def save_last(folder: Path, state: TrainState, progress: Mapping[str, Any]) -> None:
    """Write all of the state, and `progress` in plain values, over what was there; in place at once or not at all."""
    record = {
        "model": state.model.state_dict(),
        "ema": None if state.ema is None else state.ema.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "progress": dict(progress),
    }
    write_whole(folder / LAST_FILE, lambda file: torch.save(record, file))


def restore_last(folder: Path, state: TrainState, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Put the saved state back and give its progress; None where nothing was saved. Nothing is unpickled but tensors.

    Raises: NasError if it was saved by a training whose `identity` was another, or is damaged.
    """
    file = folder / LAST_FILE
    if not file.is_file():
        return None
    try:
        record = torch.load(file, map_location="cpu", weights_only=True)
        progress: dict[str, Any] = record["progress"]
        before = progress["identity"]
    except (OSError, RuntimeError, UnpicklingError, KeyError, TypeError, EOFError):
        raise NasError(f"checkpoint {file} is damaged; remove {folder} to begin anew") from None
    changed = [name for name in {**before, **identity} if before.get(name) != identity.get(name)]
    if changed:
        was, now = before.get(changed[0]), identity.get(changed[0])
        raise NasError(
            f"{folder} holds the checkpoint of another training: its {changed[0]} was {was}, and now it is {now}; "
            "give another --output, or remove that folder"
        )
    state.model.load_state_dict(record["model"])
    if state.ema is not None:
        state.ema.module.load_state_dict(record["ema"])
    state.optimizer.load_state_dict(record["optimizer"])
    state.scaler.load_state_dict(record["scaler"])
    return progress


def save_weights(model: nn.Module, path: Path) -> None:
    """The state of a model as a safetensors file, in place at once or not at all."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    write_whole(path, lambda file: file.write(data))


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that at any moment, even after a power cut, its place holds the old or the new one.

    Raises: NasError if the disk is full or the folder cannot be written; the old one stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save says RuntimeError when the disk is full
        partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise NasError(f"{path} cannot be written: {reason}; what was saved before is kept") from None
