"""Compound scaling as a family: one network at several phi, or at the largest phi within a budget, and the folder of its files.

Read `scaling_search.py` next for how alpha, beta and gamma are chosen.
"""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

from nas.architecture import RESOLUTIONS, Architecture
from nas.costs import Cost, cost
from nas.errors import NasError
from nas.files import whole_folder
from nas.scaling import scale

MAX_PHI: Final = 30  # either way; by the published rule B0 leaves the bounds of architectures beyond -18.9 and 10.9
PER_PHI: Final = 1000  # steps in which a phi for a budget is looked for
MAX_COEFFICIENT: Final = 100
UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
FAMILY_FILE: Final = "family.csv"


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
        for name, value in (("alpha", self.alpha), ("beta", self.beta), ("gamma", self.gamma)):
            if not (isinstance(value, int | float) and 1 <= value <= MAX_COEFFICIENT):
                raise NasError(f"{name}: {value!r} is not a number from 1 to {MAX_COEFFICIENT}")

    @property
    def growth(self) -> float:
        """alpha * beta^2 * gamma^2: what phi + 1 multiplies the multiply-adds by, but for rounding; about 2 in the paper."""
        return self.alpha * self.beta**2 * self.gamma**2

    def __str__(self) -> str:
        return f"alpha {self.alpha:.4g}, beta {self.beta:.4g}, gamma {self.gamma:.4g}"


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
    def depth(self) -> float:
        """The multiple of the depths, before they are rounded up."""
        return float(self.rule.alpha**self.phi)

    @property
    def width(self) -> float:
        """The multiple of the widths, before they are rounded to multiples of 8."""
        return float(self.rule.beta**self.phi)

    @property
    def file(self) -> str:
        """The name of its file in a family's folder."""
        return f"phi{str(self.phi).removesuffix('.0')}.json"

    def to_record(self) -> dict[str, Any]:
        """Its row of the family's table."""
        return {
            "phi": self.phi,
            "depth": self.depth,
            "width": self.width,
            "resolution": self.architecture.resolution,
            "params_m": self.cost.params / 1e6,
            "macs_m": self.cost.macs / 1e6,
            "id": self.architecture.id,
            "file": self.file,
            "alpha": self.rule.alpha,
            "beta": self.rule.beta,
            "gamma": self.rule.gamma,
        }


def scale_family(
    architecture: Architecture, phis: Iterable[float] = (1, 2, 3), rule: ScalingRule = PUBLISHED, *, num_classes: int = 1000
) -> tuple[Member, ...]:
    """The network at each phi, once each, in their order; below 0 it shrinks, and at 0 it is the network itself.

    Depths and widths round as `nas.scale` does, and the resolution to the nearest whole pixel: networks read any, and a coarser
    grid would part from the rule. The published B1 to B7 are other networks: their table (`nas.reference`) does not follow it.

    Raises: NasError for a phi beyond -30 to 30, or whose network is beyond the bounds of an architecture.
    """
    return tuple(_member(architecture, phi, rule, num_classes) for phi in dict.fromkeys(map(_checked, phis)))


def _checked(phi: float) -> float:
    if not (isinstance(phi, int | float) and abs(phi) <= MAX_PHI):
        raise NasError(f"phi: {phi!r} is not a number from -{MAX_PHI} to {MAX_PHI}")
    return float(phi) or 0.0  # which is -0.0 too


def _member(architecture: Architecture, phi: float, rule: ScalingRule, num_classes: int) -> Member:
    pixels, (low, high) = _pixels(architecture, phi, rule), RESOLUTIONS
    if not low <= pixels <= high:  # `scale` would take few pixels for a multiple
        raise NasError(f"phi {phi:g}: resolution {pixels} is not from {low} to {high}")
    try:
        scaled = scale(architecture, depth=rule.alpha**phi, width=rule.beta**phi, resolution=pixels)
    except NasError as error:
        raise NasError(f"phi {phi:g}: {error}") from None
    return Member(phi=phi, rule=rule, architecture=scaled, cost=cost(scaled, num_classes))


def _possible(architecture: Architecture, step: int, rule: ScalingRule, num_classes: int) -> Member | None:
    """The network at a phi in thousandths, where an architecture may be so."""
    try:
        return _member(architecture, step / PER_PHI, rule, num_classes)
    except NasError:
        return None


def _pixels(architecture: Architecture, phi: float, rule: ScalingRule) -> int:
    return round(architecture.resolution * float(rule.gamma**phi))


