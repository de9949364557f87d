"""What several tests share: architectures of any kind, and a count of a built network that knows nothing of our formulas."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests run side by side, and torch's threads would wait for each other

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from timm.layers import SelectAdaptivePool2d
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from nas.architecture import (
    ACTIVATIONS,
    CONVENTIONS,
    GATES,
    Architecture,
    Block,
    Head,
    Row,
    Stem,
    make_block,
)
from nas.cli import run

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def image_caches(tmp_path_factory):
    """Images that tests decode stay out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def mistaken(monkeypatch, capsys):
    """Types a wrong command: gives the sentence that it ends with, once it is one sentence and exit code 2 and nothing else."""

    def sentence(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "path", sys.path.copy())  # where the files are imported from that are named
        before = files(cwd)
        code = run([str(argument) for argument in arguments])
        printed, errors = capsys.readouterr()
        assert code == 2, printed + errors
        assert errors.startswith("nas: ")
        assert errors.count("\n") == 1
        assert files(cwd) == before
        return errors

    return sentence


def files(folder):
    """Everything below a folder but compiled modules."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


WIDTHS = st.integers(1, 8).map(lambda eighth: 8 * eighth)


@st.composite
def variants(draw: st.DrawFn, block: Block) -> Block:
    """A block as no paper has it: any squeeze width and gate, a 1 x 1 convolution, a pointwise convolution with activation."""
    if block.op == "conv":
        return replace(block, kernel=draw(st.sampled_from((1, 3, 5, 7))))
    if block.op == "sep":
        block = replace(block, linear=draw(st.booleans()))
    if not block.squeeze:
        return block
    return replace(block, squeeze=draw(st.integers(1, 40)), gate=draw(st.sampled_from(GATES)))


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Any small valid architecture, of every op, gate, stride, head and convention."""
    stem = Stem(width=draw(WIDTHS), stride=draw(st.sampled_from((1, 2))))
    width, stages, downsamplings = stem.width, [], 0
    for _ in range(draw(st.integers(1, 4))):
        stage: list[Block] = []
        for depth in range(draw(st.integers(1, 3))):
            stride = draw(st.sampled_from((1, 2))) if depth == 0 and downsamplings < 4 else 1
            downsamplings += stride - 1
            row = Row(
                0,
                op=draw(st.sampled_from(("conv", "sep", "mbconv", "fused"))),
                kernel=draw(st.sampled_from((3, 5, 7))),
                expansion=draw(st.sampled_from((1, 2.3, 6))),
                squeeze=draw(st.sampled_from(("none", "input", "hidden"))),
                activation=draw(st.sampled_from(ACTIVATIONS)),
                skip=draw(st.booleans()),
            )
            block = make_block(row, width, width if draw(st.booleans()) else draw(WIDTHS), stride)
            stage.append(draw(variants(block)))
            width = stage[-1].width
        stages.append(tuple(stage))
    kind = draw(st.sampled_from(("efficientnet", "mobilenetv3")))
    return Architecture(
        resolution=draw(st.integers(16, 64)),
        convention=draw(st.sampled_from(CONVENTIONS)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        stem=stem,
        stages=tuple(stages),
        head=Head(kind=kind, width=draw(WIDTHS) if kind == "mobilenetv3" else draw(st.one_of(st.just(0), WIDTHS))),
    )


@dataclass
class Count:
    """What a forward pass of a built network is seen to cost."""

    params: int = 0
    macs: int = 0
    peak: int = 0  # numbers alive at once


def count(model: nn.Module, resolution: int) -> Count:
    """Count by watching every convolution, pool and linear layer while one image goes through, on no device."""
    counted = Count(params=sum(parameter.numel() for parameter in model.parameters()))
    kept: list[torch.Tensor] = []  # maps kept for a skip or a gate, innermost last
    with _watched(model, counted, kept), torch.no_grad():
        model.eval()(torch.zeros(1, 3, resolution, resolution, device="meta"))
    assert not kept
    return counted


@contextmanager
def _watched(model: nn.Module, counted: Count, kept: list[torch.Tensor]) -> Iterator[None]:
    def keep(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        kept.append(inputs[0])

    def release(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        kept.pop()

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        (x,) = inputs
        if isinstance(layer, nn.Conv2d):
            counted.macs += output.numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        elif isinstance(layer, nn.Linear):
            counted.macs += output.numel() * layer.in_features
        others = [size.numel() for size in kept if size is not x]  # a block's first layer reads the very map that the skip keeps
        counted.peak = max(counted.peak, x.numel() + output.numel() + sum(others))

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | SelectAdaptivePool2d):
            handles.append(module.register_forward_hook(add))
        if getattr(module, "has_skip", False) or isinstance(module, SqueezeExcite):
            handles += [module.register_forward_pre_hook(keep), module.register_forward_hook(release)]
    yield
    for handle in handles:
        handle.remove()
