"""From measurements of whole networks, for devices on which layers cannot be timed: a sum over what was chosen where.

Read `nas/objectives/` next.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from nas.errors import NasError

RIDGE: Final = 1e-4  # keeps what was measured in few networks, or never apart from something else, from large values
FELT: Final = (0.002, 0.06)  # errors between which a network weighs the more the larger its error is
ROUNDS: Final = 8
CLEARLY: Final = 0.01  # more of the fitted networks, for which they are reweighted
WITHIN: Final = 0.05  # of the measured latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Networks of one kind, by what is chosen at each of their places, and what was measured of them."""

    choices: "np.ndarray[Any, Any]"
    """(networks, places): a small whole number each."""
    latencies: dict[str, "np.ndarray[Any, Any]"]
    """Device → milliseconds of each network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveModel:
    """Milliseconds of each choice at each place; a network takes their sum."""

    constant_ms: float
    milliseconds: "np.ndarray[Any, Any]"
    """(places, choices); what was in no measured network has 0."""

    def predict(self, choices: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Milliseconds of each of (networks, places)."""
        predicted: np.ndarray[Any, Any] = self.constant_ms + self.milliseconds[np.arange(choices.shape[1]), choices].sum(axis=1)
        return predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well a sum describes a device, on networks that it was not fitted to."""

    device: str
    model: AdditiveModel
    fitted: int
    held_out: int
    within: float
    """The share of held-out networks that is predicted to within 5 %."""
    mape_pct: float
    spearman: float

    @property
    def additive(self) -> bool:
        """Whether nine in ten are."""
        return self.within >= 0.9

    def write(self, file: Path) -> None:
        """Write the sum as JSON: the constant, and a list of the choices' milliseconds for each place.

        Raises: NasError if the file cannot be written.
        """
        values = [[round(float(ms), 6) for ms in place] for place in self.model.milliseconds]
        record = {"device": self.device, "constant_ms": self.model.constant_ms, "milliseconds": values, "within": self.within}
        try:
            file.write_text(json.dumps(record) + "\n", encoding="utf-8")
        except OSError as error:
            raise NasError(f"{file} cannot be written: {error.strerror}") from None


def read_measurements(file: Path) -> Measurements:
    """A CSV file: the first column has a network as one digit for each place, every other the milliseconds on one device.

    Raises: NasError if it is something else.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            head, *rows = [row for row in csv.reader(lines) if row]
    except OSError as error:
        raise NasError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error):
        raise NasError(f"{file} is not a CSV file with a line of names and a line for each network") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head) or not row[0].isdigit() or len(row[0]) != len(rows[0][0]):
            raise NasError(
                f"{file}, line {number}: {','.join(row)[:60]!r} is not a network of {len(rows[0][0])} digits and {len(head) - 1} "
                "latencies"
            )
    if len(head) < 2 or len(rows) < 10:
        raise NasError(f"{file} has {len(rows)} networks and {len(head) - 1} devices; it needs 10 and 1")
    try:
        values = np.array([[float(value) for value in row[1:]] for row in rows])
    except ValueError as error:
        raise NasError(f"{file}: {error}") from None
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise NasError(f"{file} has latencies that are not greater than 0")
    choices = np.array([[int(digit) for digit in row[0]] for row in rows])
    return Measurements(choices=choices, latencies=dict(zip(head[1:], values.T, strict=True)))


def fit_additive(measurements: Measurements, device: str, *, fitted: int, seed: int = 0) -> Fit:
    """Fit a sum to so many of the networks, drawn at random, and hold it against the others.

    Least squares of the errors as shares of what was measured; then, where that brings more of the fitted networks within 5 %,
    reweighted by the errors up to 6 %. A device that was now fast and now slow, as some Xeons of the FBNet measurements, is so
    met in between.
    Raises: NasError for an unknown device, or a number that leaves none to hold it against.
    """
    from scipy.stats import spearmanr

    if device not in measurements.latencies:
        raise NasError(f"device {device!r} was not measured; there are {', '.join(measurements.latencies)}")
    choices, true = measurements.choices, measurements.latencies[device]
    if not 10 <= fitted < len(true):
        raise NasError(f"fitted: {fitted} is not from 10 to {len(true) - 1}, which leaves a network to hold it against")
    order = np.random.default_rng(seed).permutation(len(true))
    chosen, left = order[:fitted], order[fitted:]
    places, kinds = choices.shape[1], int(choices.max()) + 1
    features = np.zeros((len(true), 1 + places * kinds))
    features[:, 0] = 1
    features[np.arange(len(true))[:, None], 1 + kinds * np.arange(places) + choices] = 1
    shares = features[chosen] / true[chosen, None]
    penalty = RIDGE * fitted / true[chosen].mean() ** 2 * np.diag([0.0] + [1.0] * (places * kinds))  # alike for all devices
    best, most, trust = np.zeros(0), -fitted, np.ones(fitted)
    for _ in range(ROUNDS):
        weights = np.linalg.solve((shares.T * trust) @ shares + trust.mean() * penalty, shares.T @ trust)
        errors = np.abs(shares @ weights - 1)
        near = int((errors <= WITHIN).sum())
        if near > most + CLEARLY * fitted:
            best, most = weights, near
        trust = np.clip(errors, *FELT)
    weights = best
    model = AdditiveModel(constant_ms=float(weights[0]), milliseconds=weights[1:].reshape(places, kinds))
    errors = np.abs(model.predict(choices[left]) / true[left] - 1)
    return Fit(
        device=device,
        model=model,
        fitted=fitted,
        held_out=len(left),
        within=float((errors <= WITHIN).mean()),
        mape_pct=float(100 * errors.mean()),
        spearman=float(spearmanr(model.predict(choices[left]), true[left]).statistic),
    )
