"""Compound scaling of any network: how to share each doubling of multiply-adds between depth, width and resolution.

Depth grows by alpha^phi, width by beta^phi, resolution by gamma^phi, with alpha * beta^2 * gamma^2 = 2 at every
point, so that phi + 1 has about twice the multiply-adds of phi (EfficientNet, arXiv:1905.11946, equation 3).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final

from optuna.distributions import BaseDistribution, FloatDistribution
from tyro.conf import arg

from nas.models.architecture import Architecture
from nas.models.scaling import ScalingRule, scale, scaled_depth
from nas.models.zoo import reference, references
from nas.spaces import Params, SearchSpace, check_encoding, check_range, first_choices, num_choices

SHARE_STEP: Final = 0.05
PHI_STEP: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class CompoundSpace(SearchSpace):
    """The base network with depth, width and resolution multiplied by alpha^phi, beta^phi and gamma^phi.

    Raises: NasError for a field outside its range; ArchitectureError if a corner of the space is not a valid network.
    """

    base: Annotated[str | Architecture, arg(constructor=str)] = "efficientnet_b0"
    """The network to scale: a reference's name, or in Python an Architecture, stored as its canonical text."""
    min_phi: float = -2.0
    """Smallest phi, a multiple of 0.25; -1 about halves the multiply-adds."""
    max_phi: float = 3.0
    """Largest phi, a multiple of 0.25; 1 about doubles the multiply-adds."""

    def __post_init__(self) -> None:
        if isinstance(self.base, Architecture):
            object.__setattr__(self, "base", self.base.to_json())  # the form that a run folder stores
        check_range("min_phi", self.min_phi, -6.0, self.max_phi, step=PHI_STEP)
        check_range("max_phi", self.max_phi, self.min_phi, 7.0, step=PHI_STEP)
        for depth_share, width_share in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0)):  # if the corners are valid, every point is
            for phi in (self.min_phi, self.max_phi):
                self.decode({"depth_share": depth_share, "width_share": width_share, "phi": phi})

    @property
    def name(self) -> str:
        """The space's name, `compound`."""
        return "compound"

    @cached_property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """`depth_share` is depth's share of each doubling, `width_share` is width's share of the rest, and `phi` the exponent.

        There are none if phi is always 0: then the base is the only network, and training settings can be searched for it.
        """
        if self.min_phi == self.max_phi == 0:
            return {}
        return {
            "depth_share": FloatDistribution(0.0, 1.0, step=SHARE_STEP),
            "width_share": FloatDistribution(0.0, 1.0, step=SHARE_STEP),
            "phi": FloatDistribution(self.min_phi, self.max_phi, step=PHI_STEP),
        }

    @cached_property
    def references(self) -> Mapping[str, Params]:
        """The base network at phi = 0, under its name if it is a reference."""
        names = [name for name in references() if reference(name) == self.architecture]
        point = first_choices(self.parameters) | ({"phi": 0.0} if self.parameters else {})
        return dict.fromkeys(names, point) if self.min_phi <= 0 <= self.max_phi else {}

    @cached_property
    def architecture(self) -> Architecture:
        """The base network, which every point scales."""
        base = str(self.base)
        return Architecture.from_json(base) if base.startswith("{") else reference(base)

    def rule(self, params: Mapping[str, Any]) -> ScalingRule:
        """The scaling rule of a point: alpha, beta and gamma are its multiples at phi = 1."""
        alpha, beta, gamma = multiples({**params, "phi": 1.0})
        return ScalingRule(alpha=alpha, beta=beta, gamma=gamma)

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The base network scaled by the point's multiples."""
        if not self.parameters:
            return self.architecture
        depth, width, resolution = multiples(params)
        return scale(self.architecture, depth=depth, width=width, resolution=resolution)

    def encode(self, architecture: Architecture) -> Params:
        """The first point that decodes to the network.

        Raises: SpaceError if no point does.
        """
        if not self.parameters:
            return check_encoding(self, architecture, {})
        depths = tuple(len(blocks) for blocks in architecture.stages)
        for params in self._by_resolution.get(architecture.resolution, ()):
            if self._depths(multiples(params)[0]) == depths and self.decode(params) == architecture:
                return params
        return check_encoding(self, architecture, first_choices(self.parameters))

    @cached_property
    def _by_resolution(self) -> Mapping[int, list[Params]]:
        """Input resolution → the points with it."""
        points: dict[int, list[Params]] = {}
        shares = [round(SHARE_STEP * i, 2) for i in range(int(num_choices(self.parameters["depth_share"])))]
        phis = [self.min_phi + PHI_STEP * i for i in range(int(num_choices(self.parameters["phi"])))]
        for phi, depth_share, width_share in itertools.product(phis, shares, shares):
            params = {"depth_share": depth_share, "width_share": width_share, "phi": phi}
            resolution = round(self.architecture.resolution * multiples(params)[2])
            points.setdefault(resolution, []).append(params)
        return points

    def _depths(self, depth: float) -> tuple[int, ...]:
        return tuple(scaled_depth(blocks, depth) for blocks in self.architecture.stages)


def multiples(params: Mapping[str, Any]) -> tuple[float, float, float]:
    """The multiples of (depth, width, resolution): alpha^phi, beta^phi, gamma^phi."""
    depth_share, width_share, phi = params["depth_share"], params["width_share"], params["phi"]
    rest = 1.0 - depth_share
    exponents = depth_share, rest * width_share / 2, rest * (1.0 - width_share) / 2  # log2 of alpha, beta, gamma
    return (2.0 ** (exponents[0] * phi), 2.0 ** (exponents[1] * phi), 2.0 ** (exponents[2] * phi))


SPACE: Final = CompoundSpace()
