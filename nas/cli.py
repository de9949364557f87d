"""The `nas` command: parse, call one function, print. Nothing heavy is imported before it is needed."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from nas.errors import NasError, unknown
from nas.export_commands import export, train
from nas.latency_commands import latency, measure
from nas.parsing import USER_ERROR, constructors, named_plugins, parsed
from nas.plugins import load_plugin, plugin_names, summary
from nas.printing import log_to_stdout, print_front, print_table, shown_path
from nas.results_commands import compare, dashboard, report, table, verify
from nas.scale_commands import scale

if TYPE_CHECKING:
    import pandas as pd

INTERRUPTED: Final = 130  # as a shell reports a process that SIGINT ended


def main() -> None:
    """Run the command that the process was started with; a user's mistake is one sentence and exit code 2."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
        elif arguments[0] == "--version":
            print(version("frontier-nas"))
        elif arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        else:
            COMMANDS[arguments[0]](list(arguments[1:]))
    except NasError as error:
        print(f"nas: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        sys.stderr.close()
    except OSError as error:
        print(f"nas: {error.filename or 'a file'} cannot be used: {error.strerror or error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("nas: interrupted; what had ended is kept", file=sys.stderr)
        return INTERRUPTED
    return 0


def _usage() -> str:
    lines = [f"  nas {name:<9} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["Search mobile networks, look at what was found, take it away.", "", *lines, "", "Each has --help."])


def search(arguments: list[str]) -> None:
    """Run an experiment, by name or from a Python file; without one, list the experiments."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("nas search EXPERIMENT [--help | options]: an experiment's name, or the path of a Python file with an EXPERIMENT\n")
        _list("experiment")
        return
    from nas.experiment import Experiment

    name, *options = arguments
    experiment = load_plugin("experiment", name)
    if not isinstance(experiment, Experiment):
        raise NasError(f"EXPERIMENT is a {type(experiment).__name__}; it must be a nas.Experiment")
    replaced, options = named_plugins(("space", "dataset"), options)
    experiment = replace(experiment, **replaced)
    experiment = parsed(
        Experiment,
        default=experiment,
        args=options,
        prog=f"nas search {name}",
        description=_search_description(name),
        registry=constructors(experiment.objectives),
    )
    from nas.driver import search as search_experiment  # torch and Ray, once the command is known to be right
    from nas.progress import shown_search

    log_to_stdout()
    _print_found(search_experiment(experiment, name=Path(name).stem, watch=shown_search), experiment)


def _print_found(folder: Path, experiment: Any) -> None:
    """What a search has found, and what can be done with it."""
    from nas.table import results

    df = results(folder)
    _refuse_if_none_done(df)
    print()
    print_front(df)
    print(f"\nnas table {shown_path(folder)} --front\nnas report {shown_path(folder)}")
    if any(objective.needs_training for objective in experiment.objectives):
        print(f"nas export {shown_path(folder)} --best {experiment.objectives[0].name}")


def resume(arguments: list[str]) -> None:
    """Go on with a run that was interrupted or killed, or extend one with --trials; finished trials stay."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("nas resume RUN [--help | options]: a run folder that `nas search` made, which `nas runs` lists")
        return
    if arguments[0].startswith("-"):
        raise NasError(f"nas resume takes the run folder first, and then options; given: {arguments[0]}")
    from nas.description import experiment_of
    from nas.experiment import Experiment
    from nas.runs import check_free, read_experiment

    run, *options = arguments
    folder = Path(run).resolve()
    check_free(folder)  # at once, not after Ray
    before = experiment_of(read_experiment(folder), folder.parent)
    registry = constructors(before.objectives)
    after = parsed(Experiment, default=before, args=options, prog=f"nas resume {run}", registry=registry)
    changes = {
        field.name: getattr(after, field.name)
        for field in fields(Experiment)
        if getattr(after, field.name) != getattr(before, field.name)
    }
    from nas.driver import resume as resume_run
    from nas.progress import shown_search

    log_to_stdout()
    _print_found(resume_run(folder, watch=shown_search, **changes), after)


def _refuse_if_none_done(df: "pd.DataFrame") -> None:
    """A search without a network is a failure, and what its first trial says is most often the reason."""
    failed = df[df["status"] == "failed"]
    if not (df["status"] == "done").any() and not failed.empty:
        first = failed.iloc[0]
        raise NasError(
            f"none of {len(failed)} trials is done; trial {first['trial']} failed ({first['reason']}): {first['error']}"
        )


def _search_description(name: str) -> str:
    return (
        f"Run {name}; every field can be set here but a sampler object. --space NAME and --dataset NAME put in another one, by "
        f"name or path, before its own fields are set. Spaces: {', '.join(plugin_names('space'))}; datasets: "
        f"{', '.join(plugin_names('dataset'))}; objectives: {', '.join(plugin_names('objective'))}."
    )


def space(arguments: list[str]) -> None:
    """Describe a search space: its size, what its networks cost, its published networks; without a name, list the spaces."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print("nas space NAME: a space's name, or the path of a Python file with a SPACE\n")
        _list("space")
        return
    import random

    from nas.costs import cost
    from nas.spaces import num_points, sample
    from nas.spaces import space as find_space

    if len(arguments) > 1:
        raise NasError(f"nas space takes one name and nothing else; given: {' '.join(arguments)}")
    found = find_space(arguments[0])
    generator = random.Random(0)
    costs = [cost(found.decode(sample(found.parameters, generator))) for _ in range(1_000)]
    print(f"{found.name}: {(type(found).__doc__ or '').splitlines()[0]}\n")
    print(f"{len(found.parameters)} parameters, {num_points(found.parameters):.3g} points\n")
    for name, distribution in found.parameters.items():
        print(f"  {name:<24} {_choices(distribution)}")
    print("\nover 1,000 random points, 1,000 classes: smallest, median, largest")
    for name, values in (("params_m", [c.params for c in costs]), ("macs_m", [c.macs for c in costs])):
        values.sort()
        print(f"  {name:<24} {values[0] / 1e6:.3f}  {values[500] / 1e6:.3f}  {values[-1] / 1e6:.3f}")
    print("\npublished networks among its points: params_m, macs_m")
    for name, params in found.references.items():
        reference_cost = cost(found.decode(params))
        print(f"  {name:<34} {reference_cost.params / 1e6:8.3f} {reference_cost.macs / 1e6:10.3f}")


def _choices(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return ", ".join(f"{choice:.4g}" if isinstance(choice, float) else str(choice) for choice in distribution.choices)
    return f"{distribution.low} to {distribution.high}" + (f" in steps of {distribution.step}" if distribution.step else "")


def runs(arguments: list[str]) -> None:
    """List every run in a folder: its state, trials, best network and size."""
    import tyro

    from nas.housekeeping import list_runs

    def show(folder: Annotated[Path, tyro.conf.Positional] = Path("runs")) -> None:
        """List every run in a folder: its state, trials, best network and size.

        Args:
            folder: The folder that the run folders are in.
        """
        found = list_runs(folder)
        columns = ("run", "state", "trials", "front", "best", "size_mb")
        print_table(columns, [(shown_path(r.run), r.state, r.trials, r.front, r.best, f"{r.size_mb:,.1f}") for r in found])
        print(f"{len(found)} runs, {sum(r.size_mb for r in found):,.1f} MB")

    parsed(show, args=arguments, prog="nas runs")


def clean(arguments: list[str]) -> None:
    """Say which weights off the front a run keeps, and remove them with --yes."""
    import tyro

    from nas.housekeeping import clean as clean_run
    from nas.housekeeping import removable, size_mb

    def remove(run: Annotated[tuple[Path, ...], tyro.conf.Positional], *, yes: bool = False) -> None:
        """Say which weights and checkpoints of networks off the front a run keeps, and remove them with --yes.

        Args:
            run: Run folders.
            yes: Remove them.
        """
        for folder in run:
            entries = removable(folder)
            names = ", ".join(entry.name for entry in entries)
            print(f"{shown_path(folder)}: {sum(map(size_mb, entries)):,.1f} MB off the front: {names or 'nothing'}")
            if yes:
                print(f"{clean_run(folder):,.1f} MB removed")
        if not yes:
            print("nothing is removed yet; give --yes to remove them")

    parsed(remove, args=arguments, prog="nas clean")


def _list(kind: str) -> None:
    for name in plugin_names(kind):
        print(f"  {name:<24} {summary(kind, name)}")


COMMANDS: Final[dict[str, Callable[[list[str]], None]]] = {
    "search": search,
    "resume": resume,
    "runs": runs,
    "clean": clean,
    "table": table,
    "report": report,
    "compare": compare,
    "verify": verify,
    "dashboard": dashboard,
    "export": export,
    "scale": scale,
    "train": train,
    "space": space,
    "measure": measure,
    "latency": latency,
}

if __name__ == "__main__":
    main()
