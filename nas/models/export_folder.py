"""The export folder of a network: its files, and how to load it again.

`architecture.json` is the architecture's canonical text, `model.safetensors` has the weights; `config.json`, `model.py`,
`model.pt2` and `model.onnx` run in timm, torch and ONNX Runtime without this project, `images.py` opens image files as the
training did, and timm's reader takes the classes of `class_map.txt`; `card.json` and `README.md` describe it.
`SHA256SUMS` has the digest of every other file, as `sha256sum --check` reads it.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import NasError
from nas.models.network import ARCHITECTURE_FILE, CARD_FILE, WEIGHTS_FILE, Network, parse_network
from nas.models.standalone import feature_maps

CONFIG_FILE: Final = "config.json"
MODEL_FILE: Final = "model.py"
IMAGES_FILE: Final = "images.py"
CLASS_MAP_FILE: Final = "class_map.txt"
TORCH_FILE: Final = "model.pt2"
ONNX_FILE: Final = "model.onnx"
INT8_FILE: Final = "model_int8.onnx"
README_FILE: Final = "README.md"
SUMS_FILE: Final = "SHA256SUMS"
REQUIRED: Final = (SUMS_FILE, ARCHITECTURE_FILE, CARD_FILE, WEIGHTS_FILE)
USABLE: Final = (CONFIG_FILE, MODEL_FILE, IMAGES_FILE, CLASS_MAP_FILE, TORCH_FILE, ONNX_FILE, INT8_FILE, README_FILE)
FILES: Final = frozenset((*REQUIRED, *USABLE))
MAX_BYTES: Final = 2**22  # largest text file that is read
MAX_CLASSES: Final = 2**20
DTYPES: Final = {torch.float32: "F32", torch.int64: "I64"}  # types in timm's networks, by safetensors' names

T = TypeVar("T")
logger = logging.getLogger(__name__)


def check_replaceable(target: Path) -> None:
    """Check that `target` is absent, an empty folder, or an earlier export, which a new export may replace.

    Raises: NasError if it is anything else.
    """
    if not target.exists():
        return
    names = {entry.name for entry in target.iterdir()} - {"__pycache__"} if target.is_dir() else {"a file"}
    if names and not {ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE} <= names <= FILES:
        raise NasError(f"{target} is there already and is not an export; give another folder with --output")


def load(folder: str | PathLike[str], *, features_only: bool = False) -> nn.Module:
    """The network of an exported folder with its weights, in eval mode, on the CPU.

    With `features_only` its output is a list of feature maps, one per reduction, for a user's own heads. `card.json` says how to
    normalise images. Nothing in the folder is unpickled or run, and the header of the weights' file must match the
    architecture before memory is allocated for them.

    Shapes: (N, 3, resolution, resolution) → (N, classes).
    Raises: NasError, and no other error, if a file is missing, damaged, not a plain file, or does not match the others.
    """
    source = Path(folder).expanduser()
    network, classes, _ = read_export(source)
    model = with_weights(network, len(classes), source / WEIGHTS_FILE)
    return feature_maps(model).eval() if features_only else model


def read_export(source: Path) -> tuple[Network, list[str], dict[str, Any]]:
    """(the network of an exported folder, its classes, its card).

    Raises: NasError if network and card do not match each other, or a file does not match its digest.
    """
    for file in REQUIRED:
        if not (source / file).exists():
            raise NasError(f"{source} is not an exported network: it has no {file}; `nas export` writes one")
    digests = read_digests(source / SUMS_FILE)
    for name in (ARCHITECTURE_FILE, CARD_FILE):
        _check_digest(source / name, digests.get(name), MAX_BYTES)
    try:
        network = parse_network(_read_text(source / ARCHITECTURE_FILE))
    except NasError as error:
        raise NasError(f"{source / ARCHITECTURE_FILE}: {error}") from None
    card, classes = _read_card(source / CARD_FILE)
    if card["id"] != network.id:
        raise NasError(f"{source}: the card is of architecture {str(card['id'])[:100]!r} and {ARCHITECTURE_FILE} is {network.id}")
    most = 32 * sum(parameter.numel() for parameter in built_empty(network, len(classes)).parameters()) + 2**26
    for name in sorted(FILES - {SUMS_FILE, ARCHITECTURE_FILE, CARD_FILE}):
        if (source / name).is_symlink() or (source / name).exists():
            _check_digest(source / name, digests.get(name), most)
    return network, classes, card


def write_digests(folder: Path) -> None:
    """Write SHA256SUMS, with a line for every other file of the export."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(FILES - {SUMS_FILE}) if (folder / name).is_file()]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def read_digests(file: Path) -> dict[str, str]:
    """File name → SHA-256."""
    lines = [re.fullmatch(r"([0-9a-f]{64})  (\S+)", line) for line in _read_text(file).split("\n")[:-1]]
    digests = {line[2]: line[1] for line in lines if line is not None}
    if len(digests) < len(lines) or not digests.keys() <= FILES:
        raise NasError(f"{file} is damaged: not each of its lines has the SHA-256 of a file; export the network again")
    return digests


