"""The `nas` command: parse, call one function, print. Nothing heavy is imported before it is needed."""

import contextlib
import io
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from nas.errors import NasError, unknown
from nas.plugins import load_plugin, plugin_names, summary

if TYPE_CHECKING:
    import pandas as pd

USER_ERROR: Final = 2
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
    lines = [f"  nas {name:<7} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
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
    replaced, options = _named_plugins(("space", "dataset"), options)
    experiment = replace(experiment, **replaced)
    kind: Any = type(experiment)
    kind = kind[type(experiment.space), type(experiment.dataset)]
    experiment = _parsed(
        kind,
        default=experiment,
        args=options,
        prog=f"nas search {name}",
        description=_search_description(name),
        registry=_constructors(experiment.objectives),
    )
    from nas.driver import search as search_experiment  # torch and Ray, once the command is known to be right
    from nas.table import results

    _log_to_stdout()
    folder = search_experiment(experiment, name=Path(name).stem)
    df = results(folder)
    _refuse_if_none_done(df)
    print()
    _print_front(df)
    print(f"\nnas table {_shown(folder)} --front")
    if any(objective.needs_training for objective in experiment.objectives):
        print(f"nas export {_shown(folder)} --best {experiment.objectives[0].name}")


def _refuse_if_none_done(df: "pd.DataFrame") -> None:
    """A search without a network is a failure, and what its first trial says is most often the reason."""
    failed = df[df["status"] == "failed"]
    if not (df["status"] == "done").any() and not failed.empty:
        first = failed.iloc[0]
        raise NasError(
            f"none of {len(failed)} trials is done; trial {first['trial']} failed ({first['reason']}): {first['error']}"
        )


def _parsed(target: Any, **arguments: Any) -> Any:
    """What tyro makes of the options; its error box becomes one sentence."""
    import tyro

    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written):
            return tyro.cli(target, **arguments)
    except SystemExit as stop:
        if stop.code != USER_ERROR:
            raise
    inside = [line.strip("│ ").strip() for line in written.getvalue().splitlines() if line.startswith("│")]
    until = next((i for i, line in enumerate(inside) if line.startswith(("Argument helptext", "For full helptext"))), len(inside))
    sentence = " ".join(line for line in inside[:until] if line.strip("─"))
    raise NasError(f"{sentence}; see {arguments['prog']} --help")


def _search_description(name: str) -> str:
    return (
        f"Run {name}; every field can be set here but a sampler object. --space NAME and --dataset NAME put in another one, by "
        f"name or path, before its own fields are set. Spaces: {', '.join(plugin_names('space'))}; datasets: "
        f"{', '.join(plugin_names('dataset'))}; objectives: {', '.join(plugin_names('objective'))}."
    )


