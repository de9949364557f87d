"""Makes a latency table from the latencies of whole networks, for a device that times no layers, such as a phone.

A roofline predicts a layer's milliseconds from its multiply-adds and the values that it moves: at first one for all layers, then
one for each kind of layer, near the first. Then each layer of the measured networks gets a factor on its prediction; the other
layers keep theirs.
"""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import lsq_linear, nnls
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from nas.errors import NasError, SpaceError
from nas.models.architecture import Architecture
from nas.models.layers import Layer, layers
from nas.objectives import Limit
from nas.objectives.latency.build_table import compare_latencies, reachable
from nas.objectives.latency.measured import read_list
from nas.objectives.latency.table import LatencyTable
from nas.spaces import SearchSpace

MIN_NETWORKS: Final = 10  # fewer give no error to believe
FOLDS: Final = 10  # of the cross-validation that gives the table's error
KIND_RIDGE: Final = 0.03  # weight, in networks, of the prior that every kind of layer has the roofline of all
LARGEST_RATIO: Final = 1.5  # of measurements of one network, before a warning
LEAST_SPEARMAN: Final = 0.7  # of the cross-validation, before a warning
STRENGTHS: Final = np.logspace(-4, 4, 33)  # of the ridge, from which leave-one-out cross-validation takes one

logger = logging.getLogger(__name__)
Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The latencies of networks of a space on another device."""

    device: str
    """The device's name: that of the file."""
    milliseconds: Mapping[Architecture, float]
    unmeasured: int
    """How many rows of the file have no milliseconds."""


def read_measurements(file: Path, space: SearchSpace, num_classes: int) -> Measurements:
    """The latencies in a list that `nas latency sample` wrote and its user filled; several of one network give their median.

    Raises: NasError for a wrong row, a network of another space or with another number of classes, too few networks, or
    the same milliseconds for all.
    """
    rows, measured = read_list(file), dict[Architecture, list[float]]()
    for row in rows:
        where = f"{file}: line {row.line}"
        try:
            space.encode(row.architecture)
        except SpaceError as error:
            raise NasError(f"{where}: {error}; name the space that the list was made for") from None
        if row.num_classes != num_classes:
            raise NasError(
                f"{where}: its network has {row.num_classes} classes, not {num_classes}; give --classes {row.num_classes}"
            )
        if row.ms is not None:
            measured.setdefault(row.architecture, []).append(row.ms)
    if len(measured) < MIN_NETWORKS:
        raise NasError(
            f"{file} has the milliseconds of {len(measured)} networks; a table needs {MIN_NETWORKS} or more, and 100 are better"
        )
    if apart := sum(max(values) > LARGEST_RATIO * min(values) for values in measured.values()):
        logger.warning("%s: %d networks have milliseconds that differ by more than %g times", file, apart, LARGEST_RATIO)
    milliseconds = {network: statistics.median(values) for network, values in measured.items()}
    least, most = min(milliseconds.values()), max(milliseconds.values())
    if least == most:
        raise NasError(f"{file}: all {len(measured)} networks take {least:g} ms; write the milliseconds of each")
    return Measurements(device=file.stem, milliseconds=milliseconds, unmeasured=sum(row.ms is None for row in rows))


def fit_table(
    measurements: Measurements,
    space: SearchSpace,
    *,
    resolution: int | None = None,
    limits: Sequence[Limit] = (),
    num_classes: int = 1000,
) -> LatencyTable:
    """A table of the space's layers that fits the measured networks, with its error from cross-validation over networks.

    It has every layer of networks within the limits, of the given resolution or of those from the lowest to the highest that was
    measured.

    Raises: NasError if the space has no such network, or none of a resolution that was measured.
    """
    measured = [layers(network, num_classes) for network in measurements.milliseconds]
    sides = [network.resolution for network in measurements.milliseconds]
    only = sides[0] if len(set(sides)) == 1 else None
    others = reachable(space, resolution=resolution or only, limits=limits, num_classes=num_classes)
    covered = [layers(network, num_classes) for network in others if min(sides) <= network.resolution <= max(sides)]
    if not covered:
        raise NasError(
            f"networks were measured at {min(sides)} to {max(sides)} px, and none of space {space.name} is there with this "
            "resolution and these limits; give a --resolution that was measured, or none"
        )
    all_layers = {layer.key: layer for network in (*measured, *covered) for layer in network}
    milliseconds = np.array(list(measurements.milliseconds.values()))
    counts, features = _counts(measured, list(all_layers)), _features(list(all_layers.values()))
    held_out = np.zeros(len(milliseconds))
    for fitted, tested in KFold(FOLDS, shuffle=True, random_state=0).split(counts):
        held_out[tested] = counts[tested] @ _layer_ms(counts[fitted], features, milliseconds[fitted])
    layer_ms, check = _layer_ms(counts, features, milliseconds), compare_latencies(milliseconds, held_out)
    if check.spearman < LEAST_SPEARMAN:
        logger.warning("the table hardly predicts the measured milliseconds (%s); check that each is its network's", check)
    return LatencyTable(
        device=measurements.device,
        runtime_version="",
        setup=None,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        space=space.name,
        milliseconds={key: float(f"{ms:.6g}") for key, ms in zip(all_layers, layer_ms, strict=True)},
        check=check,
    )


