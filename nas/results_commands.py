"""`nas table`, `report`, `baselines`, `compare`, `verify`, `dashboard`: parse, call one function, print. Read `cli.py` next."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from nas.errors import NasError, unknown
from nas.parsing import parsed
from nas.plugins import load_plugin
from nas.printing import log_to_stdout, print_front, print_rows, print_table, shown_path

if TYPE_CHECKING:
    import pandas as pd

FORMATS: Final = ("table", "csv", "json", "parquet", "markdown")


def table(arguments: list[str]) -> None:
    """Print the trials of runs, or only their Pareto fronts, filtered and sorted, as a table, CSV, JSON, Parquet or Markdown."""
    import tyro

    def show(
        run: Annotated[tuple[Path, ...], tyro.conf.Positional],
        *,
        front: bool = False,
        where: str = "",
        best: str | None = None,
        within_error: bool = False,
        sort: str | None = None,
        reverse: bool = False,
        columns: str = "",
        format: Literal["table", "csv", "json", "parquet", "markdown"] = "table",  # noqa: A002 - the option's name
        output: Path | None = None,
    ) -> None:
        """Print the trials of runs; from Python, nas.results(run) gives the same table.

        Args:
            run: Run folders, or folders of them.
            front: Only the networks that no other one of their run beats on every objective.
            where: Only rows that meet all of these, such as "macs_m<60, val_top1_pct>90, status=done".
            best: An objective: only the network that is best on it among the rows that are left; ties go to the other objectives.
            within_error: With --best latency_ms, rank even where the latency table's error is larger than the difference.
            sort: A column to sort by: the best of an objective first, else the smallest.
            reverse: Sort the other way round.
            columns: Those to show, set apart by commas, or "all"; RESULTS.md describes each.
            format: table, csv, json, parquet or markdown.
            output: A file to write to instead of the terminal; Parquet needs one.
        """
        from nas.conditions import where as meeting
        from nas.table import best as best_row
        from nas.table import results

        df = results(*run)
        if reverse and sort is None:
            raise NasError("reverse: there is no order to reverse; give --sort too")
        plain = not (front or where or best or sort or columns)
        if plain and output is None and format == "table" and len(set(df["run"])) <= 1:
            _print_trials(df)
            return
        if not where and format in ("table", "markdown"):
            df = df[df["trial"].notna()]  # asks that were turned down are told with conditions, or to programs
        chosen = df[df["is_front"]] if front else df
        chosen = meeting(chosen, where) if where else chosen
        if best is not None:
            chosen = chosen.loc[[best_row(chosen, best, within_error=within_error).name]]
        elif front and sort is None:
            sort = next(iter(df.attrs["directions"]))
        if sort is not None:
            _check_columns(df, [sort])
            upwards = (df.attrs["directions"].get(sort) != "maximize") != reverse
            chosen = chosen.sort_values(sort, ascending=upwards, kind="stable")
        if front and format == "table" and output is None and not (columns or where or best) and len(set(df["run"])) <= 1:
            print_front(df, chosen)
            return
        names = _columns(df, columns, everything=format in ("csv", "json", "parquet"))
        _write(chosen[names], format, output)

    parsed(show, args=arguments, prog="nas table")


def _print_trials(df: "pd.DataFrame") -> None:
    counts = df["status"].value_counts()
    failures = ["reason", "error"] if "failed" in counts else []
    columns = ["trial", "id", "status", *df.attrs["directions"], "seconds", "source", "name", *failures]
    print_rows(df[df["trial"].notna()], columns)
    statuses = dict.fromkeys(("done", "stopped", "failed", "running", *counts.index))
    print(", ".join(f"{counts.get(status, 0)} {status}" for status in statuses))


def _columns(df: "pd.DataFrame", given: str, *, everything: bool) -> list[str]:
    if given == "all" or (not given and everything):
        return list(df.columns)
    if not given:
        runs = ["run"] if len(set(df["run"])) > 1 else []
        return [*runs, "trial", "id", "status", *df.attrs["directions"], "seconds", "source", "name"]
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    _check_columns(df, names)
    return names


def _check_columns(df: "pd.DataFrame", names: list[str]) -> None:
    for name in names:
        if name not in df.columns:
            raise unknown("column", name, df.columns)


def _write(df: "pd.DataFrame", format_name: str, output: Path | None) -> None:
    """To the file, or to the terminal."""
    if format_name == "parquet":
        if output is None:
            raise NasError("format parquet is not text; give the file to write with --output")
        _into(output, lambda: df.to_parquet(output, index=False))
    elif format_name == "table" and output is None:
        print_rows(df, list(df.columns))
    else:
        text = _text(df, format_name)
        _into(output, lambda: print(text) if output is None else output.write_text(text + "\n", encoding="utf-8"))


def _into(output: Path | None, write: Any) -> None:
    try:
        write()
    except OSError as error:
        if output is None:
            raise
        raise NasError(f"{output} cannot be written: {error.strerror or error}; give another file with --output") from None


def _text(df: "pd.DataFrame", format_name: str) -> str:
    match format_name:
        case "csv":
            return df.to_csv(index=False).rstrip("\n")
        case "json":
            return str(df.to_json(orient="records", indent=1, date_format="iso", force_ascii=False))
        case "markdown":
            cells = [[_cell(value) for value in row] for row in df.astype(object).where(df.notna(), "").to_numpy()]
            lines = [list(df.columns), ["---"] * len(df.columns), *cells]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case _:
            return str(df.to_string(index=False, na_rep=""))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).replace("|", "\\|").split())


def report(arguments: list[str]) -> None:
    """Write the page of a run: one HTML file that works offline, with the front, every trial and how far to trust them."""
    import tyro

    def write(run: Annotated[Path, tyro.conf.Positional], *, output: Path | None = None) -> None:
        """Write the page of a run: one HTML file that works offline; it can be made while the search runs.

        Args:
            run: The run folder.
            output: The file to write, by default report.html in the run folder.
        """
        from nas.report import write_report

        print(shown_path(write_report(run, output)))

    parsed(write, args=arguments, prog="nas report")


def baselines(arguments: list[str]) -> None:
    """Train published networks under a run's very recipe, as rows of the run; or begin a run with them."""
    import tyro

    def train(
        experiment: Annotated[str, tyro.conf.Positional],
        *,
        network: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
        resolution: int | None = None,
        random: bool = False,
    ) -> None:
        """Train the references of a run's space, and networks by name, under its very recipe, as rows with source reference.

        Args:
            experiment: A run folder; or the name or file of an experiment, for a new run in which nothing else is trained.
            network: A published network, an export's folder, an architecture's file, or timm:NAME; give it once for each.
            resolution: Of the networks by name; by default their own, but no larger than the space's largest.
            random: Whether to go on with a random search of as many trials, in a run of its own, to compare with.
        """
        from nas.baselines import baselines as check_names
        from nas.description import experiment_of
        from nas.driver import begin_run, search, train_baselines
        from nas.experiment import Experiment
        from nas.progress import shown_search
        from nas.runs import EXPERIMENT_FILE, read_experiment

        log_to_stdout()
        folder, name = Path(experiment), Path(experiment).stem
        if not (folder / EXPERIMENT_FILE).is_file():
            if folder.is_dir():
                read_experiment(folder)  # raises, as it is no run
            loaded = load_plugin("experiment", experiment)
            if not isinstance(loaded, Experiment):
                raise NasError(f"EXPERIMENT is a {type(loaded).__name__}; it must be a nas.Experiment")
            check_names(loaded, network, resolution=resolution)
            folder = begin_run(loaded, name)
        train_baselines(folder, network, resolution=resolution, again=random, watch=shown_search)
        print(f"\nnas report {shown_path(folder)}")
        if random:
            described = read_experiment(folder.resolve())
            asked = experiment_of(described, folder.resolve().parent)
            uniform = search(replace(asked, sampler="random"), name=f"{described['name']}-random", watch=shown_search)
            print(f"\nnas compare {shown_path(folder)} {shown_path(uniform)}")

    parsed(train, args=arguments, prog="nas baselines")