def _named_plugins(kinds: Sequence[str], options: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(the plug-ins that `--space NAME` or `--dataset NAME` ask for, the options left)."""
    joined = tuple(f"--{kind}=" for kind in kinds)
    left = [part for option in options for part in (option.split("=", 1) if option.startswith(joined) else [option])]
    found = {}
    for kind in kinds:
        while f"--{kind}" in left:
            at = left.index(f"--{kind}")
            if at + 1 == len(left):
                raise NasError(f"--{kind} needs a name; known: {', '.join(plugin_names(kind))}")
            found[kind] = load_plugin(kind, left[at + 1])
            del left[at : at + 2]
    return found, left


def _constructors(own: Sequence[Any]) -> Any:
    """How tyro reads the values that are objects of ours."""
    import tyro
    from optuna.samplers import BaseSampler

    from nas.objectives import Limit, Objective, objective, parse_limit

    registry = tyro.constructors.ConstructorRegistry()
    rules: dict[type, tuple[str, Callable[[str], Any], Callable[[Any], str]]] = {
        Objective: ("NAME", lambda text: objective(text, own), lambda value: str(value.name)),
        Limit: ("NAME<NUMBER", lambda text: parse_limit(text, own), str),
        BaseSampler: ("SAMPLER", str, lambda value: type(value).__name__),
    }

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        if info.type not in rules:
            return None
        metavar, read, write = rules[info.type]
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda parts: read(parts[0]),
            is_instance=lambda value: isinstance(value, info.type),
            str_from_instance=lambda value: [write(value)],
        )

    return registry


def train(arguments: list[str]) -> None:
    """Train one network with a full recipe, and leave its folder; a run that was killed goes on when it is called again."""
    found, options = _named_plugins(("dataset",), arguments)
    if not options:
        options = ["--help"]
    if not found and not {"-h", "--help"} & set(options):
        raise NasError(f"--dataset is missing; give a name or a path of a file; known: {', '.join(plugin_names('dataset'))}")
    import tyro

    from nas.epochs import shown_epochs
    from nas.exports import CARD_FILE
    from nas.trainer import Training, train_network

    dataset = found["dataset"] if found else load_plugin("dataset", "imagenette")
    kind: Any = Training
    training = _parsed(
        kind[type(dataset)],
        default=Training(network=tyro.MISSING, dataset=dataset),
        args=options,
        prog=f"nas train NETWORK --dataset {dataset.name}",
        description=f"Train one network. --dataset NAME is one of {', '.join(plugin_names('dataset'))}, or the path of a file.",
    )
    _log_to_stdout()
    with shown_epochs(training.train.epochs) as shown:
        folder = train_network(training, on_epoch=shown.on_epoch, on_step=shown.on_step)
    accuracy = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))["accuracy"]
    print(f"best on the validation part after epoch {accuracy['epoch']}: {accuracy['trained_val_top1_pct']:.2f} %; loaded again:")
    _print_accuracy(accuracy, folder)


def _log_to_stdout() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("nas").setLevel(logging.INFO)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it warns of a cosine of one step


def _print_accuracy(accuracy: dict[str, Any], folder: Path) -> None:
    for part in ("val", "test"):
        images = f"{accuracy[f'{part}_images']:,} images of {accuracy['dataset']}"
        print(f"{part}_top1_pct {accuracy[f'{part}_top1_pct']:.2f} over {images}")
    print(f"{_shown(folder)}\n\nimport nas; model = nas.load({str(folder)!r})")


def data(arguments: list[str]) -> None:
    """List the caches of decoded images with their sizes, or clear some."""
    import tyro

    from nas.image_cache import cache_folder, clear_caches, list_caches

    def show(*, clear: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY")] = ()) -> None:
        """List the caches of decoded images. Images are decoded once; a cache that is cleared is made anew when it is needed.

        Args:
            clear: Keys of the caches to clear, or their beginnings; `all` clears every one.
        """
        rows = list_caches()
        if clear:
            keys = [row["key"] for row in rows] if clear == ("all",) else clear
            print(f"{clear_caches(keys):,.1f} MB freed")
            return
        for row in rows:
            what = "unfinished, or damaged"
            if row["root"]:
                what = f"{row['images']:,} images, {row['side']} px, {row['damaged']} files unreadable, of {row['root']}"
            print(f"{row['key']}  {row['size_mb']:9,.1f} MB  {what}")
        print(f"{sum(row['size_mb'] for row in rows):,.1f} MB in {cache_folder()}")

    _parsed(show, args=arguments, prog="nas data")


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


def table(arguments: list[str]) -> None:
    """Print the trials of a run, or only its Pareto front."""
    import tyro

    from nas.table import results

    def show(run: Annotated[Path, tyro.conf.Positional], *, front: bool = False) -> None:
        """Print the trials of a run; from Python, nas.results(run) gives every column.

        Args:
            run: The run folder.
            front: Only the networks that no other one beats on every objective.
        """
        df = results(run)
        if front:
            _print_front(df)
            return
        counts = df["status"].value_counts()
        failures = ["reason", "error"] if "failed" in counts else []
        columns = ["trial", "id", "status", *df.attrs["directions"], "seconds", "source", *failures]
        _print_rows(df[df["status"] != "infeasible"], columns)
        print(", ".join(f"{counts.get(status, 0)} {status}" for status in ("done", "failed", "running", "infeasible")))

    _parsed(show, args=arguments, prog="nas table")


def export(arguments: list[str]) -> None:
    """Write the folder of one network of a run: its architecture, weights and card."""
    import tyro

    def write(
        run: Annotated[Path, tyro.conf.Positional],
        *,
        trial: int | None = None,
        best: str | None = None,
        output: Path | None = None,
    ) -> None:
        """Write the folder of one network of a run: its architecture, weights and card.

        Args:
            run: The run folder.
            trial: The trial's number, as `nas table` shows it.
            best: An objective, to export the network that is best on it.
            output: The folder to write, by default exports/trial<N> in the run folder.
        """
        from nas.exports import CARD_FILE
        from nas.exports import export as export_network

        folder = export_network(run, trial=trial, best=best, output=output)
        accuracy = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))["accuracy"]
        if not accuracy["identical_to_trial"]:
            print(f"on another device than the trial's, where it had {accuracy['trial_val_top1_pct']} % on the validation part:")
        _print_accuracy(accuracy, folder)

    _parsed(write, args=arguments, prog="nas export")


def _list(kind: str) -> None:
    for name in plugin_names(kind):
        print(f"  {name:<24} {summary(kind, name)}")


def _print_front(df: "pd.DataFrame") -> None:
    from nas.table import front

    chosen = front(df)
    _print_rows(chosen, ["trial", "id", *df.attrs["directions"], "seconds", "source"])
    print(f"front: {len(chosen)} of {int((df['status'] == 'done').sum())} done")


def _print_rows(df: "pd.DataFrame", columns: list[str]) -> None:
    """The rows, drawn in a terminal and plain in a pipe."""
    shown = df[columns]
    if not sys.stdout.isatty():
        print(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
        return
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    drawn = Table()
    for column in columns:
        drawn.add_column(column, justify="right" if pd.api.types.is_numeric_dtype(shown[column]) else "left")
    for row in shown.itertuples(index=False):
        drawn.add_row(*("" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    Console().print(drawn)


def _shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


COMMANDS: Final[dict[str, Callable[[list[str]], None]]] = {
    "search": search,
    "table": table,
    "export": export,
    "train": train,
    "space": space,
    "data": data,
}

if __name__ == "__main__":
    main()
