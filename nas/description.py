"""Experiment ⇄ plain values: what experiment.json holds of a run, and the same run's experiment, rebuilt from it.

Needs neither torch nor Ray. Read `runs.py` next.
"""

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from nas.datasets import Dataset
from nas.errors import NasError, users_code
from nas.experiment import Experiment
from nas.objectives import Limit, Objective, objective
from nas.plugins import module_at, own_file, plugin_names
from nas.recipe import TrainSettings
from nas.spaces import SearchSpace

SCHEMA: Final = 5
PACKAGES: Final = ("frontier-nas", "torch", "torchvision", "timm", "onnxruntime", "optuna", "ray", "numpy")
FLAGS: Final = tuple(field.name for field in fields(Objective) if field.name not in ("name", "measure"))
PLAIN: Final = (  # fields of an Experiment that are plain values already
    *("latency", "trials", "start", "reuse", "baselines", "early_stopping", "trial_timeout", "keep_all"),
    *("workers", "gpus_per_trial", "address", "storage", "seed"),
)


def describe(experiment: Experiment, name: str) -> dict[str, Any]:
    """An experiment and where it runs, in plain values."""
    dataset, table = experiment.dataset, experiment.latency_table
    return {
        "schema": SCHEMA,
        "name": name,
        "space": _describe_value(experiment.space),
        "dataset": _describe_value(dataset)
        | {"classes": list(dataset.classes), "mean": list(dataset.mean), "std": list(dataset.std)},
        "objectives": [_describe_objective(objective) for objective in experiment.objectives],
        "limits": [
            {"objective": _describe_objective(limit.objective)} | {"low": _plain(limit.low), "high": _plain(limit.high)}
            for limit in experiment.limits
        ],
        "train": asdict(experiment.train),
        "sampler": experiment.sampler if isinstance(experiment.sampler, str) else type(experiment.sampler).__name__,
        **{field: _plain(getattr(experiment, field)) for field in PLAIN},
        "latency_table": None if table is None else str(table),
        "latency_error_pct": table.check.mape_pct if table is not None and table.check is not None else None,
        "sessions": [describe_session({})],
    }


def as_json(described: Mapping[str, Any]) -> dict[str, Any]:
    """A description as it is read again."""
    return dict(json.loads(json.dumps(described, default=str)))


def describe_session(changed: Mapping[str, Any]) -> dict[str, Any]:
    """When, where and with what a run is searched on, and what was changed for it: field → (before, after)."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "changed": dict(changed),
        "versions": package_versions(),
        "git_commit": _git_commit(),
        "machine": {"platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count()},
    }


def package_versions() -> dict[str, str]:
    """Those that results depend on, of what is installed."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _describe_value(value: Any) -> dict[str, Any]:
    """A space or dataset: its name, its class, the file of that class where it is a user's own, and its fields."""
    kind = type(value)
    return {
        "name": value.name,
        "module": kind.__module__,
        "class": kind.__qualname__,
        "file": _own_file(kind.__module__),
        "fields": _fields(value) if is_dataclass(value) else {},
    }


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _describe_objective(objective: Objective) -> dict[str, Any]:
    measure = objective.measure
    module = getattr(measure, "__module__", None) or type(measure).__module__
    record = {
        "name": objective.name,
        **{flag: _plain(getattr(objective, flag)) for flag in FLAGS},
        "module": module,
        "file": _own_file(module),
    }
    if is_dataclass(measure) and not isinstance(measure, type):  # which has what it was made with
        record |= {"class": type(measure).__qualname__, "fields": _fields(measure)}
    return record


def _own_file(module: str) -> str | None:
    """The file of a module, where it is a user's own."""
    loaded = sys.modules.get(module)
    file = own_file(loaded) if loaded is not None else None
    installed = module.partition(".")[0] in ("nas", "search_spaces", "experiments") or module in sys.stdlib_module_names
    return None if file is None or installed else str(file)


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
    """A value as it was, from JSON."""
    if isinstance(value, dict) and set(value) == {"path"}:
        return Path(value["path"])
    if isinstance(value, list):
        return tuple(from_plain(part) for part in value)
    return float(value) if value in ("inf", "-inf") else value


def _processor() -> str:
    """The CPU's model, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_commit() -> str | None:
    """The commit of the working folder, where it is a git checkout."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def experiment_of(described: Mapping[str, Any], runs: Path) -> Experiment:
    """The experiment of a run in the folder `runs`, rebuilt from its experiment.json.

    Raises: NasError if a file of the user's own is gone, or the experiment was made of objects that no file holds.
    """
    limits = [
        Limit(objective=_objective_of(limit["objective"]), low=from_plain(limit["low"]), high=from_plain(limit["high"]))
        for limit in described["limits"]
    ]
    return Experiment(
        space=space_of(described),
        dataset=dataset_of(described),
        objectives=tuple(map(_objective_of, described["objectives"])),
        limits=tuple(limits),
        train=TrainSettings(**described["train"]),
        sampler=described["sampler"],
        runs=str(runs),
        **{field: from_plain(described[field]) for field in PLAIN},
    )


def dataset_of(described: Mapping[str, Any]) -> Dataset:
    """The dataset that a run was searched on, rebuilt from what its experiment.json says.

    Raises: NasError if the file of a user's own dataset is gone.
    """
    dataset: Dataset = _rebuilt("dataset", described["dataset"])
    return dataset


def space_of(described: Mapping[str, Any]) -> SearchSpace:
    """The search space of a run, in the same way."""
    space: SearchSpace = _rebuilt("space", described["space"])
    return space


def _rebuilt(kind: str, record: Mapping[str, Any]) -> Any:
    if record["module"] == "__main__":
        raise NasError(
            f"{kind} {record['name']} was made in a script or notebook; give it from there: {kind}=... or experiment=..."
        )
    module = module_at(Path(record["file"])) if record["file"] else importlib.import_module(record["module"])
    with users_code(f"{kind} {record['name']}"):
        return getattr(module, record["class"])(**{name: from_plain(value) for name, value in record["fields"].items()})


def _objective_of(record: Mapping[str, Any]) -> Objective:
    name = record["name"]
    if record["module"] == "__main__":
        raise NasError(f"objective {name} was made in a script or notebook; give the experiment from there: experiment=...")
    if "class" in record:
        measure = _rebuilt("objective", record)
        return Objective(name=name, measure=measure, **{flag: from_plain(record[flag]) for flag in FLAGS})
    if record["module"].startswith("nas.objectives.") and name in plugin_names("objective"):
        return replace(objective(name), needs_training=record["needs_training"])
    module = module_at(Path(record["file"])) if record["file"] else importlib.import_module(record["module"])
    values = list(vars(module).values())
    values += [part for value in values if isinstance(value, Experiment) for part in value.objectives]
    values += [limit.objective for value in values if isinstance(value, Experiment) for limit in value.limits]
    own = [value for value in values if isinstance(value, Objective) and value.name == name]
    if not own:
        raise NasError(f"objective {name} is not in {module.__file__}, where its measure is; give experiment=... to nas.resume")
    return own[0]
