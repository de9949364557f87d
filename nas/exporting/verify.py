"""Trains the best networks of a run's front in full with several seeds, to check the ranking by short trainings."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path

import ray
from ray.exceptions import RayError

from nas.errors import NasError, describe_error
from nas.exporting.alone import alone_trainings
from nas.exporting.full_training import FullTraining, train_network
from nas.files import locked
from nas.models.architecture import Architecture
from nas.models.network import CARD_FILE
from nas.paths import absolute
from nas.runs.compare import RankingCheck, check_ranking
from nas.runs.experiment import Experiment
from nas.runs.front import as_believed
from nas.runs.results import results, settings_of
from nas.runs.run_folder import FULL, read_experiment
from nas.runs.serialization import experiment_of
from nas.runs.trial import Weights
from nas.searching.interrupt import ending_at_once
from nas.searching.parcel import in_worker, pack
from nas.searching.plan import check_unchanged
from nas.searching.ray_session import ray_session, resources
from nas.searching.unpack import unpack
from nas.searching.worker import prepare_process

logger = logging.getLogger(__name__)


def verify(
    run: str | PathLike[str],
    *,
    top: int = 5,
    seeds: int = 3,
    epochs: int | None = None,
    on_done: Callable[[int, int], None] = lambda _done, _all: None,
) -> RankingCheck | None:
    """Train the `top` networks of a run's front in full, each with seeds 0 to `seeds` - 1, and compare the rankings.

    The settings are each trial's, except `epochs`, by default ten times the run's. Each training writes an export folder under
    `full/` in the run folder, and reads the test part once, at its end. Finished trainings are skipped, killed ones resume. On
    this machine, as many run in parallel as trials of the search would. Each network that the search trained itself is trained
    once more as there, with the next seed, to show how well two seeds agree. Returns None if fewer than two networks can be
    ranked.

    Raises: NasError for a run without a trained front, or whose images are gone or others now; or, once all trainings have
    ended, if one of them failed.
    """
    for field, value in (("top", top), ("seeds", seeds), ("epochs", 1 if epochs is None else epochs)):
        if value < 1:
            raise NasError(f"{field}: {value} is not 1 or more")
    folder = absolute(run).resolve()
    described = read_experiment(folder)
    experiment = experiment_of(described, folder.parent)
    df = results(folder)
    curve = df.attrs["learning_curve"]
    if curve is None:
        raise NasError(f"{folder} was not searched for the top-1 of its trainings, so there is no ranking to verify")
    order = as_believed(df)[df["is_front"]].sort_values(curve, ascending=False).drop_duplicates("id").head(top)
    rows = df.loc[order.index]
    if rows.empty:
        raise NasError(f"{folder} has no network on its front yet")
    epochs = epochs or 10 * experiment.train.epochs
    numbered = df[df["id"].isin(rows["id"]) & df["trial"].notna()]
    same = numbered.sort_values("is_front", ascending=False, kind="stable").groupby("id", sort=False)["trial"].agg(list)
    trainings = [
        FullTraining(
            network=Architecture.from_json(row["architecture"]),  # a front has only points of the space, no networks of timm
            dataset=experiment.dataset,
            train=replace(settings_of(row, experiment.train), epochs=epochs),
            seed=seed,
            output=str(_target(folder / FULL, same[row["id"]], f"seed{seed}-epochs{epochs}")),
        )
        for _, row in rows.iterrows()
        for seed in range(seeds)
    ]
    own = rows[(rows["weights"] == Weights.TRAINED) & (rows["source"] != "reuse")]
    again = alone_trainings(experiment, folder, own, seeds=[(int(df["seed"].max()) + 1) % 2**32])  # none of the search's
    with locked(folder / FULL / ".lock", busy=f"{folder / FULL} is in use by another `nas verify`; wait for its end"):
        unfinished = {file.stem: training for file, training in again.items() if not file.is_file()}
        for training in trainings:
            if not (training.target / CARD_FILE).is_file():
                unfinished[training.target.name] = partial(train_network, training)
        total = len(again) + len(trainings)
        finished = total - len(unfinished)
        train_in_parallel(
            replace(experiment, address=None),
            unfinished,
            check=partial(check_unchanged, experiment, folder, described),
            on_done=lambda done: on_done(finished + done, total),
        )
    return check_ranking(folder)


def _target(full: Path, trials: Sequence[int], name: str) -> Path:
    """The folder for a full training of the network of these trials: one that has it already, else that of the first trial."""
    folders = [full / f"trial{trial}-{name}" for trial in trials]
    return next((folder for folder in folders if (folder / CARD_FILE).is_file()), folders[0])


def train_in_parallel(
    experiment: Experiment,
    trainings: Mapping[str, Callable[[], object]],
    *,
    check: Callable[[], None],
    on_done: Callable[[int], None],
) -> None:
    """Run trainings, each under a name, as many at a time as trials of the search; `check` is called before, while Ray starts.

    Raises: NasError with the first failure, once all have ended; what `check` raises.
    """
    on_done(0)
    if not trainings:
        return
    failures = []
    parcels = {name: pack(training) for name, training in trainings.items()}

    def check_all() -> None:
        next(iter(parcels.values())).check()
        check()

    with ray_session(experiment.workers, verbose=experiment.verbose, while_starting=check_all), ending_at_once():
        _, gpus = resources(experiment)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(in_worker(train_packed))
        running = {name: task.remote(str(Path.cwd()), parcel.data) for name, parcel in parcels.items()}
        for done, (name, result) in enumerate(running.items(), start=1):
            failures += _failures(name, result)
            on_done(done)
    if failures:
        raise NasError(f"{len(failures)} of {len(trainings)} trainings failed; {failures[0]}; the same command trains them again")


def _failures(name: str, result: ray.ObjectRef[None]) -> list[str]:
    """Wait for a training to end; its failure, or an empty list."""
    try:
        ray.get(result)
    except (RayError, NasError) as error:
        failure = f"{name} failed: {describe_error(getattr(error, 'cause', None) or error)}"
        logger.warning("%s", failure)
        return [failure]
    logger.info("%s is trained", name)
    return []


def train_packed(folder: str, training: bytes) -> None:
    """Train in a worker process, in the driver's working folder, because a dataset may have relative paths."""
    prepare_process(folder)
    unpack(training)()
