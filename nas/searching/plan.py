"""The plan of a session, made before Ray starts, so that every mistake shows before anything is trained."""

import logging
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from nas.datasets.images.fingerprint import Fingerprint
from nas.errors import NasError, unknown_name, user_code
from nas.objectives import Limit
from nas.objectives.latency.table import newest_table
from nas.plugins import check_type
from nas.runs.columns import TYPES
from nas.runs.experiment import AUTO, Experiment, share_of
from nas.runs.images import check_same_images, dataset_difference, explaining_gone, moved_images
from nas.runs.run_folder import LATENCY_FILE, WEIGHTS, read_experiment, write_experiment
from nas.runs.serialization import PLAIN, as_json, describe, describe_session, experiment_of, from_plain
from nas.runs.trial import UNDER_WAY, Trial, Weights
from nas.searching.checkpoint_storage import check_storage
from nas.searching.feasibility import Feasibility, check_limits
from nas.searching.phases import can_continue, wanted, work_left
from nas.searching.problem import Point, Problem
from nas.searching.samplers import SAMPLERS, check_sampler
from nas.searching.shared_source import check_shared_weights, check_source_images, reusable_scores
from nas.searching.teachers import check_same_teachers, find_teachers
from nas.searching.warm_start import ReusedResult, WarmStart, baselines, reusable_results, warm_starts
from nas.spaces import sample
from nas.trackers import Tracking
from nas.training.settings import Epoch, TrainSettings
from nas.training.tuned import PREFIX

logger = logging.getLogger(__name__)

# Fields of an Experiment that must not change between sessions, so that the results of all sessions are comparable.
FIXED_FIELDS: Final = ("space", "objectives", "latency", "train", "tune", "storage", "seed", "runs")
CHANGEABLE_FIELDS: Final = tuple(one.name for one in fields(Experiment) if one.name not in FIXED_FIELDS)


class FinishedError(NasError):
    """A run has no trial left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a session needs to propose networks."""

    problem: Problem
    feasibility: Feasibility
    starts: list[WarmStart]
    reused: Mapping[str, ReusedResult]
    """Network id → its result in another run."""
    baselines: Mapping[str, Point]
    """Name → network that is trained in addition to the search."""


def make_plan(experiment: Experiment, run: Path | None = None) -> Plan:
    """The plan of a session, after every check that needs no Ray; `run` is the run that it resumes, None for a new one.

    Raises: NasError for limits that no network meets, an unknown sampler, optimizer, start or baseline, or a run to reuse with
    other settings, or with shared weights that do not fit.
    """
    check_sampler(experiment.sampler)
    optimizers: Any = experiment.search_space.parameters.get(f"{PREFIX}optimizer")
    for optimizer in {experiment.train.optimizer, *(optimizers.choices if optimizers is not None else ())}:
        if optimizer != TrainSettings().optimizer:  # the check imports torch and timm, and the default needs none
            from nas.training.loop import check_settings

            check_settings(replace(experiment.train, optimizer=optimizer))
    if not experiment.search_space.parameters:
        raise NasError(
            f"space {experiment.space.name} has one network and no parameters; search its training settings with --tune"
        )
    reserved = [name for name in experiment.space.parameters if name.startswith(PREFIX)]
    if reserved:
        raise NasError(f"space {experiment.space.name}: parameter {reserved[0]} has the name of a training setting; rename it")
    for objective in (*experiment.objectives, *(limit.objective for limit in experiment.limits)):
        if objective.name in TYPES:
            raise NasError(
                f"objective {objective.name}: the table has a column of this name; choose another than {', '.join(TYPES)}"
            )
    check_shared_weights(experiment, run)
    problem = problem_of(experiment)
    feasibility = check_limits(problem, experiment.seed)
    if problem.limits:
        logger.info("%s of space %s meets %s", feasibility, problem.space.name, " and ".join(map(str, problem.limits)))
    scores = reusable_scores(experiment, problem, run)
    plan = Plan(
        problem=problem,
        feasibility=feasibility,
        starts=[*warm_starts(problem.space, experiment.start), *scores.front],
        reused=reusable_results(experiment) | scores.results,
        baselines=baselines(problem, experiment.baselines),
    )
    if experiment.storage is not None:
        check_storage(experiment.storage)
    return plan


def check_images(experiment: Experiment) -> Fingerprint | None:
    """The fingerprint of the images that the search reads; None if it trains nothing. Decodes them into the cache of the workers.

    Raises: NasError for images that cannot be read, or a run to reuse, or one with the shared weights, of others.
    """
    if not any(objective.needs_training for objective in experiment.objectives):
        return None
    now = experiment.dataset.fingerprint()
    for run in experiment.reuse:
        check_same_images(
            f"reuse {run}", read_experiment(Path(run)), now, ("train", "val"), advice="its results are not comparable"
        )
    check_source_images(experiment, now)
    return now


