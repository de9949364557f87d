"""Compound scaling: a network deeper, wider and at another resolution by EfficientNet's rules, alone or as a family."""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from nas.errors import NasError
from nas.files import whole_folder
from nas.models.architecture import RESOLUTIONS, Architecture, Block, round_width
from nas.models.cost import Cost, cost

MAX_PHI: Final = 30  # either way; by the published rule B0 leaves the bounds of architectures beyond -18.9 and 10.9
PER_PHI: Final = 1000  # steps in which a phi for a budget is looked for
UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
FAMILY_FILE: Final = "family.csv"


def scale(architecture: Architecture, depth: float = 1.0, width: float = 1.0, resolution: float = 1.0) -> Architecture:
    """`architecture` with every stage `depth` times as deep and every width `width` times as wide.

    `resolution` below 16 is a multiple too; from 16 up it is the new side in pixels, as EfficientNet's table gives it.
    Depths round up, widths to multiples of 8. A deeper stage repeats its last block, with a skip where the shapes allow one;
    a shallower one drops its last blocks. A last stage of one 1 x 1 convolution belongs to the head and is not repeated.

    Raises: NasError for a multiple that is not positive, or beyond reason; ArchitectureError for a network beyond the bounds.
    Source: EfficientNet, arXiv:1905.11946, section 3, and tensorflow/tpu efficientnet_builder.py (round_filters, round_repeats).
    """
    for name, value, most in (("depth", depth, 100), ("width", width, 100), ("resolution", resolution, RESOLUTIONS[1])):
        if not 0 < value <= most:
            raise NasError(f"{name}: {value!r} is not a positive number up to {most}")
    pixels = resolution if resolution >= 16 else architecture.resolution * resolution
    stem = replace(architecture.stem, width=round_width(architecture.stem.width * width))
    old_in, new_in, stages = architecture.stem.width, stem.width, []
    for blocks in architecture.stages:
        stage: list[Block] = []
        wanted = scaled_depth(blocks, depth)
        for block, before in zip(blocks[:wanted], (old_in, *(block.width for block in blocks)), strict=False):
            stage.append(_scaled_block(block, before, new_in, width, repeated=False))
            new_in = stage[-1].width
        old_in = blocks[-1].width
        missing = wanted - len(stage)
        if missing:  # the last block again, now reading its own output, so that all the repeats are equal
            stage += [_scaled_block(blocks[-1], before, new_in, width, repeated=True)] * missing
        stages.append(tuple(stage))
    head = replace(architecture.head, width=round_width(architecture.head.width * width) if architecture.head.width else 0)
    return replace(architecture, resolution=round(pixels), stem=stem, stages=tuple(stages), head=head)


def scaled_depth(blocks: tuple[Block, ...], depth: float) -> int:
    """How many blocks a stage has at `depth` times its depth."""
    of_head = len(blocks) == 1 and blocks[0].op == "conv" and blocks[0].kernel == 1
    return 1 if of_head else math.ceil(round(len(blocks) * depth, 9))


def _scaled_block(block: Block, before: int, new_in: int, width: float, *, repeated: bool) -> Block:
    """`block`, which read `before` channels, reading `new_in`; its ratios of hidden and squeeze to input width are kept."""
    new_width, stride = round_width(block.width * width), 1 if repeated else block.stride
    hidden = round_width(new_in * block.hidden / before) if block.hidden else 0
    squeeze = block.squeeze
    if block.gate == "hard_sigmoid":  # MobileNetV3: a part of the depthwise width, rounded like a width
        squeeze = round_width(block.squeeze * (hidden or new_in) / (block.hidden or before))
    elif block.gate == "sigmoid":  # MnasNet, EfficientNet: a part of the input width
        squeeze = max(1, round(block.squeeze * new_in / before))
    skip = stride == 1 and new_in == new_width and (block.skip or (repeated and (block.linear or block.op == "conv")))
    return replace(block, stride=stride, width=new_width, hidden=hidden, squeeze=squeeze, skip=skip)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """How a network grows with phi: depth by alpha^phi, width by beta^phi, resolution by gamma^phi.

    Raises: NasError for a coefficient below 1.
    Source: EfficientNet, arXiv:1905.11946, section 3.3, equation 3 and the coefficients found there for B0.
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 1 <= value <= 100:
                raise NasError(f"{name}: {value!r} is not a number from 1 to 100")

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in asdict(self).items())


PUBLISHED: Final = ScalingRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One network of a family."""

    phi: float
    rule: ScalingRule
    architecture: Architecture
    cost: Cost
    """Exact, with the number of classes that was asked for."""

    @property
    def file(self) -> str:
        """The name of its file in a family's folder."""
        return f"phi{str(self.phi).removesuffix('.0')}.json"

    def to_record(self) -> dict[str, Any]:
        """Its row of the family's table; `depth` and `width` are multiples, before they are rounded."""
        return {
            "phi": self.phi,
            "depth": self.rule.alpha**self.phi,
            "width": self.rule.beta**self.phi,
            "resolution": self.architecture.resolution,
            "params_m": self.cost.params / 1e6,
            "macs_m": self.cost.macs / 1e6,
            "id": self.architecture.id,
            "file": self.file,
            **asdict(self.rule),
        }