def scale_to_macs(architecture: Architecture, macs: float, rule: ScalingRule = PUBLISHED, *, num_classes: int = 1000) -> Member:
    """The network at the largest phi, in thousandths and of either sign, that has at most so many multiply-adds, exactly counted.

    Raises: NasError for a budget that no network of the family meets, or that the largest one does not come near.
    """
    if not (isinstance(macs, int | float) and 0 < macs < math.inf):
        raise NasError(f"macs: {macs!r} is not a positive number")
    if rule.growth == 1:
        raise NasError("macs: with alpha, beta and gamma all 1, every phi means the same network; give one that is more than 1")
    asked = f"macs {_shown(macs)}"
    whole = _member(architecture, 0.0, rule, num_classes)
    if whole.cost.macs > macs:
        return _largest_below(architecture, macs, whole, asked=asked, num_classes=num_classes)

    # From 0 upwards nothing shrinks: no block is dropped, and each width, depth and resolution rounds to no less than before.
    best, low, high = whole, 0, MAX_PHI * PER_PHI + 1
    while high - low > 1:
        middle = (low + high) // 2
        member = _possible(architecture, middle, rule, num_classes)
        fits = member is not None and member.cost.macs <= macs
        best, low, high = (member, middle, high) if member and fits else (best, low, middle)
    if high > MAX_PHI * PER_PHI or _possible(architecture, high, rule, num_classes) is None:
        raise NasError(
            f"{asked}: no network of the family is so large; the largest, at phi {best.phi:g}, has {_shown(best.cost.macs)}"
        )
    return best


def _largest_below(architecture: Architecture, macs: float, whole: Member, *, asked: str, num_classes: int) -> Member:
    """The first that fits, downwards from phi 0: one by one, as a stage that loses a narrow last block may cost more without."""
    smallest = whole
    for step in range(-1, -MAX_PHI * PER_PHI - 1, -1):
        member = _possible(architecture, step, whole.rule, num_classes)
        if member is not None and member.cost.macs <= macs:
            return member
        if member is not None and member.cost.macs < smallest.cost.macs:
            smallest = member
        if _pixels(architecture, step / PER_PHI, whole.rule) < RESOLUTIONS[0]:
            break
    raise NasError(
        f"{asked}: no network of the family is so small; the smallest, at phi {smallest.phi:g}, has {_shown(smallest.cost.macs)}"
    )


def _shown(macs: float) -> str:
    return f"{macs / 1e9:.4g} B" if macs >= 1e9 else f"{macs / 1e6:.4g} M"


def parse_macs(text: str) -> float:
    """Multiply-adds from a text such as 300M, 1.2B (or 1.2G) or 300000000.

    Raises: NasError.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmbg]?)", text.strip().lower(), re.ASCII)
    number = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < number < math.inf:
        raise NasError(f"macs: {text!r} is not a positive number of multiply-adds, such as 300M, 1.2B or 300000000")
    return number


def write_family(members: Sequence[Member], output: str | PathLike[str]) -> Path:
    """The folder of a family: the canonical text of each network in a file, and their table, `family.csv`.

    `nas train` and `--start` take the files. Whole or not at all; a family that was written there before is replaced.

    Raises: NasError for a folder that holds anything else, or a family whose files were changed, or that cannot be written.
    """
    if not members:
        raise NasError("a family needs a network; give at least one phi")
    target = Path(output).resolve()
    with whole_folder(target, check_output) as folder:
        for member in members:
            (folder / member.file).write_text(member.architecture.to_json() + "\n", encoding="utf-8")
        with (folder / FAMILY_FILE).open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(members[0].to_record()), lineterminator="\n")
            table.writeheader()
            table.writerows(member.to_record() for member in members)
    return target


def check_output(output: str | PathLike[str]) -> None:
    """Refuse a folder that a family must not replace.

    Raises: NasError.
    """
    target = Path(output).resolve()
    if target.exists() and not _is_family(target):
        raise NasError(f"{target} is there already and is no family as it was written; give another folder with --output")


def _is_family(folder: Path) -> bool:
    """Whether a folder holds what `write_family` writes, unchanged, or nothing, so that a new one may take its place."""
    if not folder.is_dir():
        return False
    there = {entry.name for entry in folder.iterdir()}
    if not there:
        return True
    try:
        with (folder / FAMILY_FILE).open(encoding="utf-8", newline="") as file:
            listed = {row["file"]: row["id"] for row in csv.DictReader(file)}
        if there != {FAMILY_FILE, *listed}:
            return False
        return all(Architecture.from_json((folder / name).read_text(encoding="utf-8")).id == id_ for name, id_ in listed.items())
    except (FileNotFoundError, KeyError, UnicodeDecodeError, csv.Error, NasError):
        return False