def check_unchanged(experiment: Experiment, run: Path, described: Mapping[str, Any]) -> None:
    """Check that the images and the teachers of a run are those that it began with.

    Raises: NasError if they are gone, cannot be read or are others.
    """
    check_same_teachers(str(run), described, find_teachers(experiment), advice="begin a new run, or give its weights back")
    moved = moved_images(described["dataset"], as_json(describe(experiment, ""))["dataset"])
    with nullcontext() if moved else explaining_gone(run, described):
        now = check_images(experiment)
    check_same_images(str(run), described, now, advice="begin a new run, or give its images back")


def problem_of(experiment: Experiment) -> Problem:
    """The problem of an experiment."""
    with user_code(f"dataset {experiment.dataset.name}: classes"):
        num_classes = len(experiment.dataset.classes)
    space = experiment.search_space
    return Problem(
        space=space,
        objectives=experiment.steering,
        limits=experiment.limits,
        num_classes=num_classes,
        latency_table=experiment.latency_table,
        tuned={name: of for name, of in space.parameters.items() if name not in experiment.space.parameters},
    )


def with_latency(experiment: Experiment, *, look: bool = True) -> Experiment:
    """The experiment with its latency table, if it needs latencies; without a table, trials measure them.

    With `look`, the default is the newest table that was built on this machine.
    Raises: NasError if there is no table, and a limit needs latencies or no objective needs training.
    """
    if not experiment.needs_latency:
        return replace(experiment, latency=None)
    problem = problem_of(experiment)
    if experiment.latency is None and look:
        generator = random.Random(experiment.seed)
        some = [problem.space.decode(sample(problem.space.parameters, generator)) for _ in range(100)]
        table = newest_table(problem.space.name, some, problem.num_classes)
        experiment = replace(experiment, latency=None if table is None else str(table))
    if experiment.latency is not None:
        logger.info("latencies by %s: %s", experiment.latency, experiment.latency_table)
        return experiment
    none = f"no latency table was built here for space {problem.space.name}, its resolution and {problem.num_classes} classes"
    how = "`nas latency build` makes one; or give another device's with --latency"
    limited = any(limit.objective.needs_latency for limit in experiment.limits)
    if limited or not problem.trained:
        why = "a limit needs latencies before the training" if limited else "trials without training do not measure latencies"
        raise NasError(f"{none}, and {why}: {how}")
    logger.info("%s: each trial measures its network, which takes seconds and an idle CPU; %s", none, how)
    return measuring(experiment)


def measuring(experiment: Experiment) -> Experiment:
    """The experiment; without a latency table, its objectives on latency need training, so that trials measure them."""
    if experiment.latency is not None:
        return experiment
    measured = (replace(one, needs_training=True) if one.needs_latency else one for one in experiment.objectives)
    return replace(experiment, objectives=tuple(measured))