def compare(arguments: list[str]) -> None:
    """Hold two runs, or two folders of runs over several seeds, against each other, and say what is within the noise."""
    import tyro

    def show(one: Annotated[Path, tyro.conf.Positional], other: Annotated[Path, tyro.conf.Positional]) -> None:
        """Hold two runs against each other; give folders of runs over several seeds to know the noise.

        Args:
            one: A run folder, or a folder of them.
            other: The same.
        """
        from nas.comparison import compare as compare_runs

        found = compare_runs(one, other)
        sides = (found.one, found.other)
        reference = ", ".join(f"{name} {value:.4g}" for name, value in zip(found.objectives, found.reference, strict=True))
        print(f"hypervolumes count from a tenth beyond the worst that any of these runs found ({reference}) to the best\n")
        levels = [f"{found.objectives[0]} within {found.objectives[1]} {level:.4g}" for level in found.levels]
        cells: list[list[Any]] = [
            ["runs", *(len(side.runs) for side in sides)],
            ["hypervolume", *(f"{sum(side.hypervolumes) / len(side.hypervolumes):.4f}" for side in sides)],
            ["lowest to highest", *(f"{min(side.hypervolumes):.4f} to {max(side.hypervolumes):.4f}" for side in sides)],
            ["beats of the other's front", *(f"{100 * side.coverage:.0f} %" for side in sides)],
            *(
                [name, *("none" if math.isnan(side.attained[i]) else f"{side.attained[i]:.4g}" for side in sides)]
                for i, name in enumerate(levels)
            ),
        ]
        print_table(["", str(one), str(other)], cells)
        print(f"\n{found.verdict}")

    parsed(show, args=arguments, prog="nas compare")


