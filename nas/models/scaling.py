"""EfficientNet's compound scaling of depth, width and resolution: one scaled network, or a family of them."""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from nas.errors import NasError
from nas.files import atomic_folder
from nas.models.architecture import RESOLUTIONS, Architecture, Block, round_width
from nas.models.cost import Cost, cost

MAX_PHI: Final = 30  # of either sign; with EfficientNet's rule, B0 stays a valid architecture from -18.9 to 10.9
STEPS_PER_PHI: Final = 1000  # the phi for a budget is searched in steps of 1/1000
UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
FAMILY_FILE: Final = "family.csv"


def scale(architecture: Architecture, depth: float = 1.0, width: float = 1.0, resolution: float = 1.0) -> Architecture:
    """`architecture` with every stage's depth multiplied by `depth` and every width by `width`.

    `resolution` below 16 is a multiple too; from 16 up it is the new side in pixels, as in EfficientNet's table.
    Depths round up, widths to multiples of 8. A deeper stage repeats its last block, with a skip where the shapes allow one
    (not in MobileNetV1); a shallower one drops its last blocks. A stage of one 1 x 1 convolution (of the head) stays as deep.

    Raises: NasError for a multiple outside (0, 100], or pixels above 1024; ArchitectureError if the result is not valid.
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
        new_depth = scaled_depth(blocks, depth)
        for block, block_in in zip(blocks[:new_depth], (old_in, *(block.width for block in blocks)), strict=False):
            stage.append(_scaled_block(block, block_in, new_in, width, repeated=False))
            new_in = stage[-1].width
        old_in = blocks[-1].width
        missing = new_depth - len(stage)
        if missing:  # repeats of the last block read its output, so they are all equal
            stage += [_scaled_block(blocks[-1], block_in, new_in, width, repeated=True)] * missing
        stages.append(tuple(stage))
    head = replace(architecture.head, width=round_width(architecture.head.width * width) if architecture.head.width else 0)
    return replace(architecture, resolution=round(pixels), stem=stem, stages=tuple(stages), head=head)


def scaled_depth(blocks: tuple[Block, ...], depth: float) -> int:
    """The number of blocks of a stage at `depth` times its depth."""
    of_head = len(blocks) == 1 and blocks[0].op == "conv" and blocks[0].kernel == 1
    return 1 if of_head else math.ceil(round(len(blocks) * depth, 9))


def _scaled_block(block: Block, old_in: int, new_in: int, width: float, *, repeated: bool) -> Block:
    """`block` on `new_in` instead of `old_in` channels; the expansion and the squeeze ratio stay the same."""
    new_width, stride = round_width(block.width * width), 1 if repeated else block.stride
    hidden = round_width(new_in * block.hidden / old_in) if block.hidden else 0
    squeeze = block.squeeze
    if block.gate == "hard_sigmoid":  # MobileNetV3: a share of the depthwise width, rounded like a width
        squeeze = round_width(block.squeeze * (hidden or new_in) / (block.hidden or old_in))
    elif block.gate == "sigmoid":  # MnasNet, EfficientNet: a share of the input width
        squeeze = max(1, round(block.squeeze * new_in / old_in))
    skip = stride == 1 and new_in == new_width and (block.skip or (repeated and (block.linear or block.op == "conv")))
    return replace(block, stride=stride, width=new_width, hidden=hidden, squeeze=squeeze, skip=skip)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """Multiples at phi: depth alpha^phi, width beta^phi, resolution gamma^phi.

    Raises: NasError for a coefficient that is not from 1 to 100.
    Source: EfficientNet, arXiv:1905.11946, section 3.3, equation 3; the defaults are its coefficients for B0.
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


EFFICIENTNET_RULE: Final = ScalingRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMember:
    """One network of a family."""

    phi: float
    rule: ScalingRule
    architecture: Architecture
    cost: Cost
    """Exact, for the family's number of classes."""

    @property
    def file(self) -> str:
        """The name of its file in the family's folder, such as `phi1.5.json`."""
        return f"phi{str(self.phi).removesuffix('.0')}.json"

    def to_record(self) -> dict[str, Any]:
        """Its row of the family's table; `depth` and `width` are the multiples before rounding."""
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
    architecture: Architecture,
    phis: Iterable[float] = (1, 2, 3),
    rule: ScalingRule = EFFICIENTNET_RULE,
    *,
    num_classes: int = 1000,
) -> tuple[FamilyMember, ...]:
    """The scaled network for each phi, in order and without duplicates; phi < 0 shrinks `architecture`, phi = 0 keeps it.

    Depths and widths round as in `nas.scale`, the resolution to the nearest whole pixel. EfficientNet's own B1 to B7
    (`nas.reference`) differ: their published table does not follow the rule.

    Raises: NasError for a phi that is not from -30 to 30, or a scaled network that is not a valid architecture.
    """
    return tuple(_member(architecture, float(phi) or 0.0, rule, num_classes) for phi in dict.fromkeys(phis))  # -0.0 is 0.0