def _check_digest(file: Path, digest: str | None, most: int) -> None:
    """Check that a file of at most `most` bytes is as it was exported; a change in README.md, which people edit, is logged."""
    if read_plain(file, most, sha256) == digest:
        return
    sentence = f"{file} is not what was exported: its SHA-256 is another than in {SUMS_FILE}"
    if file.name != README_FILE:
        raise NasError(f"{sentence}; export the network again")
    logger.warning("%s", sentence)


def _read_text(file: Path) -> str:
    try:
        return read_plain(file, MAX_BYTES, Path.read_bytes).decode()
    except UnicodeDecodeError:
        raise NasError(f"{file} is damaged: it is not a text; export the network again") from None


def _read_card(file: Path) -> tuple[dict[str, Any], list[str]]:
    """(the card, its classes), with every field checked, as the file may come from anybody."""
    try:
        card = dict(json.loads(_read_text(file)))
        classes, how, _ = card["classes"], card["preprocess"], card["id"]
        numbers = [*how["mean"], *how["std"]]
        whole = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        whole = whole and len(numbers) == 6 and all(isinstance(number, int | float) for number in numbers)
        whole = whole and min(how["std"]) > 0
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise NasError(f"{file} is damaged: it has no id, classes, or mean and std of images; export the network again")
    return card, classes


def with_weights(network: Network, num_classes: int, weights: Path) -> nn.Module:
    """The network with the weights of a safetensors file, in eval mode, channels_last, on the CPU.

    Raises: NasError, and no other error, if the file does not hold this network's weights.
    """
    try:  # the header first, so that no file can take more memory than the network needs
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
    """The network on torch's device `meta`, so that its weights take no memory.

    Raises: NasError if the number of classes is not from 1 to MAX_CLASSES.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise NasError(f"{num_classes} classes are not from 1 to {MAX_CLASSES}")
    with torch.device("meta"):
        return network.build(num_classes)


def _difference(weights: Path, expected: Mapping[str, Tensor]) -> str:
    """A sentence on the first tensor in a file's header that differs from the expected one; empty if none does."""
    with safe_open(weights, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        header = {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}
    wanted = {name: f"{DTYPES[tensor.dtype]} {list(tensor.shape)}" for name, tensor in expected.items()}
    for name in sorted(wanted.keys() | header.keys()):
        if header.get(name) != wanted.get(name):
            has, needs = header.get(name, "missing")[:100], wanted.get(name, "missing")
            return f"its tensor {name[:100]!r} is {has}, and the network's is {needs}"
    return ""


def read_plain(path: Path, most: int, read: Callable[[Path], T]) -> T:
    """The result of `read` for a file of an export.

    Raises: NasError for a link, a path that is not a file, a file above `most` bytes, or one that cannot be read.
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
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
