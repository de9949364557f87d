"""Warm starts: networks to try first, results reused from other runs, and baselines beside the search."""

import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nas.errors import ArchitectureError, NasError, SpaceError
from nas.models.architecture import Architecture
from nas.models.network import Network, OwnNetwork, find_network
from nas.models.zoo import reference, references
from nas.runs.experiment import Experiment
from nas.runs.front import front
from nas.runs.images import dataset_difference
from nas.runs.results import results
from nas.runs.run_folder import EXPERIMENT_FILE, read_experiment, weights_file
from nas.runs.serialization import as_json, describe
from nas.runs.trial import Outcome, Status, Trial, Weights
from nas.runs.trial_log import read_trials
from nas.searching.problem import Point, Problem
from nas.spaces import Params, SearchSpace, sample

NUM_SAMPLES: Final = 100  # random points for the estimate of a space's largest resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """A network to try before the sampler's own proposals."""

    params: Params
    source: str
    """reference, start, reuse or front."""
    name: str
    """The reference's name, the name that the user gave, or for a reused network its run and trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusedResult:
    """A network's result in another run."""

    name: str
    """The run and its trial."""
    outcome: Outcome
    """Its values are only those of the objectives that need training."""
    weights: Path
    """The file of its weights, which exists if the run kept them."""
    architecture: str
    """The architecture's text."""


def warm_starts(space: SearchSpace, names: Iterable[str]) -> list[WarmStart]:
    """The space's references, then the networks that the user names.

    Raises: NasError for a network that does not exist, or is outside the space.
    """
    starts = []
    for name, params in space.references.items():
        exact = name in references() and space.decode(params) == reference(name)
        starts.append(WarmStart(params=dict(params), source="reference", name=name if exact else f"like {name}"))
    for name in names:
        for architecture in find_architectures(name):
            try:
                starts.append(WarmStart(params=space.encode(architecture), source="start", name=name))
            except SpaceError as error:
                raise NasError(
                    f"start {name}: {error}; name a network of this space, or search the space that it is from"
                ) from None
    return starts


def reused_starts(space: SearchSpace, reused: Iterable[ReusedResult]) -> Iterator[WarmStart]:
    """The networks of other runs that are points of the space."""
    for network in reused:
        with suppress(SpaceError, ArchitectureError):  # also raised for timm's networks
            params = space.encode(Architecture.from_json(network.architecture))
            yield WarmStart(params=params, source="reuse", name=network.name)


def find_architectures(name: str) -> list[Architecture]:
    """The architecture of a name, file or export, or those on the front of a run.

    Raises: NasError for a name that does not exist, or a network of timm's.
    """
    if (Path(name) / EXPERIMENT_FILE).is_file():
        return [Architecture.from_json(text) for text in front(results(name))["architecture"]]
    return [find_network(name).architecture]


def reusable_results(experiment: Experiment) -> dict[str, ReusedResult]:
    """Network id → its result in the runs to reuse.

    Raises: NasError for a run with another dataset, other settings or other objectives.
    """
    trained = [objective.name for objective in experiment.steering if objective.needs_training]
    reusable: dict[str, ReusedResult] = {}
    for name in experiment.reuse:
        run = Path(name).resolve()
        _check_same_training(experiment, name, read_experiment(run))
        for trial in read_trials(run):
            result = reusable_result(run, trial, trained)
            if result is not None and trial.weights not in (Weights.SHARED, Weights.FINE_TUNED):
                reusable[trial.id] = result
    return reusable


def reusable_result(run: Path, trial: Trial, trained: Collection[str]) -> ReusedResult | None:
    """A trial's result in a run; None if it is not done, or lacks an objective that needs training."""
    is_whole = trial.status is Status.DONE and trial.values.keys() >= set(trained)
    if not is_whole or trial.number is None or trial.outcome is None or trial.architecture is None:
        return None
    return ReusedResult(
        name=f"{run.name} trial {trial.number}",
        outcome=replace(trial.outcome, values={name: trial.values[name] for name in trained}),
        weights=weights_file(run, trial.number),
        architecture=trial.architecture,
    )


def _check_same_training(experiment: Experiment, name: str, described: Mapping[str, Any]) -> None:
    """Raises: NasError if a run's settings, dataset or objectives are not the experiment's."""
    if described["tune"]:
        raise NasError(f"reuse {name}: it searched training settings, so its results are not comparable; --start takes its front")
    here = as_json(describe(experiment, ""))
    difference = dataset_difference(described["dataset"], here["dataset"])
    for field, now in here["train"].items():
        before = described["train"].get(field)
        if before != now and not difference:
            difference = f"its train.{field} is {before!r}, and here it is {now!r}"
    if difference:
        raise NasError(f"reuse {name}: {difference}; its results are not comparable")
    there = {objective["name"]: objective for objective in described["objectives"]}
    for now in here["objectives"]:
        measured, before = now["name"], there.get(now["name"])
        if not (now["needs_training"] and now["steers"]):
            continue
        if before is None:
            raise NasError(f"reuse {name}: objective {measured} was not measured there; it has {', '.join(sorted(there))}")
        other_table = now["needs_latency"] and described["latency_table"] != here["latency_table"]
        if before["measure"]["fields"] != now["measure"]["fields"] or other_table:
            raise NasError(f"reuse {name}: its {measured} was measured with other settings or another latency table")


def baselines(problem: Problem, names: Iterable[str]) -> dict[str, Point]:
    """Name → network, each network once, at its own resolution or the space's largest, whichever is smaller.

    Raises: NasError for a name that does not exist, or a network that cannot read such images.
    """
    points: dict[str, Point] = {}
    names = tuple(names)
    largest = _largest_resolution(problem) if names else 0
    for name in names:
        network = find_network(name)
        network = network.at(largest) if network.resolution > largest else network
        network.check(problem.num_classes, [network.resolution])
        point = examine_in_space(problem, network)
        if point.id not in {other.id for other in points.values()}:
            points[name] = point
    return points


def examine_in_space(problem: Problem, network: Network) -> Point:
    """A baseline with its costs and limits; with its parameters if it is a point of the space, but no searched settings."""
    if not isinstance(network, OwnNetwork):
        return problem.examine_network(network)
    try:
        params = problem.space.encode(network.architecture)
    except SpaceError:
        return problem.examine_network(network)
    return problem.examine_network(network, {name: value for name, value in params.items() if name not in problem.tuned})


def _largest_resolution(problem: Problem) -> int:
    """The largest resolution in pixels, over the references and random points."""
    space, generator = problem.space, random.Random(0)
    points = [*space.references.values(), *(sample(space.parameters, generator) for _ in range(NUM_SAMPLES))]
    return max(space.decode(point).resolution for point in points)
