"""timm's weights of published networks: which there are, for which classes, and the network with them, downloaded once."""

from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from nas.errors import NasError, describe_error
from nas.models.network import Network


def pretrained_config(network: Network, *, instead: str) -> Any:
    """timm's description of its weights of a network; `instead` says what to do without them.

    Raises: NasError if timm has none.
    """
    config = timm.get_pretrained_cfg(network.timm_name)
    if config is None or not config.has_weights:
        raise NasError(f"timm has no weights for {network.timm_name}; {instead}")
    return config


def pretrained_classes(config: Any) -> list[str]:
    """The classes of weights in the order of the logits, by ImageNet's names of their folders, such as n01440764.

    Empty for weights of other images.
    """
    subset = infer_imagenet_subset(config)
    return [] if subset is None else list(ImageNetInfo(subset).label_names())


def pretrained_model(network: Network, *, instead: str) -> nn.Module:
    """The network with timm's weights, which timm downloads and caches; `instead` says what to do without them.

    Raises: NasError if timm has no weights for it, or they cannot be downloaded.
    """
    pretrained_config(network, instead=instead)
    name = network.timm_name
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise NasError(
            f"timm's weights of {name} are not on this machine and cannot be downloaded ({describe_error(error)}); "
            f"run the same command once where the internet is, or {instead}"
        ) from None
    return model


def pretrained(network: Network) -> tuple[str, dict[str, Tensor]]:
    """(timm's name of the weights, the weights without the classifier), to begin a training with.

    An architecture gets the weights of the published network that it equals, at any resolution.

    Raises: NasError if timm has no weights for it, or they cannot be downloaded.
    """
    instead = "begin with --weights new, or from an export's folder"
    config, model = pretrained_config(network, instead=instead), pretrained_model(network, instead=instead)
    left_out = classifier_of(model)
    state = {key: value for key, value in model.state_dict().items() if key not in left_out}
    return f"{network.timm_name}.{config.tag}" if config.tag else network.timm_name, state


def classifier_of(model: nn.Module) -> set[str]:
    """The names of the classifier's parameters in a timm model."""
    classifier: Any = model.get_classifier()  # type: ignore[operator]  # a method of timm's models
    heads = classifier if isinstance(classifier, tuple | list) else (classifier,)
    modules = [name for name, module in model.named_modules() if any(module is head for head in heads)]
    return {name for name in model.state_dict() if name.rpartition(".")[0] in modules}
