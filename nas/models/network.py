"""A network before it is built: an architecture of ours, by name, file or export, or one of timm's networks by name."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nas.errors import NasError, describe_error, unknown_name
from nas.models.architecture import MAX_TEXT, Architecture
from nas.models.cost import cost
from nas.models.zoo import reference, references

if TYPE_CHECKING:
    from torch import nn

# The files of an export that `nas.load` reads.
ARCHITECTURE_FILE: Final = "architecture.json"
WEIGHTS_FILE: Final = "model.safetensors"
CARD_FILE: Final = "card.json"

TIMM: Final = "timm:"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNetwork:
    """The network of an Architecture."""

    architecture: Architecture

    @property
    def id(self) -> str:
        """The architecture's id."""
        return self.architecture.id

    @property
    def resolution(self) -> int:
        """Side of the input, pixels."""
        return self.architecture.resolution

    def to_json(self) -> str:
        """The canonical text of the architecture."""
        return self.architecture.to_json()

    def at(self, resolution: int) -> "OwnNetwork":
        """The same network for images of another size."""
        return OwnNetwork(architecture=replace(self.architecture, resolution=resolution))

    def build(self, num_classes: int, *, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> "nn.Module":
        """The newly initialised torch module."""
        from nas.models.build import build

        return build(self.architecture, num_classes, drop_rate=drop_rate, drop_path_rate=drop_path_rate)

    def costs(self, num_classes: int) -> dict[str, int]:
        """params, macs and activation_bytes, exact."""
        return asdict(cost(self.architecture, num_classes))

    def check(self, num_classes: int, resolutions: Iterable[int]) -> None:
        """Nothing: it reads images of any resolution."""

    @property
    def timm_name(self) -> str:
        """timm's name of the published network that this is, whatever its resolution.

        Raises: NasError if it is none.
        """
        for name in references():
            if reference(name) == replace(self.architecture, resolution=reference(name).resolution):
                return name
        raise NasError(f"{self.id} is no published network, so timm has no weights for it; begin with --weights new")

    def timm_config(self) -> dict[str, Any]:
        """What timm's `config.json` says of it: the entry point, its arguments, and where its first and last layers are."""
        return {
            "architecture": "frontier_nas",
            "model_args": {"architecture": json.loads(self.to_json())},
            "pretrained_cfg": {"first_conv": "conv_stem", "classifier": "classifier"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmNetwork:
    """One of timm's own networks, with the surface of `OwnNetwork`; it has no Architecture."""

    name: str
    """As timm has it."""
    resolution: int
    """Side of the input, pixels; 8 or more."""

    def __post_init__(self) -> None:
        if self.resolution < 8:
            raise NasError(f"resolution: {self.resolution} is not 8 pixels or more")

    @property
    def id(self) -> str:
        """timm: and the name."""
        return f"{TIMM}{self.name}"

    @property
    def architecture(self) -> Architecture:
        """Raises: NasError, as it has none."""
        raise NasError(f"{self.id} is timm's own network and has no architecture; give one that `nas` can build itself")

    def to_json(self) -> str:
        """The name and the resolution."""
        return json.dumps({"timm": self.name, "resolution": self.resolution})

    def at(self, resolution: int) -> "TimmNetwork":
        """The same network for images of another size."""
        return replace(self, resolution=resolution)

    def build(self, num_classes: int, *, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> "nn.Module":
        """The newly initialised torch module.

        Raises: NasError for a rate that the network does not have.
        """
        import timm

        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        given = {name: rate for name, rate in rates.items() if rate}
        try:
            module: nn.Module = timm.create_model(self.name, num_classes=num_classes, **given)
        except TypeError as error:
            raise NasError(f"{self.id} cannot be built with {given}: {error}") from None
        return module

    def costs(self, num_classes: int) -> dict[str, int]:
        """params and macs, counted on the built network."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"):
            module, image = self.build(num_classes).eval(), torch.zeros(1, 3, self.resolution, self.resolution)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                module(image)
        return {"params": sum(p.numel() for p in module.parameters()), "macs": counter.get_total_flops() // 2}

    def check(self, num_classes: int, resolutions: Iterable[int]) -> None:
        """Refuse a resolution that the network cannot read.

        Raises: NasError.
        """
        for resolution in resolutions:
            try:
                self.at(resolution).costs(num_classes)
            except (RuntimeError, ValueError, AssertionError) as error:
                raise NasError(f"{self.id} cannot read images of {resolution} px: {describe_error(error)}") from None

    @property
    def timm_name(self) -> str:
        """Its name."""
        return self.name

    def timm_config(self) -> dict[str, Any]:
        """What timm's `config.json` says of it: its name, and where its first and last layers are."""
        import timm

        theirs = timm.get_pretrained_cfg(self.name)
        places = {"first_conv": theirs.first_conv, "classifier": theirs.classifier}
        return {"architecture": self.name, "pretrained_cfg": {place: name for place, name in places.items() if name is not None}}


Network: TypeAlias = OwnNetwork | TimmNetwork


def parse_network(text: str) -> Network:
    """The network whose `to_json` gave this text.

    Raises: NasError if it is neither an architecture nor a network of timm's.
    """
    timm = re.fullmatch(r'\s*\{"timm":\s*"([\w.-]+)",\s*"resolution":\s*(\d{1,5})\}\s*', text, re.ASCII)
    if timm is not None:
        return _of_timm(timm[1], int(timm[2]))
    return OwnNetwork(architecture=Architecture.from_json(text))


def find_network(name: str | Architecture, *, resolution: int | None = None) -> Network:
    """The network of an architecture, a published network's name, an export's folder, an architecture's file, or timm:NAME.

    `resolution` stands in for its own. Raises: NasError if there is none.
    """
    if isinstance(name, str) and name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM), resolution)
    found = OwnNetwork(architecture=name) if isinstance(name, Architecture) else _named(name)
    return found if resolution is None else found.at(resolution)


def export_folder(name: str | Architecture) -> Path | None:
    """The folder that a network is named by, if it is: a published network goes before a folder of its name."""
    if isinstance(name, Architecture) or name in references() or name.startswith(TIMM):
        return None
    return Path(name) if Path(name).is_dir() else None


def _named(name: str) -> Network:
    if name in references():
        return OwnNetwork(architecture=reference(name))
    path = Path(name) / ARCHITECTURE_FILE if Path(name).is_dir() else Path(name)
    if path.is_file():
        with path.open("rb") as file:
            return parse_network(file.read(4 * MAX_TEXT).decode(errors="replace"))  # what is longer or no text is refused
    if "/" in name or name.endswith(".json") or Path(name).is_dir():
        what = f"has no {ARCHITECTURE_FILE}" if Path(name).is_dir() else "is not there"
        raise NasError(f"network {name[:200]!r} {what}; give an export's folder, or the file of an architecture's text")
    raise unknown_name("network", name, [*references(), "timm:NAME"])


def _of_timm(name: str, resolution: int | None) -> TimmNetwork:
    import timm

    if not timm.is_model(name):
        raise unknown_name("timm network", name, timm.list_models())
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        raise NasError(f"timm network {name!r} says nothing of the images that it reads; give another, or one of our own by name")
    return TimmNetwork(name=name, resolution=config.input_size[-1] if resolution is None else resolution)