def with_own_table(experiment: Experiment, run: Path) -> Experiment:
    """The experiment with the run's own copy of the latency table, so that every session uses the same one."""
    table = experiment.latency_table
    if table is None:
        return experiment
    if not (run / LATENCY_FILE).is_file():
        table.write(run / LATENCY_FILE)
    return replace(experiment, latency=str(run / LATENCY_FILE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An experiment, its run folder, and what earlier sessions left there."""

    experiment: Experiment
    run: Path
    plan: Plan
    number: int = 0
    """The index of the session, from 0."""
    past: list[Trial] = field(default_factory=list)
    history: list[tuple[int, Epoch]] = field(default_factory=list)
    """(trial, epoch) for every epoch of the trials in `past`."""
    over: bool = False
    """Whether an earlier session found that no further network is worth its trial."""
    tracking: Tracking = field(default_factory=Tracking)
    """The trackers that the experiment names."""

    @property
    def storage(self) -> str:
        """The folder or URI of the running trials' checkpoints."""
        storage = self.experiment.storage
        return f"{storage.rstrip('/')}/{self.run.name}" if storage else str(self.run / WEIGHTS)


def next_experiment(
    described: Mapping[str, Any], run: Path, experiment: Experiment | None, changes: Mapping[str, Any]
) -> Experiment:
    """The experiment of a run's next session.

    Raises: NasError for a change after which results would not be comparable, an unknown field, or a sampler that has no name.
    """
    for name in changes:
        if name in FIXED_FIELDS:
            raise NasError(
                f"{run}: {name} cannot change, or its results would not be comparable; begin a new run, or change one of "
                f"{', '.join(CHANGEABLE_FIELDS)}"
            )
        if name not in CHANGEABLE_FIELDS:
            raise unknown_name("change", name, CHANGEABLE_FIELDS)
    before = experiment_of(described, run.parent) if experiment is None else experiment
    before = replace(before, dataset=changes.get("dataset", before.dataset)).resolved()
    own = run / LATENCY_FILE
    before = measuring(replace(before, latency=str(own) if own.is_file() else described["latency"]))
    with nullcontext() if "dataset" in changes else explaining_gone(run, described):
        now = as_json(describe(before, described["name"]))
    if difference := dataset_difference(described["dataset"], now["dataset"]):
        raise NasError(f"{run}: {difference}; begin a new run")
    for name in ("space", "objectives", "train", "tune", "seed"):
        if now[name] != described[name]:
            raise NasError(f"{run}: its {name} was {described[name]}, but the experiment passed has {now[name]}; begin a new run")
    if experiment is not None:  # it lacks the changes of earlier sessions
        kept = {name: from_plain(described[name]) for name in CHANGEABLE_FIELDS if name in PLAIN}
        before = replace(before, **kept)
    if "limits" in changes:
        changes = {**changes, "limits": _merged((*before.limits, *changes["limits"]))}
    after = with_latency(replace(before, **changes).resolved(), look=not before.needs_latency)
    if isinstance(after.sampler, str) and after.sampler not in SAMPLERS and "sampler" not in changes:
        raise NasError(f"{run}: its sampler was a Python object, {after.sampler}; name a sampler with --sampler")
    return after


def _merged(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """One limit per objective; each bound comes from the last limit that has it."""
    merged: dict[str, Limit] = {}
    for limit in limits:
        check_type("limits", limit, Limit)
        old = merged.get(limit.objective.name, limit)
        low = limit.low if limit.low > -math.inf else old.low
        high = limit.high if limit.high < math.inf else old.high
        merged[limit.objective.name] = Limit(objective=limit.objective, low=low, high=high)
    return tuple(merged.values())


def was_over(described: Mapping[str, Any], after: Experiment) -> bool:
    """Whether a run with --trials auto has ended by itself, and its next session wants no more of it."""
    if not (described.get("over", False) and described["trials"] == after.trials == AUTO):
        return False
    return after.min_gain_share >= share_of("min-gain", described["min_gain"])


def check_unfinished(run: Path, experiment: Experiment, plan: Plan, past: Sequence[Trial], *, over: bool = False) -> None:
    """Check that a run has trials or baselines left; `over` says that an earlier session ended by itself.

    Raises: FinishedError if it has none.
    """
    shared = experiment.uses_shared_weights
    ended = sum(trial.counts_as_score if shared else trial.counts for trial in past)
    waiting = sum(trial.status in UNDER_WAY and can_continue(trial, experiment) for trial in past)
    trained = {trial.id for trial in past if trial.number is not None and trial.weights in (None, Weights.TRAINED)}
    new = any(point.id not in trained for point in plan.baselines.values())
    what = "networks are scored" if shared else "trials have ended"
    if not (work_left(experiment, plan.problem, past, over=over) or waiting or new):
        if over:
            done, more = f"it ended by itself after {ended} trials", f"--trials {2 * ended} or a smaller --min-gain"
        else:
            number = wanted(experiment)  # a resume may ask for fewer than have ended
            most = number if isinstance(number, str) else max(ended, number)
            done = f"{ended} of {most} {what}{', and their front is trained' if shared else ''}"
            more = "more --shared-trials or --alone, another --fine-tune" if shared else "more --trials"
        raise FinishedError(f"{run} is finished: {done}; extend it with {more}, or --baselines")
    logger.info("%d %s, %d continue", ended, what, waiting)


def record_session(
    run: Path, described: Mapping[str, Any], after: Experiment, *, finished: bool = False, over: bool = False
) -> None:
    """Write the next session and its changes into experiment.json; `finished` and `over` if the run stays so."""
    now = as_json(describe(after, described["name"]))
    others = (name for name in CHANGEABLE_FIELDS if name in now and name != "dataset")
    new = {name: (described[name], now[name]) for name in others if now[name] != described[name]}
    dataset = now["dataset"] | {"fingerprint": described["dataset"]["fingerprint"]}
    session = describe_session(new | moved_images(described["dataset"], dataset))
    record = {"dataset": dataset, "sessions": [*described["sessions"], session], "finished": finished, "over": over}
    write_experiment(run, dict(described) | {name: now[name] for name in new} | record)