def _counts(networks: Sequence[Sequence[Layer]], keys: Sequence[str]) -> Array:
    """How often each network has each layer. Shapes: (networks, layers)."""
    column = {key: number for number, key in enumerate(keys)}
    counts = np.zeros((len(networks), len(keys)))
    for row, network in zip(counts, networks, strict=True):
        np.add.at(row, [column[layer.key] for layer in network], 1)
    return counts


def _features(all_layers: Sequence[Layer]) -> Array:
    """What a layer's latency depends on: its multiply-adds, the values it moves and a constant, each in the column of its kind.

    Each network has one pooling layer, so the constant of this kind is one for each network.
    Shapes: (layers, 3, kinds).
    """
    costs = np.array([(layer.macs, _moved_values(layer), 1) for layer in all_layers], dtype=float)
    kinds = pd.get_dummies(pd.Series([layer.kind for layer in all_layers])).to_numpy(dtype=float)
    features: Array = costs[:, :, None] * kinds[:, None, :]
    return features


def _moved_values(layer: Layer) -> int:
    """The number of values that a layer reads and writes: its input, or both inputs of a sum, its weights and its output."""
    inputs = 2 if layer.kind == "add" else 1
    return inputs * layer.width_in * layer.size**2 + layer.params + layer.width * layer.size_out**2


def _layer_ms(counts: Array, features: Array, milliseconds: Array) -> Array:
    """Milliseconds of each layer, none below 0, that fit those of networks with least relative error.

    Shapes: counts (networks, layers), features (layers, 3, kinds), milliseconds (networks,) → (layers,).
    """
    roofline = _roofline(counts, features, milliseconds)
    layer_ms: Array = roofline * _factors(counts * roofline / milliseconds[:, None])
    return layer_ms


def _factors(shares: Array) -> Array:
    """Factors of 0 or more, one a layer, that bring the sum of each network's shares to 1; a ridge pulls them towards 1.

    A share is a layer's predicted part of its network's measured latency. A layer of no network gets 1.
    Shapes: (networks, layers) → (layers,).
    """
    strength = RidgeCV(alphas=STRENGTHS, fit_intercept=False).fit(shares, 1 - shares.sum(axis=1)).alpha_
    (num_networks, num_layers), weight = shares.shape, np.sqrt(strength)
    system = sparse.vstack([sparse.csr_matrix(shares), weight * sparse.identity(num_layers)], format="csr")
    target = np.repeat([1.0, weight], [num_networks, num_layers])
    factors: Array = lsq_linear(system, target, bounds=(0, np.inf), lsmr_tol="auto").x
    return factors


def _roofline(counts: Array, features: Array, milliseconds: Array) -> Array:
    """Milliseconds of each layer by the roofline of its kind, with coefficients of 0 or more; shapes as `_layer_ms` has them."""
    num_layers, _, kinds = features.shape
    columns = np.tensordot(counts / milliseconds[:, None], features, axes=1)  # (networks, 3, kinds)
    scales = columns.sum(axis=2).mean(axis=0)  # of each of the three, so that their coefficients are comparable
    ones = np.ones(len(columns))
    of_all, _ = nnls(columns.sum(axis=2) / scales, ones)
    prior, weight = np.repeat(of_all, kinds), np.sqrt(KIND_RIDGE)
    rows = (columns / scales[:, None]).reshape(len(columns), -1)
    of_kinds, _ = nnls(np.r_[rows, weight * np.eye(len(prior))], np.r_[ones, weight * prior])
    roofline: Array = (features / scales[:, None]).reshape(num_layers, -1) @ of_kinds
    return roofline