def _member(architecture: Architecture, phi: float, rule: ScalingRule, num_classes: int) -> FamilyMember:
    if not abs(phi) <= MAX_PHI:
        raise NasError(f"phi: {phi!r} is not a number from -{MAX_PHI} to {MAX_PHI}")
    pixels, (low, high) = round(architecture.resolution * rule.gamma**phi), RESOLUTIONS
    if not low <= pixels <= high:  # `scale` reads numbers below 16 as a multiple
        raise NasError(f"phi {phi:g}: resolution {pixels} is not from {low} to {high}")
    try:
        scaled = scale(architecture, depth=rule.alpha**phi, width=rule.beta**phi, resolution=pixels)
    except NasError as error:
        raise NasError(f"phi {phi:g}: {error}") from None
    return FamilyMember(phi=phi, rule=rule, architecture=scaled, cost=cost(scaled, num_classes))


def scale_to_macs(
    architecture: Architecture, macs: float, rule: ScalingRule = EFFICIENTNET_RULE, *, num_classes: int = 1000
) -> FamilyMember:
    """The scaled network at the largest phi, of either sign and in steps of 1/1000, with at most `macs` multiply-adds.

    Raises: NasError for a budget that is too small for every network of the family, or larger than its largest network.
    """
    if not 0 < macs < math.inf:
        raise NasError(f"macs: {macs!r} is not a positive number")
    cost(architecture, num_classes)  # raises for a wrong number of classes

    def count(step: int) -> float:
        try:
            return _member(architecture, step / STEPS_PER_PHI, rule, num_classes).cost.macs
        except NasError:  # not a valid architecture
            return math.inf

    steps = range(MAX_PHI * STEPS_PER_PHI + 1)
    if count(0) <= macs:  # growth only adds multiply-adds, so bisection works
        largest = bisect_left(steps, True, key=lambda step: count(step) > macs) - 1
        if count(largest + 1) == math.inf:
            raise NasError(f"macs: no network of the family has {macs:,.0f}; the largest is at phi {largest / STEPS_PER_PHI:g}")
    else:  # not monotonic: a stage that loses its narrow last block may cost more
        largest = next((-step for step in steps if count(-step) <= macs), 1)
        if largest == 1:
            raise NasError(f"macs: no network of the family has as few as {macs:,.0f}")
    return _member(architecture, largest / STEPS_PER_PHI, rule, num_classes)


def parse_macs(text: str) -> float:
    """Multiply-adds from a text such as 300M, 1.2B (or 1.2G) or 300000000.

    Raises: NasError for any other text.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmbg]?)", text.lower(), re.ASCII)
    if match is None:
        raise NasError(f"macs: {text!r} is not a number of multiply-adds, such as 300M, 1.2B or 300000000")
    return float(match[1]) * UNITS[match[2]]


def write_family(members: Sequence[FamilyMember], output: str | PathLike[str]) -> Path:
    """Write a family's folder: one file per network with its canonical text, and the table `family.csv`.

    `nas train` and `nas search --start` read the files. The write is atomic and replaces an older family in the same folder.

    Raises: NasError for a folder that holds other files, or that cannot be written.
    """
    import pandas as pd

    if not members:
        raise NasError("a family needs a network; give at least one phi")
    target = Path(output).resolve()
    with atomic_folder(target, check_output) as folder:
        for member in members:
            (folder / member.file).write_text(member.architecture.to_json() + "\n", encoding="utf-8")
        pd.DataFrame([member.to_record() for member in members]).to_csv(folder / FAMILY_FILE, index=False)
    return target


def check_output(output: Path) -> None:
    """Check that a family may replace `output`.

    Raises: NasError if it exists and is not a folder of `family.csv` and `phi*.json` files alone.
    """
    ours = output.is_dir() and all(entry.name == FAMILY_FILE or entry.match("phi*.json") for entry in output.iterdir())
    if output.exists() and not ours:
        raise NasError(f"{output} exists and is not the folder of a family; give another folder with --output")
