"""Trains a network of a run once more as a trial does, with another seed or without shared weights. Never reads the test part."""

import shutil
from pathlib import Path

from nas.errors import NasError
from nas.runs.alone import TrainedAlone, alone_file, write_alone
from nas.runs.experiment import Experiment
from nas.runs.trial import Status
from nas.searching.evaluate import evaluate
from nas.searching.task import Task
from nas.training.settings import TrainSettings


def alone_task(experiment: Experiment, objective: str, settings: TrainSettings, *, seed: int) -> Task:
    """The training of a network of a run that measures one objective, its top-1."""
    objectives = tuple(one for one in experiment.objectives if one.name == objective)
    return Task(dataset=experiment.dataset, objectives=objectives, settings=settings, seed=seed)


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
