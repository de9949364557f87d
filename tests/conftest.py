"""What several tests share: commands typed in this process, one Ray, one finished run; any architecture, and its built cost."""

import contextlib
import io
import itertools
import logging
import math
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests run side by side, and torch's threads would wait for each other

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from timm.layers import SelectAdaptivePool2d
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from nas.cli.app import run
from nas.files import locked
from nas.models.architecture import (
    ACTIVATIONS,
    CONVENTIONS,
    GATES,
    HEADS,
    Architecture,
    Block,
    Head,
    Stem,
)
from nas.models.stages import Row, make_block

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

DATA = Path(__file__).parent / "data"  # programs and files of users


@pytest.fixture(scope="session", autouse=True)
def image_caches(tmp_path_factory):
    """Images that tests decode stay out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def short_measurements():
    """An export measures how long its network takes, which need not be exact here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SECONDS", "REFERENCE_SECONDS", "WARM_UP_SECONDS"):
            patch.setattr(f"nas.objectives.latency.measure.{name}", 0.02)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command left: its exit code, and what it wrote to the standard output and to the standard error."""

    code: int
    printed: str
    errors: str


def type_command(*arguments: object, cwd: Path) -> Answer:
    """Type `nas` with some arguments in a folder, in this very process, which is as it was afterwards.

    A search runs in the Ray of this process where the fixture `running_ray` has started one, else in its own.
    """
    printed, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, fresh_logging(), _fresh_modules(cwd):
        patch.chdir(cwd)
        patch.setattr(sys, "path", sys.path.copy())  # where the files are imported from that are named
        patch.setenv("COLUMNS", "200")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = run([str(argument) for argument in arguments])
    return Answer(code=code, printed=printed.getvalue(), errors=errors.getvalue())


@contextmanager
def fresh_logging() -> Iterator[None]:
    """A command sets up logging as the first in its process does."""
    names = (None, "nas", "timm")
    before = {name: (logging.getLogger(name).handlers.copy(), logging.getLogger(name).level) for name in names}
    logging.getLogger().handlers.clear()
    try:
        yield
    finally:
        for name, (handlers, level) in before.items():
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).setLevel(level)


@contextmanager
def _fresh_modules(folder: Path) -> Iterator[None]:
    """Files of users are imported anew by every command."""
    folders = tuple(f"{path}/" for path in (folder, folder.resolve(), DATA))
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name.partition(".")[0] != "tests" and file and file.startswith(folders):
                del sys.modules[name]


@pytest.fixture
def typed():
    """Types a command that must succeed, and gives what it printed: `typed("table", run, cwd=folder)`."""

    def printed(*arguments, cwd):
        answer = type_command(*arguments, cwd=cwd)
        assert answer.code == 0, answer.printed + answer.errors
        return answer.printed

    return printed


@pytest.fixture
def mistaken():
    """Types a wrong command: gives the sentence that it ends with, once it is one sentence and exit code 2 and nothing else."""

    def sentence(*arguments, cwd):
        before = files(cwd)
        answer = type_command(*arguments, cwd=cwd)
        assert answer.code == 2, answer.printed + answer.errors
        assert answer.errors.startswith("nas: ")
        assert answer.errors.count("\n") == 1
        assert "Traceback" not in answer.printed
        assert files(cwd) == before
        return answer.errors

    return sentence


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder):
    """Everything below a folder but compiled modules."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.fixture(scope="session")
