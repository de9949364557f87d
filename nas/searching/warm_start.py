"""Warm starts: networks to try first, results reused from other runs, and baselines beside the search."""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nas.errors import ArchitectureError, NasError, SpaceError
from nas.models.architecture import Architecture
from nas.models.network import Network, OwnNetwork, find_network
from nas.models.zoo import reference, references
from nas.runs.experiment import Experiment
from nas.runs.folder import EXPERIMENT_FILE, read_experiment, weights_file
from nas.runs.results import front, results
from nas.runs.serialization import as_json, describe
from nas.runs.trial import Outcome, Status
from nas.runs.trial_log import read_trials
from nas.searching.problem import Point, Problem
from nas.spaces import Params, SearchSpace, sample

PROBE: Final = 100  # random points that tell the largest resolution of a space


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network to try before the sampler is asked."""

    params: Params
    source: str
    """reference, start or reuse."""
    name: str
    """As published, or as the user gave it; a run and its trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """What became of a network in another run."""

    name: str
    """The run and its trial."""
    outcome: Outcome
    """With the values of the objectives that need training alone."""
    weights: Path
    """Where they are, if they were kept."""
    architecture: str
    """As text."""


def starts(space: SearchSpace, names: Iterable[str]) -> list[Start]:
    """The space's references, then the networks that the user names.

    Raises: NasError for one that does not exist, or is not a point of the space.
    """
    found = []
    for name, params in space.references.items():
        exact = name in references() and space.decode(params) == reference(name)
        found.append(Start(params=dict(params), source="reference", name=name if exact else f"like {name}"))
    for name in names:
        for architecture in named(name):
            try:
                found.append(Start(params=space.encode(architecture), source="start", name=name))
            except SpaceError as error:
                raise NasError(f"start {name}: {error}; give one of this space, or the space that it is from") from None
    return found


def reused_starts(space: SearchSpace, reused: Iterable[Reused]) -> Iterator[Start]:
    """The networks of other runs that are of the space."""
    for network in reused:
        with suppress(SpaceError, ArchitectureError):  # of timm's networks too
            params = space.encode(Architecture.from_json(network.architecture))
            yield Start(params=params, source="reuse", name=network.name)


def named(name: str) -> list[Architecture]:
    """The architecture of a name, file or export; those on the front of a run.

    Raises: NasError for one that does not exist, or is timm's own.
    """
    if (Path(name) / EXPERIMENT_FILE).is_file():
        return [Architecture.from_json(text) for text in front(results(name))["architecture"]]
    return [find_network(name).architecture]


def outcomes(experiment: Experiment) -> dict[str, Reused]:
    """Network id → what became of it in the runs that may be reused.

    Raises: NasError for a run whose networks were trained on other images, or otherwise.
    """
    trained = [objective.name for objective in experiment.objectives if objective.needs_training]
    found: dict[str, Reused] = {}
    for name in experiment.reuse:
        run = Path(name).resolve()
        _check_alike(experiment, name, read_experiment(run))
        for trial in read_trials(run):
            if trial.status is not Status.DONE or trial.number is None:
                continue
            if trial.outcome and trial.architecture and trial.values.keys() >= set(trained):
                found[trial.id] = Reused(
                    name=f"{run.name} trial {trial.number}",
                    outcome=replace(trial.outcome, values={name: trial.values[name] for name in trained}),
                    weights=weights_file(run, trial.number),
                    architecture=trial.architecture,
                )
    return found


def _check_alike(experiment: Experiment, name: str, described: Mapping[str, Any]) -> None:
    """Raises: NasError if a run's settings, dataset or objectives are not the experiment's."""
    here = as_json(describe(experiment, ""))
    for part in ("train", "dataset"):
        for field, now in here[part].items():
            before = described[part].get(field)
            if before != now:
                what = f"its {part}.{field} is {before!r}, and here it is {now!r}"
                raise NasError(f"reuse {name}: {what}; its outcomes are of other trainings")
    there = {objective["name"]: objective for objective in described["objectives"]}
    for now in here["objectives"]:
        measured, before = now["name"], there.get(now["name"])
        if not now["needs_training"]:
            continue
        if before is None:
            raise NasError(f"reuse {name}: objective {measured} was not measured there; it has {', '.join(sorted(there))}")
        other_table = now["needs_latency"] and described["latency_table"] != here["latency_table"]
        if before["measure"]["fields"] != now["measure"]["fields"] or other_table:
            raise NasError(f"reuse {name}: its {measured} was measured with other settings, or is by another latency table")


def baselines(problem: Problem, names: Iterable[str]) -> dict[str, Point]:
    """Name → network, each network once, at its own resolution, but no larger than the largest of the space.

    Raises: NasError for a name that is not known, or a network that cannot read such images.
    """
    found: dict[str, Point] = {}
    names = tuple(names)
    largest = _largest_resolution(problem) if names else 0
    for name in names:
        network = find_network(name)
        network = network.at(largest) if network.resolution > largest else network
        network.check(problem.num_classes, [network.resolution])
        point = point_of(problem, network)
        if point.id not in {other.id for other in found.values()}:
            found[name] = point
    return found


def point_of(problem: Problem, network: Network) -> Point:
    """A network held against the space and its limits."""
    if not isinstance(network, OwnNetwork):
        return problem.appraise(network)
    try:
        return problem.appraise(network, problem.space.encode(network.architecture))
    except SpaceError:
        return problem.appraise(network)


def _largest_resolution(problem: Problem) -> int:
    """Pixels, by the references and some random points."""
    space, generator = problem.space, random.Random(0)
    points = [*space.references.values(), *(sample(space.parameters, generator) for _ in range(PROBE))]
    return max(space.decode(point).resolution for point in points)
