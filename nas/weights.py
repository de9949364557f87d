"""Weights from a file that a stranger may have made: checked against the network before memory is taken, never unpickled."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import NasError
from nas.networks import Network

T = TypeVar("T")

MAX_CLASSES: Final = 2**20
DTYPES: Final = {torch.float32: "F32", torch.int64: "I64"}  # of timm's networks, as safetensors names them


def with_weights(network: Network, num_classes: int, weights: Path) -> nn.Module:
    """The network with the weights of a safetensors file, in eval mode, channels_last, on the CPU.

    Raises: NasError if the file does not hold them, and nothing else.
    """
    try:  # the header first, so that no file can ask for more memory than the network has
        wrong = _difference(weights, built_empty(network, num_classes).state_dict())
        state = {} if wrong else load_file(weights)
    except (SafetensorError, OSError) as error:
        wrong, state = str(error).strip().partition("\n")[0], {}
    if wrong:
        raise NasError(f"{weights} does not hold the weights of architecture {network.id}: {wrong[:300]}")
    model = network.build(num_classes)
    model.load_state_dict(state)
    return model.eval().to(memory_format=torch.channels_last)


def built_empty(network: Network, num_classes: int) -> nn.Module:
    """The network without memory for its weights, which are on torch's device `meta`.

    Raises: NasError for a number of classes beyond reason.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise NasError(f"{num_classes} classes are not from 1 to {MAX_CLASSES}")
    with torch.device("meta"):
        return network.build(num_classes)


def _difference(weights: Path, expected: Mapping[str, Tensor]) -> str:
    """The first tensor that a file's header has otherwise than expected; empty where there is none."""
    with safe_open(weights, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        given = {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}
    wanted = {name: f"{DTYPES[tensor.dtype]} {list(tensor.shape)}" for name, tensor in expected.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if name not in wanted:
            return f"it has a tensor {name[:100]!r}, which the network has not"
        if name not in given:
            return f"it has no tensor {name!r}"
        if given[name] != wanted[name]:
            return f"its {name} is {given[name][:100]}, and the network's {wanted[name]}"
    return ""


def read_plain(path: Path, most: int, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file of an export.

    Raises: NasError for a link, something that is not a file, or more than `most` bytes.
    """
    if path.is_symlink() or not path.is_file():
        raise NasError(f"{path} is not a file of its own; give a folder of plain files")
    try:
        size = path.stat().st_size
        if size > most:
            raise NasError(f"{path} has {size:,} bytes, and up to {most:,} are read")
        return read(path)
    except OSError as error:
        raise NasError(f"{path} cannot be read: {error.strerror}") from None


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
