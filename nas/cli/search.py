"""`nas search`, `resume` and `space`. The fields of an experiment are the options of a search."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tyro

from nas.cli.app import HELP
from nas.cli.output import log_to_stdout, print_front, print_plugins, shown_path
from nas.errors import NasError, user_code
from nas.plugins import check_type, load_plugin, plugin_names

if TYPE_CHECKING:
    from nas.runs.experiment import Experiment

logger = logging.getLogger(__name__)

SHARED_OPTIONS: Final = ("--shared-epochs", "--shared-trials", "--fine-tune", "--alone")  # of a search by shared weights


def search(arguments: list[str]) -> None:
    """Run an experiment, by its name or from a Python file; without one, list the experiments."""
    if not arguments or arguments[0] in HELP:
        print("nas search EXPERIMENT [--help | options]: an experiment's name, or the path of a Python file with an EXPERIMENT\n")
        print_plugins("experiment")
        return
    from nas.runs.experiment import Experiment

    name, *options = arguments
    experiment = load_plugin("experiment", name)
    check_type("EXPERIMENT", experiment, Experiment)
    prog = f"nas search {name}"
    plugins, options = tyro.cli(_plugins, args=options, prog=prog, return_unknown_args=True, add_help=False)
    spaces, datasets, objectives = (", ".join(plugin_names(kind)) for kind in ("space", "dataset", "objective"))
    description = (
        f"Run {name}. Options set the fields of the experiment, all but a sampler object. --space and --dataset, names or paths, "
        f"replace the space and the dataset. Spaces: {spaces}; datasets: {datasets}; objectives: {objectives}."
    )
    experiment = _with_options(replace(experiment, **plugins), options, prog=prog, description=description)
    _check_effect(experiment, options)
    _read_classes(experiment)
    from nas.searching.tuner import search as search_experiment  # imports Ray, so only after the options are checked

    _run_and_print(experiment, search_experiment, experiment, name=Path(name).stem)


def resume(arguments: list[str]) -> None:
    """Resume an interrupted or killed run, or extend one with --trials; finished trials stay."""
    if not arguments or arguments[0] in HELP:
        print("nas resume RUN [--help | options]: a run folder, which `nas search` makes and `nas runs` lists")
        return
    if arguments[0].startswith("-"):
        raise NasError(f"nas resume takes the run folder before the options; given: {arguments[0]}")
    from nas.runs.run_folder import check_free, read_experiment
    from nas.runs.serialization import experiment_of

    run, *options = arguments
    folder = Path(run).resolve()
    check_free(folder)  # before Ray is imported, which takes seconds
    before = experiment_of(read_experiment(folder), folder.parent)
    after = _with_options(before, options, prog=f"nas resume {run}")
    _check_effect(after, options)
    names = [field.name for field in fields(after)]
    changes = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
    from nas.searching.tuner import resume as resume_run

    _run_and_print(after, resume_run, folder, **changes)


def space(name: str | None = None, /) -> None:
    """Describe a search space: its parameters, its costs, its published networks; without a name, list the spaces.

    Args:
        name: The space's name, or the path of a Python file with a SPACE.
    """
    if name is None:
        print("nas space NAME: a space's name, or the path of a Python file with a SPACE\n")
        print_plugins("space")
        return
    import random

    from nas.models.cost import cost
    from nas.spaces import num_points, sample
    from nas.spaces import space as find_space

    described, generator = find_space(name), random.Random(0)
    costs = [cost(described.decode(sample(described.parameters, generator))) for _ in range(1_000)]
    print(f"{described.name}: {(type(described).__doc__ or '').splitlines()[0]}\n")
    print(f"{len(described.parameters)} parameters, {num_points(described.parameters):.3g} points\n")
    longest = max([24, *map(len, described.parameters)])
    for parameter, distribution in described.parameters.items():
        print(f"  {parameter:<{longest}} {_choices(distribution)}")
    print("\nover 1,000 random points, 1,000 classes: smallest, median, largest")
    for unit, values in (("params_m", sorted(c.params for c in costs)), ("macs_m", sorted(c.macs for c in costs))):
        print(f"  {unit:<24} {values[0] / 1e6:.3f}  {values[500] / 1e6:.3f}  {values[-1] / 1e6:.3f}")
    print("\npublished networks among its points: params_m, macs_m")
    for network, params in described.references.items():
        published = cost(described.decode(params))
        print(f"  {network:<34} {published.params / 1e6:8.3f} {published.macs / 1e6:10.3f}")


def _choices(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return ", ".join(f"{choice:.4g}" if isinstance(choice, float) else str(choice) for choice in distribution.choices)
    return f"{distribution.low} to {distribution.high}" + (f" in steps of {distribution.step}" if distribution.step else "")


def _plugins(*, space: str | None = None, dataset: str | None = None) -> dict[str, Any]:
    """The plug-ins of --space and --dataset, which replace the experiment's own."""
    names = {"space": space, "dataset": dataset}
    return {kind: load_plugin(kind, name) for kind, name in names.items() if name is not None}


