"""What a training begins with: an export's own weights, or timm's of the published network that holds this one.

Read `cards.py` next.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nas.architecture import Architecture, Block
from nas.costs import cost
from nas.errors import NasError, describe_error
from nas.networks import Network, OwnNetwork, TimmNetwork
from nas.published import reference, references


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
    """(timm's name of the weights, those of them that fit the network); they are downloaded by timm, and kept by it.

    One of timm's own networks has its own. An architecture has those of the smallest published network that holds it: the same
    operations and activations, at least as deep, as wide and with kernels as large everywhere. It takes the first channels and
    the middle of the kernels. The classifier is not among them.

    Raises: NasError where no such network has weights, or they cannot be downloaded.
    """
    name = network.name if isinstance(network, TimmNetwork) else donor(network.architecture)
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
    state = {name: value for name, value in model.state_dict().items() if name not in classifier_of(model)}
    if isinstance(network, OwnNetwork):
        with torch.device("meta"):
            small = network.build(1)
        state = sliced(state, {name: value for name, value in small.state_dict().items() if name not in classifier_of(small)})
    return f"{name}.{config.tag}" if config.tag else name, state


def donor(architecture: Architecture) -> str:
    """The smallest published network with weights of timm's that holds an architecture.

    Raises: NasError if none does.
    """
    found = [name for name in references() if _has_weights(name) and holds(reference(name), architecture)]
    if not found:
        raise NasError(
            "no published network that timm has weights for holds this one (of the same operations and activations, as deep "
            "and wide or more); begin with --weights new, or from an export's folder"
        )
    return min(found, key=lambda name: cost(reference(name)).params)


def _has_weights(name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.has_weights)


def holds(large: Architecture, small: Architecture) -> bool:
    """Whether `small` is a slice of `large`, whatever their resolutions."""
    alike = ("convention", "activation")
    return (
        all(getattr(large, field) == getattr(small, field) for field in alike)
        and (large.head.kind, large.stem.stride, len(large.stages)) == (small.head.kind, small.stem.stride, len(small.stages))
        and large.stem.width >= small.stem.width
        and large.head.width >= small.head.width
        and (large.head.width == 0) == (small.head.width == 0)
        and all(_stage_holds(*stages) for stages in zip(large.stages, small.stages, strict=True))
    )


def _stage_holds(large: Iterable[Block], small: tuple[Block, ...]) -> bool:
    blocks = list(large)
    return len(blocks) >= len(small) and all(_block_holds(*pair) for pair in zip(blocks, small, strict=False))


def _block_holds(large: Block, small: Block) -> bool:
    """Squeeze-and-excite may be left out; a skip is no weight."""
    alike = ("op", "stride", "activation", "linear")
    least = ("kernel", "width", "hidden", "squeeze")
    same_gate = not small.squeeze or large.gate == small.gate
    return (
        same_gate
        and all(getattr(large, field) == getattr(small, field) for field in alike)
        and all(getattr(large, field) >= getattr(small, field) for field in least)
    )


def sliced(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each tensor wanted its shape's first channels, and the middle of its kernel.

    Raises: NasError where one is not there, or smaller.
    """
    found = {}
    for name, target in wanted.items():
        source = state.get(name)
        if source is None or source.ndim != target.ndim or any(a < b for a, b in zip(source.shape, target.shape, strict=True)):
            raise NasError(f"the weights have no {name} of at least {list(target.shape)}")
        for axis, size in enumerate(target.shape):
            start = (source.shape[axis] - size) // 2 if target.ndim == 4 and axis >= 2 else 0
            source = source.narrow(axis, start, size)
        found[name] = source.clone()
    return found