def scale_family(
    architecture: Architecture, phis: Iterable[float] = (1, 2, 3), rule: ScalingRule = PUBLISHED, *, num_classes: int = 1000
) -> tuple[Member, ...]:
    """The network at each phi, once each, in their order; below 0 it shrinks, and at 0 it is the network itself.

    Depths and widths round as `nas.scale` does, and the resolution to the nearest whole pixel: networks read any, and a coarser
    grid would part from the rule. The published B1 to B7 are other networks: their table (`nas.reference`) does not follow it.

    Raises: NasError for a phi beyond -30 to 30, or whose network is beyond the bounds of an architecture.
    """
    return tuple(_member(architecture, float(phi) or 0.0, rule, num_classes) for phi in dict.fromkeys(phis))  # -0.0 is 0.0


def _member(architecture: Architecture, phi: float, rule: ScalingRule, num_classes: int) -> Member:
    if not abs(phi) <= MAX_PHI:
        raise NasError(f"phi: {phi!r} is not a number from -{MAX_PHI} to {MAX_PHI}")
    pixels, (low, high) = round(architecture.resolution * rule.gamma**phi), RESOLUTIONS
    if not low <= pixels <= high:  # `scale` would take few pixels for a multiple
        raise NasError(f"phi {phi:g}: resolution {pixels} is not from {low} to {high}")
    try:
        scaled = scale(architecture, depth=rule.alpha**phi, width=rule.beta**phi, resolution=pixels)
    except NasError as error:
        raise NasError(f"phi {phi:g}: {error}") from None
    return Member(phi=phi, rule=rule, architecture=scaled, cost=cost(scaled, num_classes))


def scale_to_macs(architecture: Architecture, macs: float, rule: ScalingRule = PUBLISHED, *, num_classes: int = 1000) -> Member:
    """The network at the largest phi, in thousandths and of either sign, that has at most so many multiply-adds, exactly counted.

    Raises: NasError for a budget that no network of the family meets, or that the largest one does not come near.
    """
    if not 0 < macs < math.inf:
        raise NasError(f"macs: {macs!r} is not a positive number")
    cost(architecture, num_classes)  # raises for a wrong number of classes

    def count(step: int) -> float:
        try:
            return _member(architecture, step / PER_PHI, rule, num_classes).cost.macs
        except NasError:  # beyond the bounds of an architecture
            return math.inf

    steps = range(MAX_PHI * PER_PHI + 1)
    if count(0) <= macs:  # upwards nothing shrinks: no block is dropped, and each size rounds to no less than before
        found = bisect_left(steps, True, key=lambda step: count(step) > macs) - 1
        if count(found + 1) == math.inf:
            raise NasError(f"macs: no network of the family has {macs:,.0f}; the largest is at phi {found / PER_PHI:g}")
    else:  # downwards one by one, as a stage that loses a narrow last block may cost more without
        found = next((-step for step in steps if count(-step) <= macs), 1)
        if found == 1:
            raise NasError(f"macs: no network of the family has as few as {macs:,.0f}")
    return _member(architecture, found / PER_PHI, rule, num_classes)


def parse_macs(text: str) -> float:
    """Multiply-adds from a text such as 300M, 1.2B (or 1.2G) or 300000000.

    Raises: NasError.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmbg]?)", text.lower(), re.ASCII)
    if found is None:
        raise NasError(f"macs: {text!r} is not a number of multiply-adds, such as 300M, 1.2B or 300000000")
    return float(found[1]) * UNITS[found[2]]


def write_family(members: Sequence[Member], output: str | PathLike[str]) -> Path:
    """The folder of a family: the canonical text of each network in a file, and their table, `family.csv`.

    `nas train` and `--start` take the files. Whole or not at all; a family that was written there before is replaced.

    Raises: NasError for a folder that holds anything else, or that cannot be written.
    """
    import pandas as pd

    if not members:
        raise NasError("a family needs a network; give at least one phi")
    target = Path(output).resolve()
    with whole_folder(target, check_output) as folder:
        for member in members:
            (folder / member.file).write_text(member.architecture.to_json() + "\n", encoding="utf-8")
        pd.DataFrame([member.to_record() for member in members]).to_csv(folder / FAMILY_FILE, index=False)
    return target


def check_output(output: Path) -> None:
    """Refuse what a family must not replace: anything but a folder of `family.csv` and phi*.json alone.

    Raises: NasError.
    """
    ours = output.is_dir() and all(entry.name == FAMILY_FILE or entry.match("phi*.json") for entry in output.iterdir())
    if output.exists() and not ours:
        raise NasError(f"{output} is there already and holds other than a family; give another folder with --output")
