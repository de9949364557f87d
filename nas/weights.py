"""Weights from a file that a stranger may have made: checked against the network before memory is taken, never unpickled."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import NasError
from nas.networks import Network

T = TypeVar("T")

MAX_HEADER: Final = 2**24  # bytes; that of the largest published network takes 0.3 MB
MAX_CLASSES: Final = 2**20
DTYPES: Final = {  # safetensors' names
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def with_weights(network: Network, num_classes: int, weights: Path) -> nn.Module:
    """The network with the weights of a safetensors file, in eval mode, channels_last, on the CPU.

    Raises: NasError if the file does not hold them, and nothing else.
    """
    state: dict[str, Tensor] = {}
    try:  # the header first, so that no file can ask for more memory than the network has
        wrong = _difference(weights, built_empty(network, num_classes).state_dict())
        state = {} if wrong else load_file(weights)
    except (SafetensorError, OSError) as error:
        wrong = str(error).strip().partition("\n")[0]
    if wrong:
        raise NasError(f"{weights} does not hold the weights of architecture {network.id}: {wrong}")
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
    """What a file's header has otherwise than expected; empty where nothing."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size):
            return f"its header would be {length:,} bytes of {size:,}, of which up to {MAX_HEADER:,} are read"
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        return "its header is damaged"
    header.pop("__metadata__", None)
    wanted = 8 + length + sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    differences = (_of_tensor(name, header.get(name), expected.get(name)) for name in sorted({*header, *expected}))
    first = next(filter(None, differences), "")
    return first or ("" if size == wanted else f"it has {size:,} bytes, and the network's weights take {wanted:,}")


def _of_tensor(name: str, given: Any, expected: Tensor | None) -> str:
    """What an entry of the header has otherwise than a tensor."""
    if expected is None:
        return f"it has a tensor {name[:100]!r}, which the network has not"
    if not isinstance(given, dict):
        return f"it has no tensor {name!r}"
    dtype, shape = DTYPES[expected.dtype], list(expected.shape)
    if given.get("dtype") != dtype or given.get("shape") != shape:
        return f"its {name} is {str(given.get('dtype'))[:20]} {str(given.get('shape'))[:80]}, and the network's {dtype} {shape}"
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
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
