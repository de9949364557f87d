"""The run folder: what was asked for, and one line for everything that happened. Needs neither torch nor Ray.

`experiment.json` holds the experiment, the versions and the machine; `trials.jsonl` the trial log, the source of truth;
`history.jsonl` one line per trial and epoch; `checkpoints/` the weights; `optuna.log` Optuna's journal; `ray/` Ray's state.
"""

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from nas.datasets import Dataset
from nas.errors import NasError, users_code
from nas.experiment import Experiment
from nas.plugins import load_plugin, module_at

SCHEMA: Final = 1
EXPERIMENT_FILE: Final = "experiment.json"
TRIALS_FILE: Final = "trials.jsonl"
HISTORY_FILE: Final = "history.jsonl"
PACKAGES: Final = ("frontier-nas", "torch", "torchvision", "timm", "optuna", "ray", "numpy")


def create_run(experiment: Experiment[Any, Any], name: str) -> Path:
    """A new run folder under `experiment.runs`, with its experiment.json.

    Raises: NasError if the folder cannot be written.
    """
    stem = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    text = json.dumps(describe(experiment, name), indent=2, ensure_ascii=False, default=str)
    run = None
    try:
        run = _new_folder(Path(experiment.runs).resolve(), stem)
        (run / "checkpoints").mkdir()
        for file in (TRIALS_FILE, HISTORY_FILE):
            (run / file).touch()
        (run / EXPERIMENT_FILE).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        if run is not None:
            shutil.rmtree(run, ignore_errors=True)
        raise NasError(f"runs folder {experiment.runs!r} cannot be written: {error.strerror}; give another with --runs") from None
    return run


def _new_folder(parent: Path, stem: str) -> Path:
    """`stem` under `parent`, or `stem-2` and so on where a run of the same second is there already."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def describe(experiment: Experiment[Any, Any], name: str) -> dict[str, Any]:
    """An experiment and where it runs, in plain values."""
    dataset = experiment.dataset
    return {
        "schema": SCHEMA,
        "name": name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "space": _describe_value(experiment.space),
        "dataset": _describe_value(dataset)
        | {"classes": list(dataset.classes), "mean": list(dataset.mean), "std": list(dataset.std)},
        "objectives": [
            {"name": objective.name, "direction": objective.direction, "needs_training": objective.needs_training}
            for objective in experiment.objectives
        ],
        "limits": [str(limit) for limit in experiment.limits],
        "train": asdict(experiment.train),
        "sampler": experiment.sampler if isinstance(experiment.sampler, str) else type(experiment.sampler).__name__,
        "trials": experiment.trials,
        "workers": experiment.workers,
        "gpus_per_trial": experiment.gpus_per_trial,
        "seed": experiment.seed,
        "versions": package_versions(),
        "git_commit": _git_commit(),
        "machine": {"platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count()},
    }


def package_versions() -> dict[str, str]:
    """Those that results depend on, of what is installed."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _describe_value(value: Any) -> dict[str, Any]:
    """A space or dataset: its name, its class, the file of that class where it is a user's own, and its fields."""
    module = type(value).__module__
    own = module.partition(".")[0] not in ("nas", "search_spaces")
    file = getattr(sys.modules[module], "__file__", None) if own else None
    return {
        "name": value.name,
        "module": module,
        "class": type(value).__qualname__,
        "file": str(Path(file).resolve()) if file else None,
        "fields": {field.name: _plain(getattr(value, field.name)) for field in fields(value)} if is_dataclass(value) else {},
    }


def _plain(value: Any) -> Any:
    return {"path": str(value)} if isinstance(value, Path) else value


def _from_plain(value: Any) -> Any:
    """A field's value as it was, from JSON."""
    if isinstance(value, dict) and set(value) == {"path"}:
        return Path(value["path"])
    return tuple(value) if isinstance(value, list) else value


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


def append(file: Path, record: Mapping[str, Any]) -> None:
    """One more line of a log: whole, or not at all.

    Raises: NasError if the disk is full or the folder is gone.
    """
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        with file.open("ab", buffering=0) as log:
            before = log.tell()
            whole = log.write(line) == len(line)  # a full disk takes a part of it
            if not whole:
                log.truncate(before)
        reason = None if whole else os.strerror(errno.ENOSPC)
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise NasError(f"{file} cannot be written: {reason}; what had ended before is kept")


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; a last line that is torn, because its writer was killed or is still writing, is left out.

    Raises: NasError if another line is damaged.
    """
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            if number == len(lines):
                return
            raise NasError(f"{file}: line {number} is damaged; restore the file from a copy, or remove that line") from None
        yield record


def read_experiment(run: Path) -> dict[str, Any]:
    """What experiment.json of a run folder holds.

    Raises: NasError if `run` is not a run folder of a schema that this version reads.
    """
    file = run / EXPERIMENT_FILE
    if not file.is_file() or not (run / TRIALS_FILE).is_file():
        raise NasError(
            f"{run} is not a run folder: it has no {EXPERIMENT_FILE} and {TRIALS_FILE}; `nas search` makes one under runs/"
        )
    try:
        described = dict(json.loads(file.read_text(encoding="utf-8")))
        schema = described["schema"]
        if schema == SCHEMA:
            for objective in described["objectives"]:
                objective["name"], objective["direction"]
            described["seed"], described["dataset"]["classes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NasError(f"{file} is damaged: it is not the JSON object that a search writes; restore it from a copy") from None
    if schema != SCHEMA:
        raise NasError(f"{run} has schema {schema!r}, and this version of nas reads {SCHEMA}; use the version that wrote it")
    return described


def dataset_of(described: Mapping[str, Any]) -> Dataset:
    """The dataset that a run was searched on, rebuilt from what its experiment.json says.

    Raises: NasError if the file of a user's own dataset is gone.
    """
    record = described["dataset"]
    if record["module"] == "__main__":
        raise NasError(f"dataset {record['name']} was made in a script or notebook; give it to nas.export as dataset=...")
    if record["file"] is None:
        make = type(load_plugin("dataset", record["name"]))
    else:
        make = getattr(module_at(Path(record["file"])), record["class"])
    with users_code(f"dataset {record['name']}"):
        dataset: Dataset = make(**{name: _from_plain(value) for name, value in record["fields"].items()})
    return dataset
