"""Trains a network of a run once more as a trial does, with another seed or without shared weights. Never reads the test part."""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from nas.errors import NasError
from nas.runs.alone import TrainedAlone, alone_file, write_alone
from nas.runs.experiment import Experiment
from nas.runs.results import settings_of
from nas.runs.trial import Status
from nas.searching.evaluate import evaluate
from nas.searching.task import Task


def alone_trainings(
    experiment: Experiment, run: Path, rows: pd.DataFrame, *, seeds: Iterable[int]
) -> dict[Path, Callable[[], object]]:
    """File of its record → training of a row's network with a seed, and with the settings of the row's trial."""
    objectives = tuple(one for one in experiment.steering if one.learning_curve)
    trainings: dict[Path, Callable[[], object]] = {}
    for (_, row), seed in product(rows.iterrows(), seeds):
        settings, trial = settings_of(row, experiment.train), int(row["trial"])
        task = Task(dataset=experiment.dataset, objectives=objectives, settings=settings, seed=seed)
        trainings[alone_file(run, trial, seed)] = partial(train_alone, row["architecture"], task, run, trial)
    return trainings


def train_alone(text: str, task: Task, run: Path, trial: int) -> None:
    """Train one network in this process as a trial of the search without shared weights does, and write its record.

    Raises: NasError if the training fails.
    """
    file = alone_file(run, trial, task.seed)
    folder = file.with_suffix(".training")  # its checkpoint, from which it resumes
    outcome = evaluate(text, task, folder=folder)
    if outcome.status is not Status.DONE:
        raise NasError(outcome.error or str(outcome.status))
    (objective,) = task.objectives
    assert outcome.val_loss is not None
    assert outcome.seconds is not None
    write_alone(
        run,
        TrainedAlone(
            trial=trial,
            seed=task.seed,
            epochs=outcome.epochs,
            val_top1_pct=outcome.values[objective.name],
            val_loss=outcome.val_loss,
            seconds=outcome.seconds,
            device=outcome.device or "",
            precision=outcome.precision or "",
        ),
    )
    shutil.rmtree(folder)
