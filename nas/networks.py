"""What can be trained to the end: an architecture of ours, by name, text, file or export, or one of timm's networks by name."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.architecture import MAX_TEXT, Architecture, is_text
from nas.costs import cost
from nas.errors import NasError, unknown
from nas.modules import build
from nas.published import reference, references

ARCHITECTURE_FILE = "architecture.json"
TIMM = "timm:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network before it is built."""

    id: str
    """The architecture's id, or timm: and the name."""
    resolution: int
    """Side of the input, pixels."""
    architecture: Architecture | None = None
    """None for one of timm's own."""

    @staticmethod
    def of(architecture: Architecture) -> "Network":
        """The network that an architecture is."""
        return Network(id=architecture.id, resolution=architecture.resolution, architecture=architecture)

    @staticmethod
    def from_json(text: str) -> "Network":
        """What `to_json` wrote.

        Raises: NasError if it is neither an architecture nor a network of timm's.
        """
        try:
            record = json.loads(text) if len(text) <= MAX_TEXT else None
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and set(record) == {"timm", "resolution"}:
            if type(record["resolution"]) is not int or record["resolution"] < 8:
                raise NasError(f"resolution: {record['resolution']!r} is not a whole number of 8 pixels or more")
            return _of_timm(str(record["timm"]), record["resolution"])
        return Network.of(Architecture.from_json(text))

    def to_json(self) -> str:
        """The canonical text of the architecture, or the name and resolution of timm's network."""
        if self.architecture is not None:
            return self.architecture.to_json()
        return json.dumps({"timm": self.id.removeprefix(TIMM), "resolution": self.resolution})

    def build(self, num_classes: int, *, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> nn.Module:
        """The newly initialised torch module.

        Raises: NasError for a rate that a network of timm's does not have.
        """
        if self.architecture is not None:
            return build(self.architecture, num_classes, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        try:
            given = {name: rate for name, rate in rates.items() if rate}
            module: nn.Module = timm.create_model(self.id.removeprefix(TIMM), num_classes=num_classes, **given)
        except TypeError as error:
            raise NasError(f"{self.id} cannot be built with {given}: {error}") from None
        return module

    def costs(self, num_classes: int) -> dict[str, int]:
        """params and macs; exact for an architecture, counted on a built network for one of timm's."""
        if self.architecture is not None:
            exact = cost(self.architecture, num_classes)
            return {"params": exact.params, "macs": exact.macs, "activation_bytes": exact.activation_bytes}
        with torch.device("meta"):
            module, image = self.build(num_classes).eval(), torch.zeros(1, 3, self.resolution, self.resolution)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                module(image)
        return {"params": sum(p.numel() for p in module.parameters()), "macs": counter.get_total_flops() // 2}

    def check(self, num_classes: int, resolutions: Iterable[int]) -> None:
        """Refuse a resolution that the network cannot read.

        Raises: NasError.
        """
        if self.architecture is not None:
            return  # which reads any
        for resolution in resolutions:
            try:
                replace(self, resolution=resolution).costs(num_classes)
            except (RuntimeError, ValueError, AssertionError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise NasError(f"{self.id} cannot read images of {resolution} px: {reason}") from None


def find_network(name: str, *, resolution: int | None = None) -> Network:
    """The network of a published architecture's name, an export's folder, an architecture's file or text, or timm:NAME.

    `resolution` stands in for its own. Raises: NasError if there is none.
    """
    if resolution is not None and resolution < 8:
        raise NasError(f"resolution: {resolution} is not 8 pixels or more")
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM), resolution)
    found = _named(name)
    if resolution is None:
        return found
    if found.architecture is None:
        return replace(found, resolution=resolution)
    return Network.of(replace(found.architecture, resolution=resolution))


def export_folder(name: str) -> Path | None:
    """The folder that a network is named by, if it is: a published network, or a text, goes before a folder of its name."""
    if name in references() or name.startswith(TIMM) or is_text(name):
        return None
    return Path(name) if Path(name).is_dir() else None


def _named(name: str) -> Network:
    if name in references():
        return Network.of(reference(name))
    if is_text(name):
        return Network.from_json(name)
    path = Path(name) / ARCHITECTURE_FILE if Path(name).is_dir() else Path(name)
    if path.is_file():
        return Network.from_json(read_text(path))
    if "/" in name or name.endswith(".json") or Path(name).is_dir():
        what = f"has no {ARCHITECTURE_FILE}" if Path(name).is_dir() else "is not there"
        raise NasError(f"network {name!r} {what}; give an export's folder, or the file of an architecture's text")
    raise unknown("network", name, [*references(), "timm:NAME"])


def read_text(path: Path) -> str:
    """The text of an architecture's file.

    Raises: NasError if it is not a text.
    """
    try:
        with path.open("rb") as file:
            return file.read(4 * MAX_TEXT).decode()  # what is longer is refused, and so is what this cuts off
    except UnicodeDecodeError:
        raise NasError(f"{path} is damaged: it is not a text; export the network again") from None


def _of_timm(name: str, resolution: int | None) -> Network:
    if not timm.is_model(name):
        raise unknown("timm network", name, timm.list_models())
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        raise NasError(f"timm network {name!r} says nothing of the images that it reads; give another, or one of our own by name")
    return Network(id=f"{TIMM}{name}", resolution=resolution or config.input_size[-1])
