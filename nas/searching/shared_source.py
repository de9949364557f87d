"""Shared weights of another run: whether a search can use them, their copy in the run of the search, and their scores."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError, safe_open

from nas.datasets.images.fingerprint import Fingerprint
from nas.errors import NasError
from nas.files import atomic_file
from nas.runs.experiment import Experiment
from nas.runs.images import check_same_images, dataset_difference
from nas.runs.pareto import non_dominated
from nas.runs.run_folder import EXPERIMENT_FILE, SHARED, read_experiment, shared_weights_file
from nas.runs.serialization import as_json, describe
from nas.runs.shared_weights import RECORD_FILE, read_shared_record, write_shared_record
from nas.runs.trial import Status, Weights
from nas.runs.trial_log import read_trials
from nas.searching.problem import Problem
from nas.searching.warm_start import ReusedResult, WarmStart, reusable_result
from nas.training.settings import LAST_FILE

logger = logging.getLogger(__name__)

REMOVED: Final = "its shared weights were removed, as `nas clean` does"
NO_RECORD: Final = f"{SHARED}/{RECORD_FILE} is missing beside its shared weights; restore it from a copy"
TRAIN_NEW: Final = "train new ones with --shared-weights train"


def check_shared_weights(experiment: Experiment, run: Path | None) -> None:
    """Check that a session has shared weights or can get them; `run` is the run that it resumes, None for a new one.

    Raises: NasError if the other run has none, or its space, dataset or classes are others; if those of this run were removed,
    or were trained otherwise.
    """
    if not experiment.uses_shared_weights:
        return
    source = experiment.shared_weights_run
    if run is not None and (record := read_shared_record(run)) is not None:
        advice = "continue with --shared-weights none, or begin a new run"
        if not shared_weights_file(run).is_file():
            raise NasError(f"{run}: {REMOVED}; {advice}")
        _check_readable(shared_weights_file(run), advice)
        if source is not None and record.copied_from != source.name and source.resolve() != run.resolve():
            raise NasError(f"shared-weights: {run} has its own, and cannot change to those of {source}; begin a new run")
        if source is None and experiment.shared_epochs is not None and record.epochs != experiment.shared_epochs:
            epochs = f"{record.epochs} epochs, and cannot change to {experiment.shared_epochs}"
            raise NasError(f"shared-epochs: the shared weights of {run} were trained for {epochs}; begin a new run")
        return
    if source is not None:
        _check_source(experiment, source)
    elif run is not None and shared_weights_file(run).is_file() and not (run / SHARED / LAST_FILE).is_file():
        raise NasError(f"{run}: {NO_RECORD}, or continue with --shared-weights none")


def _check_source(experiment: Experiment, source: Path) -> None:
    if not (source / EXPERIMENT_FILE).is_file():
        raise NasError(
            f"shared-weights: {source} is not a run folder; give train, none or the folder of a run with shared weights"
        )
    what, there, record = f"shared-weights {source}", read_experiment(source), read_shared_record(source)
    if not shared_weights_file(source).is_file():
        raise NasError(f"{what}: {REMOVED if record is not None else 'it has none'}; {TRAIN_NEW}")
    if record is None:
        raise NasError(f"{what}: {NO_RECORD}, or {TRAIN_NEW}")
    _check_readable(shared_weights_file(source), TRAIN_NEW)
    here = as_json(describe(experiment, ""))
    difference = _space_difference(there["space"], here["space"]) or dataset_difference(there["dataset"], here["dataset"])
    if difference:
        raise NasError(f"{what}: {difference}; {TRAIN_NEW}")


def _check_readable(file: Path, advice: str) -> None:
    """Raises: NasError if a file of shared weights is damaged, before a search begins; `advice` is what to do."""
    try:
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise NasError(f"{file} is damaged: {reason}; restore the file from a copy, or {advice}") from None


def _space_difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The first difference between two described spaces, in words; empty if there is none."""
    for name in ("name", "class"):
        if there[name] != here[name]:
            return f"its space's {name} is {there[name]!r}, and here it is {here[name]!r}"
    for name in dict.fromkeys((*there["fields"], *here["fields"])):
        if (before := there["fields"].get(name)) != (now := here["fields"].get(name)):
            return f"its space.{name} is {before!r}, and here it is {now!r}"
    return ""


def check_source_images(experiment: Experiment, now: Fingerprint) -> None:
    """Check that the run whose shared weights are used was trained on these images.

    Raises: NasError if it was not.
    """
    source = experiment.shared_weights_run
    if source is not None and shared_weights_file(source).is_file():  # it may be gone once this run has its own copy
        check_same_images(f"shared-weights {source}", read_experiment(source), now, advice=TRAIN_NEW)


def copy_shared_weights(source: Path, run: Path) -> None:
    """Copy another run's shared weights into this one, which then needs the other no more.

    Raises: NasError if they cannot be read or written.
    """
    file, record = shared_weights_file(run), read_shared_record(source)
    with atomic_file(file) as partial:
        shutil.copyfile(shared_weights_file(source), partial)
    if record is not None:
        write_shared_record(run, replace(record, copied_from=record.copied_from or source.name))


class ReusedScores(NamedTuple):
    """What the run whose shared weights are used has measured with them, of networks within the limits."""

    results: dict[str, ReusedResult]
    """Network id → its score."""
    front: list[WarmStart]
    """The front of the scores, under the objectives of the new run; they are scored again, as it needs their weights."""


def reusable_scores(experiment: Experiment, problem: Problem, run: Path | None) -> ReusedScores:
    """The scores of the run whose shared weights a session copies; none if it has them already, or trains new ones.

    Raises: NasError if that run is damaged.
    """
    source = experiment.shared_weights_run
    if source is None or (run is not None and read_shared_record(run) is not None):
        return ReusedScores({}, [])
    scored = [trial for trial in read_trials(source) if trial.weights is Weights.SHARED and trial.status is Status.DONE]
    results, front, losses = [], [], []
    trained = [objective.name for objective in problem.trained]
    for trial in scored:
        point, result = problem.examine(dict(trial.params)), reusable_result(source, trial, trained)
        if result is None or not point.feasible:
            continue
        results.append((point.id, result))
        front.append(WarmStart(params=point.params, source="start", name=result.name))
        losses.append(problem.losses({**point.values, **result.outcome.values}) or ())
    best = non_dominated(losses)
    if scored:
        reused, again = len(results) - sum(best), sum(best)
        logger.info("%s has %d scores, %d of networks within the limits", source.name, len(scored), len(results))
        logger.info("%d of these are reused; those on their front, %d, are scored again, for their weights", reused, again)
    return ReusedScores(
        {id_: result for (id_, result), kept in zip(results, best, strict=True) if not kept},
        [start for start, kept in zip(front, best, strict=True) if kept],
    )
