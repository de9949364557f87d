"""EfficientNet-B0 at independent multiples of depth, width and resolution; the published B0 to B7 are points of it.

Source: Tan and Le, arXiv:1905.11946; coefficients as in tensorflow/tpu efficientnet_builder.py (see nas/models/zoo.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from nas.models.architecture import Architecture
from nas.models.scaling import scale
from nas.models.zoo import EFFICIENTNET_COEFFICIENTS, reference
from nas.spaces import Params, SearchSpace, check_encoding, check_range, first_choices, num_choices

STEP: Final = 0.01  # step of the multiples; a finer one would hardly change a rounded width or depth


@dataclass(frozen=True, kw_only=True)
class EfficientNetSpace(SearchSpace):
    """EfficientNet-B0 with its depth and width multiplied and its resolution replaced, each independently.

    Raises: NasError for a field outside its range.
    """

    max_depth: float = 3.1
    """Largest multiple of B0's depths; the smallest is 0.25."""
    max_width: float = 2.0
    """Largest multiple of B0's widths; the smallest is 0.25."""
    min_resolution: int = 96
    """Smallest side of the input, pixels; a multiple of 4."""
    max_resolution: int = 600
    """Largest side of the input, pixels; a multiple of 4."""

    def __post_init__(self) -> None:
        check_range("max_depth", self.max_depth, 0.25, 5.3, step=STEP)  # the upper bounds are EfficientNet-L2's multiples
        check_range("max_width", self.max_width, 0.25, 4.3, step=STEP)
        check_range("min_resolution", self.min_resolution, 32, self.max_resolution, step=4)
        check_range("max_resolution", self.max_resolution, self.min_resolution, 800, step=4)

    @property
    def name(self) -> str:
        """The space's name, `efficientnet`."""
        return "efficientnet"

    @cached_property
    def parameters(self) -> Mapping[str, BaseDistribution]:
        """The multiples `depth` and `width` of B0, and `resolution` in pixels."""
        return {
            "depth": FloatDistribution(0.25, self.max_depth, step=STEP),
            "width": FloatDistribution(0.25, self.max_width, step=STEP),
            "resolution": IntDistribution(self.min_resolution, self.max_resolution, step=4),
        }

    @cached_property
    def references(self) -> Mapping[str, Params]:
        """EfficientNet-B0 to B7, without those outside the space's bounds."""
        points = {
            f"efficientnet_{name}": {"depth": depth, "width": width, "resolution": resolution}
            for name, (width, depth, resolution) in EFFICIENTNET_COEFFICIENTS.items()
        }
        return {name: point for name, point in points.items() if self._contains(point)}

    def _contains(self, point: Params) -> bool:
        fits = self.min_resolution <= point["resolution"] <= self.max_resolution
        return bool(fits and point["depth"] <= self.max_depth and point["width"] <= self.max_width)

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """B0 scaled by the multiples, at the resolution."""
        return scale(B0, depth=params["depth"], width=params["width"], resolution=params["resolution"])

    def encode(self, architecture: Architecture) -> Params:
        """The resolution and the smallest multiples that decode to the network.

        Raises: SpaceError if there are none.
        """
        params = first_choices(self.parameters) | {"resolution": architecture.resolution}
        params["depth"] = self._by_depths.get(_depths(architecture))
        params["width"] = self._by_widths.get(_widths(architecture))
        return check_encoding(self, architecture, params)

    @cached_property
    def _by_depths(self) -> Mapping[tuple[int, ...], float]:
        """Depths of the stages → the smallest multiple that gives them."""
        return {_depths(scale(B0, depth=depth)): depth for depth in reversed(_values(self.parameters["depth"]))}

    @cached_property
    def _by_widths(self) -> Mapping[tuple[int, ...], float]:
        """Widths of stem, stages and head → the smallest multiple that gives them."""
        return {_widths(scale(B0, width=width)): width for width in reversed(_values(self.parameters["width"]))}


def _depths(architecture: Architecture) -> tuple[int, ...]:
    return tuple(len(blocks) for blocks in architecture.stages)


def _widths(architecture: Architecture) -> tuple[int, ...]:
    return (architecture.stem.width, *(blocks[-1].width for blocks in architecture.stages), architecture.head.width)


def _values(distribution: BaseDistribution) -> list[float]:
    """Every value of a multiple, smallest first."""
    return [round(0.25 + STEP * i, 2) for i in range(int(num_choices(distribution)))]


B0: Final = reference("efficientnet_b0")
SPACE: Final = EfficientNetSpace()
