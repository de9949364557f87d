"""Networks to hold a search against, trained under its recipe: those published that its space has, and any others by name.

Read `searcher.py` next.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas.errors import NasError, SpaceError
from nas.experiment import Experiment
from nas.feasibility import appraise
from nas.networks import Network, OwnNetwork, TimmNetwork, find_network
from nas.published import reference, references
from nas.spaces import Params, sample

PROBE: Final = 100  # random points that tell the largest resolution of a space


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A network that is trained beside a search."""

    name: str
    """As published, or as the user gave it."""
    text: str
    """Of the architecture, or the name and resolution of timm's own network."""
    id: str
    params: Params
    """Of the space; empty for a network that is no point of it."""
    values: Mapping[str, float]
    """Objective or limit name → value, of those that need no training, as far as they are known."""
    admitted: bool
    """Whether it is a point of the space that meets the limits."""


def baselines(experiment: Experiment, names: Iterable[str], *, resolution: int | None = None) -> list[Baseline]:
    """The references of the space, and the networks of these names.

    `resolution` is of the latter, by default their own, but no larger than the largest of the space.
    Raises: NasError for a name that is not known, or a network that cannot read such images.
    """
    space, classes = experiment.space, len(experiment.dataset.classes)
    found = []
    for name, params in space.references.items():
        architecture = space.decode(params)
        exact = name in references() and architecture == reference(name)
        found.append(of_network(experiment, name if exact else f"like {name}", OwnNetwork(architecture=architecture)))
    generator = random.Random(experiment.seed)
    points = [*space.references.values(), *(sample(space.parameters, generator) for _ in range(PROBE))]
    largest = max(space.decode(point | _largest(space.parameters)).resolution for point in points)
    for name in names:
        network = find_network(name, resolution=resolution)
        if resolution is None and network.resolution > largest:
            network = find_network(name, resolution=largest)
        network.check(classes, [network.resolution])
        found.append(of_network(experiment, name, network))
    return found


def _largest(parameters: Mapping[str, BaseDistribution]) -> Params:
    """The largest resolution, where it is a parameter of its own."""
    found = parameters.get("resolution")
    if isinstance(found, CategoricalDistribution):
        return {"resolution": max(found.choices, key=float)}  # type: ignore[arg-type]
    return {} if found is None else {"resolution": found.high}  # type: ignore[attr-defined]


def of_network(experiment: Experiment, name: str, network: Network) -> Baseline:
    """What is known of a network before training."""
    if isinstance(network, TimmNetwork):
        costs = network.costs(len(experiment.dataset.classes))
        known = {"params_m": costs["params"] / 1e6, "macs_m": costs["macs"] / 1e6}
        asked = {one.name for one in (*experiment.objectives, *(limit.objective for limit in experiment.limits))}
        values = {name: value for name, value in known.items() if name in asked}
        own = f"{network.id}@{network.resolution}"
        return Baseline(name=name, text=network.to_json(), id=own, params={}, values=values, admitted=False)
    try:
        params = experiment.space.encode(network.architecture)
    except SpaceError:
        params = {}
    point = appraise(experiment, network.architecture, params)
    admitted = bool(params) and point.admitted
    return Baseline(name=name, text=point.text, id=point.id, params=params, values=point.values, admitted=admitted)


def check_new(given: Iterable[Baseline], seen: Iterable[str], *, waiting: bool) -> list[Baseline]:
    """Those that have no row yet, each once.

    Raises: NasError if there is none, and none is `waiting` to be gone on with.
    """
    there, found = set(seen), dict[str, Baseline]()
    for baseline in given:
        if baseline.id not in there:
            found.setdefault(baseline.id, baseline)
    if not found and not waiting:
        raise NasError("every baseline has a row already; name others, such as timm:mobilenetv2_100, or see `nas table`")
    return list(found.values())
