"""Experiment ⇄ plain values: what experiment.json holds, and the experiment rebuilt from it.

Needs neither torch nor Ray.
"""

import importlib
import json
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from nas.datasets import Dataset
from nas.datasets.images.fingerprint import Fingerprint
from nas.errors import NasError, user_code
from nas.machine import processor_name, usable_cores
from nas.objectives import Limit, Objective
from nas.plugins import load_module, user_file
from nas.runs.experiment import Experiment
from nas.spaces import SearchSpace
from nas.training.settings import TrainSettings

SCHEMA: Final = 12
PACKAGES: Final = ("frontier-nas", "torch", "torchvision", "timm", "onnxruntime", "optuna", "ray", "numpy")
MODULES: Final = {"frontier-nas": "nas"}  # package → its module, where the names differ
OTHERS: Final = {"space", "dataset", "objectives", "limits", "train", "sampler", "verbose", "runs"}
PLAIN: Final = tuple(
    field.name for field in fields(Experiment) if field.name not in OTHERS
)  # fields that are plain values already


def describe(
    experiment: Experiment, name: str, fingerprint: Fingerprint | None = None, teachers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """An experiment, the fingerprint of its images and the teachers if they were read, and its machine, as plain values."""
    dataset, table = experiment.dataset, experiment.latency_table
    return {
        "schema": SCHEMA,
        "name": name,
        "space": {"name": experiment.space.name, **_describe_value(experiment.space)},
        "dataset": {
            "name": dataset.name,
            **_describe_value(dataset),
            **{field: list(getattr(dataset, field)) for field in ("classes", "mean", "std")},
            "fingerprint": None if fingerprint is None else asdict(fingerprint),
        },
        "objectives": [_describe_objective(objective) for objective in experiment.objectives],
        "limits": [{**_fields(limit), "objective": _describe_objective(limit.objective)} for limit in experiment.limits],
        "train": asdict(experiment.train),
        "teachers": dict(teachers or {}),
        "sampler": experiment.sampler if isinstance(experiment.sampler, str) else type(experiment.sampler).__name__,
        **{field: _plain(getattr(experiment, field)) for field in PLAIN},
        "latency_table": None if table is None else str(table),
        "latency_error_pct": table.check.mape_pct if table is not None and table.check is not None else None,
        "sessions": [describe_session({})],
    }


def as_json(described: Mapping[str, Any]) -> dict[str, Any]:
    """A description as it is after it is written to JSON and read back."""
    return dict(json.loads(json.dumps(described, default=str)))


def describe_session(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The start, machine and versions of a session, and the experiment's fields that it changed: field → (before, after)."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "changed": dict(changed),
        "versions": package_versions(),
        "git_commit": _git_commit(),
        "machine": {"platform": platform.platform(), "processor": processor_name(), "cpus": usable_cores()},
    }


def package_versions() -> dict[str, str]:
    """The installed versions of Python and the packages that results depend on."""
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    """A package's version; from its module if it was installed under another name, such as onnxruntime-gpu, or not at all."""
    with suppress(PackageNotFoundError):
        return version(package)
    try:
        return str(importlib.import_module(MODULES.get(package, package)).__version__)
    except (ImportError, AttributeError):
        return "unknown"


def _describe_value(value: Any) -> dict[str, Any]:
    """A space, a dataset or a measure function: its class, the file if it is a user's own, and its fields."""
    kind = value if hasattr(value, "__qualname__") else type(value)
    file = user_file(kind.__module__)
    return {
        "module": kind.__module__ if file is None else file.stem,
        "class": kind.__qualname__,
        "file": None if file is None else str(file),
        "fields": None if kind is value else _fields(value) if is_dataclass(value) else {},
    }


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _describe_objective(objective: Objective) -> dict[str, Any]:
    return {**_fields(objective), "measure": _describe_value(objective.measure)}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def from_plain(value: Any) -> Any:
    """The value that `_plain` turned into JSON; a list becomes a tuple."""
    if isinstance(value, dict) and set(value) == {"path"}:
        return Path(value["path"])
    if isinstance(value, list):
        return tuple(from_plain(part) for part in value)
    return float(value) if value in ("inf", "-inf") else value


def _git_commit() -> str | None:
    """The commit of the working folder, or None outside a git checkout."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout.strip()


def experiment_of(described: Mapping[str, Any], runs: Path) -> Experiment:
    """Rebuild the experiment of a run in the folder `runs` from its experiment.json.

    Raises: NasError if a user's file is gone, or a part cannot be found in a file, such as one from a notebook.
    """
    limits = [Limit(**_values(limit) | {"objective": _objective_of(limit["objective"])}) for limit in described["limits"]]
    return Experiment(
        space=space_of(described),
        dataset=dataset_of(described),
        objectives=tuple(map(_objective_of, described["objectives"])),
        limits=tuple(limits),
        train=TrainSettings(**described["train"]),
        sampler=described["sampler"],
        runs=str(runs),
        **_values({field: described[field] for field in PLAIN}),
    )


def dataset_of(described: Mapping[str, Any]) -> Dataset:
    """Rebuild the dataset of a run from its experiment.json.

    Raises: NasError if the file of a user's dataset is gone.
    """
    return cast(Dataset, _rebuilt("dataset", described["dataset"]))


def space_of(described: Mapping[str, Any]) -> SearchSpace:
    """Rebuild the search space of a run from its experiment.json.

    Raises: NasError if the file of a user's space is gone.
    """
    return cast(SearchSpace, _rebuilt("space", described["space"]))


def _objective_of(record: Mapping[str, Any]) -> Objective:
    measure = record["measure"]
    if "<" in measure["class"] and measure["file"]:  # a lambda has no name to import it by; its objective has one
        values = list(vars(load_module(Path(measure["file"]))).values())
        values += [one for value in values if isinstance(value, Experiment) for one in value.objectives]
        matches = [value for value in values if isinstance(value, Objective) and value.name == record["name"]]
        if matches:
            return matches[0]
    return Objective(**_values(record) | {"measure": _rebuilt("objective", {"name": record["name"], **measure})})


def _rebuilt(kind: str, record: Mapping[str, Any]) -> Any:
    what = f"{kind} {record['name']}"
    if record["module"] == "__main__" or "<" in record["class"]:
        raise NasError(f"{what} comes from a script, a notebook or a lambda; give it from there: {kind}=... or experiment=...")
    module = load_module(Path(record["file"])) if record["file"] else importlib.import_module(record["module"])
    with user_code(what):
        kind_or_function = attrgetter(record["class"])(module)
        return kind_or_function if record["fields"] is None else kind_or_function(**_values(record["fields"]))


def _values(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: from_plain(value) for name, value in record.items()}