def verify(arguments: list[str]) -> None:
    """Train the best of a run's front in full with several seeds, and say how far to trust the search's short trainings."""
    import tyro

    def train(run: Annotated[Path, tyro.conf.Positional], *, top: int = 5, seeds: int = 3, epochs: int | None = None) -> None:
        """Train the best of a run's front in full; each becomes an export folder under full/ in the run folder.

        Args:
            run: The run folder.
            top: How many networks, the best of the front by val_top1_pct.
            seeds: How often each is trained.
            epochs: Of each training, by default ten times the run's; all else is the run's own recipe.
        """
        from nas.table import results
        from nas.verification import verify as verify_run

        log_to_stdout()
        with _trainings() as told:
            trust = verify_run(run, top=top, seeds=seeds, epochs=epochs, on_done=told)
        df = results(run)
        done = df[df["full_seeds"].notna()].sort_values("full_test_top1_pct", ascending=False)
        print_rows(done, ["trial", "id", "val_top1_pct", *(name for name in df.columns if name.startswith("full_"))])
        print(f"\n{trust}" if trust is not None else "\none network alone has no ranking")

    parsed(train, args=arguments, prog="nas verify")


@contextmanager
def _trainings() -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("full trainings"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("full trainings", visible=False)  # until it is known that there are any
        yield lambda done, of: bar.update(task, completed=done, total=of, visible=True)


def dashboard(arguments: list[str]) -> None:
    """Open optuna-dashboard on a run, on this machine alone, while the search runs or after."""
    import tyro

    def serve(run: Annotated[Path, tyro.conf.Positional], *, port: int = 8080) -> None:
        """Open optuna-dashboard on a run's journal, on 127.0.0.1 alone, until Ctrl-C.

        Args:
            run: The run folder.
            port: Where it listens.
        """
        from nas.runs import read_experiment
        from nas.study import JOURNAL_FILE

        read_experiment(run)
        if not (run / JOURNAL_FILE).is_file():
            raise NasError(f"{run} has no {JOURNAL_FILE}: nothing was searched in it yet")
        if not 0 < port < 65_536:
            raise NasError(f"port: {port} is not from 1 to 65535")
        try:
            from optuna_dashboard import run_server
        except ImportError:
            raise NasError("optuna-dashboard is not installed; `pip install 'frontier-nas[dashboard]'` does it") from None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        print(f"http://127.0.0.1:{port}/ until Ctrl-C", flush=True)
        try:
            run_server(JournalStorage(JournalFileBackend(str(run / JOURNAL_FILE))), host="127.0.0.1", port=port)
        except OSError as error:
            raise NasError(f"port {port} cannot be listened on: {error.strerror}; give another with --port") from None
        sys.stdout.flush()

    parsed(serve, args=arguments, prog="nas dashboard")
