"""Run folders as a search writes them, made up by tests: what comes of a trial is given, and nothing is trained."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import nas
from nas.models.network import CARD_FILE
from nas.plugins import load_plugin
from nas.runs.run_folder import FULL, HISTORY_FILE, TRIALS_FILE, create_run
from nas.runs.serialization import as_json, describe
from nas.spaces import sample

OBJECTIVES: Final = ("val_top1_pct", "macs_m")
TEXT: Final = nas.reference("mobilenetv3_small_100").to_json()


def begin_run(folder: Path, name: str = "trial", *, objectives: Sequence[str] = OBJECTIVES, **changes: Any) -> Path:
    """The folder of a run of the digits that has no trial yet."""
    experiment = load_plugin("experiment", "digits_mobilenetv3")
    return create_run(replace(experiment, objectives=tuple(map(nas.objective, objectives)), runs=str(folder), **changes), name)


def time_of(trial: int, hour: int) -> str:
    """A moment of each trial, one a second."""
    return f"2026-01-01T{hour:02}:{trial // 60 % 60:02}:{trial % 60:02}+00:00"


def start(trial: int, values: Mapping[str, float], /, **more: Any) -> dict[str, Any]:
    """The line that tells of a trial's begin."""
    proposal = {"id": f"id{trial}", "params": {"depth": trial}, "source": "search", "architecture": TEXT, "values": dict(values)}
    proposal["weights"] = "trained"
    return {"event": "start", "time": time_of(trial, 0), "trial": trial} | proposal | more


def end(trial: int, values: Mapping[str, float], /, **more: Any) -> dict[str, Any]:
    """The line that tells of its end."""
    training = {"epochs": 2, "seconds": 1.5, "fingerprint": "f", "device": "cpu, 1 thread(s)", "precision": "float32"}
    return {"event": "end", "time": time_of(trial, 1), "trial": trial, "status": "done", "values": dict(values)} | training | more


def skip(event: str, values: Mapping[str, float]) -> dict[str, Any]:
    """The line that tells of a skipped proposal: infeasible or a duplicate."""
    return {"event": event, "time": time_of(0, 2), "id": "x", "values": dict(values), "params": {}, "source": "search"}


def write(run: Path, lines: Iterable[Mapping[str, Any]], file: str = TRIALS_FILE) -> None:
    """Add lines to a log of the run."""
    with (run / file).open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)


def run_of_points(
    folder: Path,
    points: Sequence[tuple[float, ...]],
    name: str = "trial",
    *,
    objectives: Sequence[str] = OBJECTIVES,
) -> Path:
    """A run of done trials with these values of its objectives, all of one network's text."""
    run = begin_run(folder, name, objectives=objectives)
    valued = [dict(zip(objectives, point, strict=True)) for point in points]
    write(run, [line for trial, values in enumerate(valued) for line in (start(trial, values), end(trial, values))])
    epoch = {"epoch": 1, "train_loss": 1.0, "val_top1_pct": 50.0, "val_images": 9, "seconds": 2}
    write(run, [{"trial": trial} | epoch for trial in range(len(points))], HISTORY_FILE)
    return run


def run_of_networks(folder: Path, trials: Sequence[Mapping[str, Any]], *, epochs: int = 3, **changes: Any) -> Path:
    """A run of random networks of the space: each trial the fields of its end, and those of its start under "start".

    `top1` is the top-1 that it learns, linearly over the epochs; an empty trial is under way.
    """
    run = begin_run(folder, "page", **changes)
    space, generator = load_plugin("experiment", "digits_mobilenetv3").space, random.Random(0)
    lines, epoch_lines = [], []
    for trial, given in enumerate(trials):
        params = sample(space.parameters, generator)
        network, told = space.decode(params), dict(given)
        cost = nas.cost(network, 10)
        values = {"macs_m": cost.macs / 1e6}
        if "params_m" in changes.get("objectives", ()):
            values["params_m"] = cost.params / 1e6
        proposal = {"id": network.id, "params": params, "architecture": network.to_json()}
        lines.append(start(trial, values, **proposal | told.pop("start", {})))
        top1 = told.pop("top1", None)
        if top1 is not None:
            values["val_top1_pct"] = top1
            learned = [(epoch, top1 * epoch / epochs) for epoch in range(1, epochs + 1)]
            line = {"trial": trial, "train_loss": 1.0, "val_images": 100, "seconds": 1.5}
            epoch_lines += [line | {"epoch": epoch, "val_top1_pct": value} for epoch, value in learned]
        if told:
            lines.append(end(trial, values, **{"epochs": epochs, "seconds": 4.5} | told))
    write(run, lines)
    write(run, epoch_lines, HISTORY_FILE)
    return run


def train_in_full(run: Path, trial: int, seed: int, test_top1_pct: float, *, epochs: int = 100) -> None:
    """The card that a full training of a trial leaves."""
    folder = run / FULL / f"trial{trial}-seed{seed}-epochs{epochs}"
    folder.mkdir(parents=True)
    accuracy = {"test_top1_pct": test_top1_pct, "val_top1_pct": test_top1_pct + 1}
    (folder / CARD_FILE).write_text(json.dumps({"accuracy": accuracy, "train": {"epochs": epochs}}))


def describe_run(run: Path, *, limits: Sequence[nas.Limit] | None = None, **changes: Any) -> None:
    """Change what experiment.json of a run says."""
    if limits is not None:
        experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), limits=tuple(limits))
        changes["limits"] = as_json(describe(experiment, ""))["limits"]
    file = run / "experiment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
