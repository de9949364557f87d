"""The `nas` command: parse, call one function, print. Nothing heavy is imported before it is needed."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nas.cli.export import export, train
from nas.cli.latency import latency, measure
from nas.cli.options import HELP, USER_ERROR, choose, command, constructors, named_plugins, parsed
from nas.cli.output import log_to_stdout, print_front, shown_path
from nas.cli.results import clean, compare, dashboard, report, runs, table, verify
from nas.cli.scale import scale
from nas.errors import NasError
from nas.plugins import load_plugin, plugin_names, plugin_summary

if TYPE_CHECKING:
    from nas.runs.experiment import Experiment

INTERRUPTED: Final = 130  # as a shell reports a process that SIGINT ended


def main() -> None:
    """Run the command that the process was started with; a user's mistake is one sentence and exit code 2."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code."""
    try:
        if arguments[:1] == ["--version"]:
            from importlib.metadata import version

            print(version("frontier-nas"))
        else:
            choose(COMMANDS, arguments, prog="nas", purpose="Search mobile networks, look at what was found, take it away.")
        sys.stdout.flush()  # here, where a closed pipe is caught, and not as Python ends
    except NasError as error:
        print(f"nas: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be flushed
    except OSError as error:
        print(f"nas: {error.filename or 'a file'} cannot be used: {error.strerror or error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("nas: interrupted; what had ended is kept", file=sys.stderr)
        return INTERRUPTED
    return 0


def search(arguments: list[str]) -> None:
    """Run an experiment, by name or from a Python file; without one, list the experiments."""
    if not arguments or arguments[0] in HELP:
        print("nas search EXPERIMENT [--help | options]: an experiment's name, or the path of a Python file with an EXPERIMENT\n")
        _list("experiment")
        return
    from nas.runs.experiment import Experiment

    name, *options = arguments
    experiment = load_plugin("experiment", name)
    if not isinstance(experiment, Experiment):
        raise NasError(f"EXPERIMENT is a {type(experiment).__name__}; it must be a nas.Experiment")
    named, options = named_plugins(("space", "dataset"), options)
    about = (
        f"Run {name}; every field can be set here but a sampler object. --space NAME and --dataset NAME put in another one, by "
        f"name or path, before its own fields are set. Spaces: {', '.join(plugin_names('space'))}; datasets: "
        f"{', '.join(plugin_names('dataset'))}; objectives: {', '.join(plugin_names('objective'))}."
    )
    experiment = _with_options(replace(experiment, **named), options, prog=f"nas search {name}", description=about)
    from nas.searching.tuner import search as search_experiment  # torch and Ray, once the command is known to be right

    _run_and_print(experiment, search_experiment, experiment, name=Path(name).stem)


def resume(arguments: list[str]) -> None:
    """Go on with a run that was interrupted or killed, or extend one with --trials; finished trials stay."""
    if not arguments or arguments[0] in HELP:
        print("nas resume RUN [--help | options]: a run folder that `nas search` made, which `nas runs` lists")
        return
    if arguments[0].startswith("-"):
        raise NasError(f"nas resume takes the run folder first, and then options; given: {arguments[0]}")
    from nas.runs.folder import check_free, read_experiment
    from nas.runs.serialization import experiment_of

    run, *options = arguments
    folder = Path(run).resolve()
    check_free(folder)  # at once, not after Ray
    before = experiment_of(read_experiment(folder), folder.parent)
    after = _with_options(before, options, prog=f"nas resume {run}")
    pairs = {field.name: (getattr(before, field.name), getattr(after, field.name)) for field in fields(after)}
    from nas.searching.tuner import resume as resume_run

    _run_and_print(after, resume_run, folder, **{name: new for name, (old, new) in pairs.items() if new != old})


def _with_options(experiment: "Experiment", options: list[str], **about: str) -> "Experiment":
    """The experiment with the fields that are given as options."""
    registry = constructors(experiment.objectives)
    found: Experiment = parsed(type(experiment), default=experiment, args=options, registry=registry, **about)
    return found


def _run_and_print(experiment: "Experiment", run: Callable[..., Path], *arguments: Any, **options: Any) -> None:
    """Run a search while showing it, and print what it has found and what can be done with it.

    Raises: NasError if no trial is done; what the first one says is most often the reason.
    """
    from nas.cli.live import shown_search

    log_to_stdout()
    folder = run(*arguments, watch=shown_search, **options)
    from nas.runs.results import results

    df = results(folder)
    failed = df[df["status"] == "failed"]
    if not (df["status"] == "done").any() and not failed.empty:
        first = failed.iloc[0]
        why = f"trial {first['trial']} failed ({first['reason']}): {first['error']}"
        raise NasError(f"none of {len(failed)} trials is done; {why}")
    print()
    print_front(df)
    print(f"\nnas table {shown_path(folder)} --front\nnas report {shown_path(folder)}")
    if any(objective.needs_training for objective in experiment.objectives):
        print(f"nas export {shown_path(folder)} --best {experiment.objectives[0].name}")


@command
def space(name: str | None = None, /) -> None:
    """Describe a search space: its size, what its networks cost, its published networks; without a name, list the spaces.

    Args:
        name: The space's name, or the path of a Python file with a SPACE.
    """
    if name is None:
        print("nas space NAME: a space's name, or the path of a Python file with a SPACE\n")
        _list("space")
        return
    import random

    from nas.models.cost import cost
    from nas.spaces import num_points, sample
    from nas.spaces import space as find_space

    found = find_space(name)
    generator = random.Random(0)
    costs = [cost(found.decode(sample(found.parameters, generator))) for _ in range(1_000)]
    print(f"{found.name}: {(type(found).__doc__ or '').splitlines()[0]}\n")
    print(f"{len(found.parameters)} parameters, {num_points(found.parameters):.3g} points\n")
    for parameter, distribution in found.parameters.items():
        print(f"  {parameter:<24} {_choices(distribution)}")
    print("\nover 1,000 random points, 1,000 classes: smallest, median, largest")
    for unit, values in (("params_m", sorted(c.params for c in costs)), ("macs_m", sorted(c.macs for c in costs))):
        print(f"  {unit:<24} {values[0] / 1e6:.3f}  {values[500] / 1e6:.3f}  {values[-1] / 1e6:.3f}")
    print("\npublished networks among its points: params_m, macs_m")
    for network, params in found.references.items():
        reference_cost = cost(found.decode(params))
        print(f"  {network:<34} {reference_cost.params / 1e6:8.3f} {reference_cost.macs / 1e6:10.3f}")


def _choices(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return ", ".join(f"{choice:.4g}" if isinstance(choice, float) else str(choice) for choice in distribution.choices)
    return f"{distribution.low} to {distribution.high}" + (f" in steps of {distribution.step}" if distribution.step else "")


def _list(kind: str) -> None:
    for name in plugin_names(kind):
        print(f"  {name:<24} {plugin_summary(kind, name)}")


COMMANDS: Final = {
    found.__name__: found
    for found in (
        *(search, resume, runs, clean, table, report, compare, verify, dashboard),
        *(export, scale, train, space, measure, latency),
    )
}