def _with_options(experiment: "Experiment", options: list[str], *, prog: str, description: str | None = None) -> "Experiment":
    """The experiment, with its fields set by the options."""
    return tyro.cli(
        type(experiment),
        default=experiment,
        args=options,
        prog=prog,
        description=description,
        registry=_constructors(experiment.objectives),
    )


def _check_effect(experiment: "Experiment", options: Sequence[str]) -> None:
    """Check that each option of a search by shared weights, or of one that ends by itself, has an effect.

    Raises: NasError for an option that has none.
    """
    names = [option.partition("=")[0].replace("_", "-") for option in options]
    if experiment.trials != "auto" and "--min-gain" in names:
        raise NasError(f"--min-gain has no effect with --trials {experiment.trials}; give --trials auto too, or leave it out")
    if not experiment.uses_shared_weights and (idle := [name for name in names if name in SHARED_OPTIONS]):
        raise NasError(
            f"{idle[0]} has no effect without shared weights; give --shared-weights too: train, or a run that has them"
        )
    if experiment.shared_weights_run is not None and "--shared-epochs" in names:
        raise NasError(
            f"--shared-epochs has no effect on the shared weights of {experiment.shared_weights}, which are trained; "
            "leave it out, or train new ones with --shared-weights train"
        )


def _read_classes(experiment: "Experiment") -> None:
    """Say which folder is read, as a large one takes a while, and check its layout.

    Raises: NasError if the dataset has no classes, or its own code raises.
    """
    log_to_stdout()
    if root := getattr(experiment.dataset, "root", None):
        logger.info("reading %s", shown_path(Path(root)))
    with user_code(f"dataset {experiment.dataset.name}"):
        len(experiment.dataset.classes)


def _constructors(objectives: Sequence[Any]) -> tyro.constructors.ConstructorRegistry:
    """How tyro reads and shows objectives, limits and samplers; `objectives` are those of the experiment, plug-ins or not."""
    from optuna.samplers import BaseSampler

    from nas.objectives import Limit, Objective, objective, parse_limit

    registry = tyro.constructors.ConstructorRegistry()
    rules: dict[Any, tuple[str, Callable[[str], Any], Callable[[Any], str]]] = {
        Objective: ("NAME", lambda text: objective(text, objectives), lambda value: str(value.name)),
        Limit: ("NAME<NUMBER", lambda text: parse_limit(text, objectives), str),
        BaseSampler: ("SAMPLER", str, lambda value: type(value).__name__),
    }

    @registry.primitive_rule
    def rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type not in rules:
            return None
        metavar, read, show = rules[info.type]
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: read(words[0]),
            is_instance=lambda value: isinstance(value, info.type),
            str_from_instance=lambda value: [show(value)],
        )

    return registry


def _run_and_print(experiment: "Experiment", run: Callable[..., Path], *arguments: Any, **options: Any) -> None:
    """Run a search and show its progress, then print its front and the commands to type next.

    Raises: NasError with the first failed trial's error, if trials failed and none is done.
    """
    from nas.cli.progress import shown_search, shown_shared_training

    log_to_stdout()
    folder = run(*arguments, watch=shown_search, watch_training=shown_shared_training, **options)
    from nas.runs.results import results

    df = results(folder)
    failed = df[df["status"] == "failed"]
    if not (df["status"] == "done").any() and not failed.empty:
        first = failed.iloc[0]
        error = f"trial {first['trial']} failed ({first['reason']}): {first['error']}"
        raise NasError(f"no trial is done, and {len(failed)} failed: {error}")
    print()
    print_front(df)
    print(f"\nnas table {shown_path(folder)} --front\nnas report {shown_path(folder)}")
    if any(objective.needs_training for objective in experiment.objectives):
        print(f"nas export {shown_path(folder)} --best {experiment.steering[0].name}")
