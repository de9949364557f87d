"""Weights: from a file that a stranger may have made, checked against the network before memory is taken; or timm's own."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import NasError, describe_error
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
        if given.get(name) != wanted.get(name):
            has, needs = given.get(name, "missing")[:100], wanted.get(name, "missing")
            return f"its tensor {name[:100]!r} is {has}, and the network's is {needs}"
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


def classifier_of(model: nn.Module) -> set[str]:
    """The names of the classifier's parameters in one of timm's modules."""
    found: Any = model.get_classifier()  # type: ignore[operator]  # of every module of timm's
    heads = found if isinstance(found, tuple | list) else (found,)
    places = [name for name, module in model.named_modules() if any(module is head for head in heads)]
    return {name for name in model.state_dict() if name.rpartition(".")[0] in places}


def load_first(model: nn.Module, state: Mapping[str, Tensor], *, classifier: bool) -> None:
    """Put first weights into a new model: all of `state`, whose classifier is left out where `classifier` is False."""
    left_out = set() if classifier else classifier_of(model)
    kept = {name: value for name, value in state.items() if name not in left_out}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert set(missing) <= left_out, missing
    assert not unexpected, unexpected


def pretrained(network: Network) -> tuple[str, dict[str, Tensor]]:
    """(timm's name of the weights, timm's weights of the network but for the classifier); timm downloads and keeps them.

    One of timm's own networks has its own, an architecture those of the published network that it is, at any resolution.

    Raises: NasError where timm has no weights for it, or they cannot be downloaded.
    """
    name = network.timm_name
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise NasError(f"timm has no weights for {name}; begin with --weights new, or from an export's folder")
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise NasError(
            f"timm's weights of {name} are not on this machine and cannot be downloaded ({describe_error(error)}); "
            "run the same command once where the internet is, or begin with --weights new"
        ) from None
    left_out = classifier_of(model)
    state = {key: value for key, value in model.state_dict().items() if key not in left_out}
    return f"{name}.{config.tag}" if config.tag else name, state
