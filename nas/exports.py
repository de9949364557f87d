"""The folder that a network leaves in: its files, and loading it again.

`architecture.json` is the canonical text, `model.safetensors` the weights; `config.json`, `model.py`, `model.pt2` and
`model.onnx` run in timm, torch and ONNX Runtime without this project; `card.json` and `README.md` say what is known of it.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any, Final

from torch import nn

from nas.errors import NasError
from nas.networks import ARCHITECTURE_FILE, CARD_FILE, WEIGHTS_FILE, Network, parse_network
from nas.proof import INT8_FILE
from nas.standalone import feature_maps
from nas.weights import built_empty, read_plain, sha256, with_weights

CONFIG_FILE: Final = "config.json"
MODEL_FILE: Final = "model.py"
TORCH_FILE: Final = "model.pt2"
ONNX_FILE: Final = "model.onnx"
README_FILE: Final = "README.md"
BINARY_FILES: Final = (WEIGHTS_FILE, TORCH_FILE, ONNX_FILE, INT8_FILE)
FILES: Final = frozenset((*BINARY_FILES, ARCHITECTURE_FILE, CONFIG_FILE, MODEL_FILE, CARD_FILE, README_FILE))
MAX_BYTES: Final = 2**22  # of a card, or an architecture's text


def is_export(folder: Path) -> bool:
    """Whether a folder holds what an export writes and nothing else, so that a new one may take its place."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()} - {"__pycache__"}
    return not names or (names <= FILES and {ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE} <= names)


def check_replaceable(target: Path) -> None:
    """Refuse a place for an export where something else is.

    Raises: NasError.
    """
    if target.exists() and not is_export(target):
        raise NasError(f"{target} is there already and is not an export; give another folder with --output")


def load(folder: str | PathLike[str], *, features_only: bool = False) -> nn.Module:
    """The network of an exported folder with its weights, in eval mode, on the CPU.

    With `features_only` it gives the list of its feature maps, one a reduction, for heads of one's own. `card.json` says how to
    normalise what it reads. Nothing in the folder is unpickled or run, and the weights are held against the architecture before
    memory is taken for them.

    Shapes: (N, 3, resolution, resolution) → (N, classes).
    Raises: NasError, and nothing else, if a file is missing, damaged, no plain file, or does not fit the others.
    """
    source = Path(folder)
    network, classes, _ = read_export(source)
    model = with_weights(network, len(classes), source / WEIGHTS_FILE)
    return feature_maps(model).eval() if features_only else model


def read_export(source: Path) -> tuple[Network, list[str], dict[str, Any]]:
    """(the network of an exported folder, its classes, its card), held against each other; and its files against their digests.

    Raises: NasError.
    """
    for file in (ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (source / file).exists():
            raise NasError(f"{source} is not an exported network: it has no {file}; `nas export` writes one")
    network = parse_network(_read_text(source / ARCHITECTURE_FILE))
    card, classes = _read_card(source / CARD_FILE)
    if card["id"] != network.id:
        raise NasError(f"{source}: the card is of architecture {str(card['id'])[:100]!r} and {ARCHITECTURE_FILE} is {network.id}")
    most = 32 * sum(parameter.numel() for parameter in built_empty(network, len(classes)).parameters()) + 2**26
    for name in BINARY_FILES:
        path = source / name
        there = name == WEIGHTS_FILE or path.is_symlink() or path.exists()
        if there and read_plain(path, most, sha256) != card["sha256"].get(name):
            raise NasError(f"{path} is not what {CARD_FILE} was written for: its SHA-256 is another; export the network again")
    return network, classes, card


def _read_text(file: Path) -> str:
    try:
        return read_plain(file, MAX_BYTES, Path.read_bytes).decode()
    except UnicodeDecodeError:
        raise NasError(f"{file} is damaged: it is not a text; export the network again") from None


def _read_card(file: Path) -> tuple[dict[str, Any], list[str]]:
    """(the card, its classes); a stranger may have written it."""
    try:
        card = dict(json.loads(_read_text(file)))
        classes, how, digests, _ = card["classes"], card["preprocess"], dict(card["sha256"]), card["id"]
        numbers = [*how["mean"], *how["std"]]
        whole = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        whole = whole and len(numbers) == 6 and all(isinstance(number, int | float) for number in numbers)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise NasError(f"{file} is damaged: it has no id, classes, digests, or mean and std of images; export the network again")
    return card | {"sha256": digests}, classes
