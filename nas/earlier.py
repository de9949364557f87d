"""What a search need not find out again: networks to start from, and outcomes of other runs. Read `searcher.py` next."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nas.architecture import Architecture, is_text
from nas.description import as_json, describe
from nas.errors import NasError, SpaceError
from nas.experiment import Experiment
from nas.networks import find_network
from nas.published import reference, references
from nas.runs import EXPERIMENT_FILE, WEIGHTS, read_experiment
from nas.spaces import Params
from nas.table import front, results

MEASURED: Final = ("epochs", "seconds", "fingerprint", "device", "precision", "micro_batch", "peak_memory_mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network to try before the sampler is asked."""

    params: Params
    source: str
    """reference, start or reuse."""
    name: str
    """As published, or as the user gave it; the id of an architecture that was given as its text; a run and its trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What became of a network in another run."""

    name: str
    """The run and its trial."""
    values: Mapping[str, float]
    """Objective name → value, of those that need training."""
    measured: Mapping[str, Any]
    """The row's other columns."""
    weights: Path
    """Where they are, if they were kept."""
    architecture: str
    """As text."""


def starts(experiment: Experiment) -> list[Start]:
    """The space's references, then the networks that the user names.

    Raises: NasError for one that does not exist, or is not a point of the space.
    """
    space = experiment.space
    found = []
    for name, params in space.references.items():
        exact = name in references() and space.decode(params) == reference(name)
        found.append(Start(params=dict(params), source="reference", name=name if exact else f"like {name}"))
    for name in experiment.start:
        for architecture in named(name):
            try:
                shown = architecture.id if is_text(name) else name
                found.append(Start(params=space.encode(architecture), source="start", name=shown))
            except SpaceError as error:
                raise NasError(f"start {name}: {error}; give one of this space, or the space that it is from") from None
    return found


def reused(experiment: Experiment, known: Iterable[Known]) -> Iterator[Start]:
    """The networks of other runs that are of the space."""
    for network in known:
        with suppress(SpaceError):
            params = experiment.space.encode(Architecture.from_json(network.architecture))
            yield Start(params=params, source="reuse", name=network.name)


def named(name: str) -> list[Architecture]:
    """The architecture of a name, file or export; those on the front of a run."""
    if not is_text(name) and (Path(name) / EXPERIMENT_FILE).is_file():
        return [Architecture.from_json(text) for text in front(results(name))["architecture"]]
    architecture = find_network(name).architecture
    if architecture is None:
        raise NasError(f"start {name}: it is timm's own network and has no architecture of a space")
    return [architecture]


def outcomes(experiment: Experiment) -> dict[str, Known]:
    """Architecture id → what became of it in the runs that may be reused.

    Raises: NasError for a run whose networks were trained on other images, or otherwise.
    """
    known: dict[str, Known] = {}
    for name in experiment.reuse:
        run = Path(name).resolve()
        described = read_experiment(run)
        _check_alike(experiment, name, described)
        known |= dict(_done(experiment, run))
    return known


def _check_alike(experiment: Experiment, name: str, described: Mapping[str, Any]) -> None:
    """Raises: NasError if a run's recipe, dataset or objectives are not the experiment's."""
    here = as_json(describe(experiment, ""))
    for field, before, now in (
        *((f"train.{key}", described["train"].get(key), value) for key, value in here["train"].items()),
        *((f"dataset.{key}", described["dataset"].get(key), value) for key, value in here["dataset"].items()),
    ):
        if before != now:
            raise NasError(
                f"reuse {name}: its {field} is {before!r}, and here it is {now!r}; its outcomes are of other trainings"
            )
    there = {objective["name"]: objective for objective in described["objectives"]}
    for objective in here["objectives"]:
        before = there.get(objective["name"], objective)
        if objective["needs_training"] and before.get("fields") != objective.get("fields"):
            raise NasError(
                f"reuse {name}: its objective {objective['name']} is of {before.get('fields')}, not {objective['fields']}"
            )
        if objective["name"] == "mnasnet_reward" and described["latency_table"] != here["latency_table"]:
            raise NasError(f"reuse {name}: its mnasnet_reward is of latencies by another table")
    missing = [objective.name for objective in experiment.objectives if objective.needs_training and objective.name not in there]
    if missing:
        raise NasError(f"reuse {name}: objective {missing[0]} was not measured there; it has {', '.join(sorted(there))}")


def _done(experiment: Experiment, run: Path) -> Iterator[tuple[str, Known]]:
    trained = [objective.name for objective in experiment.objectives if objective.needs_training]
    df = results(run)
    for row in df[df["status"] == "done"].to_dict("records"):
        yield (
            str(row["id"]),
            Known(
                name=f"{run.name} trial {row['trial']}",
                values={name: float(row[name]) for name in trained},
                measured={name: row[name] for name in MEASURED if pd.notna(row[name])},
                weights=run / WEIGHTS / f"{row['trial']}.safetensors",
                architecture=str(row["architecture"]),
            ),
        )
