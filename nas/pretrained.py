"""What a training begins with: an export's own weights, or timm's of the same published network."""

from collections.abc import Mapping
from typing import Any

import timm
from safetensors import SafetensorError
from torch import Tensor, nn

from nas.errors import NasError, describe_error
from nas.networks import Network


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