def running_ray():
    """A Ray that runs in this process before any search, as in a notebook, started in another folder than those of the tests."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="r"))  # a short name: the paths of Ray's sockets have at most 107 characters

    def start():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=100_000_000,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
                _system_config={"prestart_worker_first_driver": False},
            )

    start()
    yield start
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fresh_ray(running_ray):
    """That Ray started anew: where a search ended in it, a core may stay taken, for which two workers would wait for ever."""
    import ray

    ray.shutdown()
    running_ray()


@pytest.fixture
def spoiled_ray(running_ray):
    """That Ray, started anew after the test, which leaves processes that hang or cores that stay taken."""
    import ray

    yield
    ray.shutdown()
    running_ray()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, request):
    """A folder with one finished search of digits over four networks, for every test that only reads it: see `digits_run`."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # by every process of these tests
    folder = shared / "finished"
    with locked(Path(f"{folder}.lock"), busy="", wait_seconds=math.inf):
        if not (folder / "printed").is_file():
            request.getfixturevalue("running_ray")
            shutil.rmtree(folder, ignore_errors=True)  # of a process whose attempt failed
            folder.mkdir()
            options = ["--trials", 4, "--train.epochs", 2, "--seed", 1, "--workers", 1]
            answer = type_command("search", "digits_mobilenetv3", *options, cwd=folder)
            assert answer.code == 0, answer.printed + answer.errors
            (run,) = (folder / "runs").iterdir()
            export = type_command("export", run, "--best", "val_top1_pct", "--output", "net", cwd=folder)
            assert export.code == 0, export.printed + export.errors
            (folder / "exported").write_text(export.printed)
            (folder / "printed").write_text(answer.printed)
    return folder


@pytest.fixture(scope="session")
def digits_run(finished):
    """The run of `finished`, of four trials of two epochs, all done. Tests read it; one that writes copies it first."""
    return next((finished / "runs").iterdir())


@pytest.fixture(scope="session")
def digits_export(finished):
    """The export of the most accurate network of `digits_run`. Tests read it; one that writes copies it first."""
    return finished / "net"


WIDTHS = st.integers(1, 8).map(lambda eighth: 8 * eighth)


def kernels(op: str, stride: int, head: str) -> st.SearchStrategy[tuple[int, int]]:
    """(kernel before the expansion, kernel) of a block: in `uib` 0 for none, but no inverted bottleneck beside another head."""
    if op != "uib":
        return st.tuples(st.just(0), st.sampled_from((3, 5, 7)))
    pairs = itertools.product((0, 3, 5, 7), repeat=2)
    return st.sampled_from(
        [
            (start, kernel)
            for start, kernel in pairs
            if (start or kernel or stride == 1) and (start or not kernel or head == "mobilenetv4")
        ]
    )


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
    kind = draw(st.sampled_from(HEADS))
    ops = ("conv", "sep", "uib", "fused") if kind == "mobilenetv4" else ("conv", "sep", "mbconv", "uib", "fused")
    stem = Stem(width=draw(WIDTHS), stride=draw(st.sampled_from((1, 2))))
    width, stages, downsamplings = stem.width, [], 0
    for _ in range(draw(st.integers(1, 4))):
        stage: list[Block] = []
        for depth in range(draw(st.integers(1, 3))):
            stride = draw(st.sampled_from((1, 2))) if depth == 0 and downsamplings < 4 else 1
            downsamplings += stride - 1
            op = draw(st.sampled_from(ops))
            start_kernel, kernel = draw(kernels(op, stride, kind))
            row = Row(
                0,
                op=op,
                kernel=kernel,
                expansion=draw(st.sampled_from((1, 2.3, 6))),
                squeeze=draw(st.sampled_from(("none", "input", "hidden"))),
                activation=draw(st.sampled_from(ACTIVATIONS)),
                skip=draw(st.booleans()),
                start_kernel=start_kernel,
            )
            block = make_block(row, width, width if draw(st.booleans()) else draw(WIDTHS), stride)
            stage.append(draw(variants(block)))
            width = stage[-1].width
        stages.append(tuple(stage))
    return Architecture(
        resolution=draw(st.integers(16, 64)),
        convention=draw(st.sampled_from(CONVENTIONS)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        stem=stem,
        stages=tuple(stages),
        head=Head(kind=kind, width=draw(st.one_of(st.just(0), WIDTHS)) if kind == "efficientnet" else draw(WIDTHS)),
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
    norms = [(of, name) for of in model.modules() for name, norm in of.named_children() if isinstance(norm, nn.BatchNorm2d)]
    for of, name in norms:  # with their activations: they change no shape, and take half of the time
        setattr(of, name, nn.Identity())
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
