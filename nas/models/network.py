"""A network that is not built yet: an Architecture by name, file or export, or one of timm's networks by name."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nas.errors import NasError, describe_error, unknown_name
from nas.models.architecture import MAX_TEXT, Architecture
from nas.models.cost import cost
from nas.models.zoo import reference, references
from nas.paths import absolute

if TYPE_CHECKING:
    from torch import nn

# Files of an export that `nas.load` reads.
ARCHITECTURE_FILE: Final = "architecture.json"
WEIGHTS_FILE: Final = "model.safetensors"
CARD_FILE: Final = "card.json"

TIMM: Final = "timm:"  # prefix of the name of one of timm's networks


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNetwork:
    """A network that an Architecture describes."""

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
        """The same network at another input resolution, pixels."""
        return OwnNetwork(architecture=replace(self.architecture, resolution=resolution))

    def build(self, num_classes: int, *, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> "nn.Module":
        """The newly initialised torch module."""
        from nas.models.build import build

        return build(self.architecture, num_classes, drop_rate=drop_rate, drop_path_rate=drop_path_rate)

    def costs(self, num_classes: int) -> dict[str, int]:
        """Exact params, and macs and activation_bytes for one image, by name."""
        return asdict(cost(self.architecture, num_classes))

    def check(self, num_classes: int, resolutions: Iterable[int]) -> None:
        """Does nothing, as these networks can read images of any resolution."""

    @property
    def timm_name(self) -> str:
        """timm's name of this reference network, at any resolution.

        Raises: NasError if it is not a reference.
        """
        for name in references():
            if reference(name) == replace(self.architecture, resolution=reference(name).resolution):
                return name
        raise NasError(f"{self.id} is not a reference network, so timm has no weights for it; use --weights new")

    def timm_config(self) -> dict[str, Any]:
        """Its entries in timm's `config.json`: the entry point, its arguments, and the names of the first and last layer."""
        return {
            "architecture": "frontier_nas",
            "model_args": {"architecture": json.loads(self.to_json())},
            "pretrained_cfg": {"first_conv": "conv_stem", "classifier": "classifier"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmNetwork:
    """One of timm's networks, with the methods of `OwnNetwork` but no Architecture.

    Raises: NasError for a resolution below 8 pixels.
    """

    name: str
    """timm's model name."""
    resolution: int
    """Side of the input, pixels."""

    def __post_init__(self) -> None:
        if self.resolution < 8:
            raise NasError(f"resolution: {self.resolution} is not 8 pixels or more")

    @property
    def id(self) -> str:
        """`timm:` and the model name."""
        return f"{TIMM}{self.name}"

    @property
    def architecture(self) -> Architecture:
        """Raises: NasError always, as timm's networks have no Architecture."""
        raise NasError(f"{self.id} is timm's own network and has no architecture; give a reference, an export or a file")

    def to_json(self) -> str:
        """The name and the resolution as JSON."""
        return json.dumps({"timm": self.name, "resolution": self.resolution})

    def at(self, resolution: int) -> "TimmNetwork":
        """The same network at another input resolution, pixels."""
        return replace(self, resolution=resolution)

    def build(self, num_classes: int, *, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> "nn.Module":
        """The newly initialised torch module.

        Raises: NasError for a rate that the network does not support.
        """
        import timm

        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        options = {name: rate for name, rate in rates.items() if rate}
        try:
            module: nn.Module = timm.create_model(self.name, num_classes=num_classes, **options)
        except TypeError as error:
            raise NasError(f"{self.id} cannot be built with {options}: {error}") from None
        return module

    def costs(self, num_classes: int) -> dict[str, int]:
        """The params of the built network and its macs for one image, by name."""
        return count_costs(lambda: self.build(num_classes), self.resolution)

    def check(self, num_classes: int, resolutions: Iterable[int]) -> None:
        """Check that the network can read images of these resolutions.

        Raises: NasError for the first resolution that it cannot read.
        """
        for resolution in resolutions:
            try:
                self.at(resolution).costs(num_classes)
            except (RuntimeError, ValueError, AssertionError) as error:
                raise NasError(f"{self.id} cannot read images of {resolution} px: {describe_error(error)}") from None

    @property
    def timm_name(self) -> str:
        """Its model name."""
        return self.name

    def timm_config(self) -> dict[str, Any]:
        """Its entries in timm's `config.json`: the model name, and the names of the first and last layer."""
        import timm

        config = timm.get_pretrained_cfg(self.name)
        layers = {"first_conv": config.first_conv, "classifier": config.classifier}
        return {"architecture": self.name, "pretrained_cfg": {key: name for key, name in layers.items() if name is not None}}


def count_costs(build: Callable[[], "nn.Module"], resolution: int) -> dict[str, int]:
    """The params of the module that `build` makes, and its macs for one image of `resolution` pixels, by name.

    Multiply-adds are those of convolutions and linear layers. The module is built without memory for its weights.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        module, image = build().eval(), torch.zeros(1, 3, resolution, resolution)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(image)
    return {"params": sum(p.numel() for p in module.parameters()), "macs": counter.get_total_flops() // 2}


Network: TypeAlias = OwnNetwork | TimmNetwork


def parse_network(text: str) -> Network:
    """The network that `to_json` wrote as this text.

    Raises: NasError for any other text.
    """
    match = re.fullmatch(r'\s*\{"timm":\s*"([\w.-]+)",\s*"resolution":\s*(\d{1,5})\}\s*', text, re.ASCII)
    if match is not None:
        return _timm_network(match[1], int(match[2]))
    return OwnNetwork(architecture=Architecture.from_json(text))


def find_network(name: str | Architecture, *, resolution: int | None = None) -> Network:
    """The network of a `name`: an Architecture, a reference's name, an export's folder, an architecture's file or timm:NAME.

    `resolution`, pixels, replaces the network's own.
    Raises: NasError if there is no such network.
    """
    if isinstance(name, str) and name.startswith(TIMM):
        return _timm_network(name.removeprefix(TIMM), resolution)
    network = OwnNetwork(architecture=name) if isinstance(name, Architecture) else _named_network(name)
    return network if resolution is None else network.at(resolution)


def export_folder(name: str | Architecture) -> Path | None:
    """`name` as the path of an export's folder, or None if it is no folder; a reference wins over a folder of the same name."""
    if isinstance(name, Architecture) or name in references() or name.startswith(TIMM):
        return None
    return Path(name) if Path(name).is_dir() else None


def absolute_name(name: str) -> str:
    """The absolute path of a network's file or folder; the name of a network, and anything else that is not there, is kept."""
    return str(absolute(name)) if name not in references() and absolute(name).exists() else name


def _named_network(name: str) -> Network:
    if name in references():
        return OwnNetwork(architecture=reference(name))
    path = Path(name) / ARCHITECTURE_FILE if Path(name).is_dir() else Path(name)
    if path.is_file():
        with path.open("rb") as file:
            text = file.read(4 * MAX_TEXT).decode(errors="replace")  # from_json refuses longer files and binary ones
        try:
            return parse_network(text)
        except NasError as error:
            raise NasError(f"{path}: {error}") from None
    if "/" in name or name.endswith(".json") or Path(name).is_dir():
        problem = f"has no {ARCHITECTURE_FILE}" if Path(name).is_dir() else "does not exist"
        raise NasError(f"network {name[:200]!r} {problem}; give an export's folder or an architecture's file")
    raise unknown_name("network", name, [*references(), "timm:NAME"])


def _timm_network(name: str, resolution: int | None) -> TimmNetwork:
    import timm

    if not timm.is_model(name):
        raise unknown_name("timm network", name, timm.list_models())
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        raise NasError(f"timm network {name!r} has no pretrained_cfg, so its resolution is not known; give another network")
    return TimmNetwork(name=name, resolution=config.input_size[-1] if resolution is None else resolution)
