"""`nas runs`, `clean`, `table`, `report`, `compare`, `verify`, `dashboard`: look at runs, check them, free their disk."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.options import Best, Run, Runs, Where, WithinError
from nas.cli.output import log_to_stdout, print_front, print_rows, print_table, shown_path, varying_columns
from nas.errors import NasError

if TYPE_CHECKING:
    import pandas as pd


def runs(folder: Path = Path("runs"), /) -> None:
    """List the runs in a folder: their state, trials, best network and size.

    Args:
        folder: The folder that the run folders are in.
    """
    from nas.runs.listing import RunSummary, list_runs

    summaries = list_runs(folder)
    print_table(RunSummary._fields, [(shown_path(run.run), *run[1:-1], f"{run.size_mb:,.1f}") for run in summaries])
    print(f"{len(summaries)} runs, {sum(run.size_mb for run in summaries):,.1f} MB")


def clean(run: Runs, /, *, yes: bool = False) -> None:
    """List weights off the front, checkpoints of ended trials and shared weights of a finished run; remove them with --yes.

    Args:
        yes: Remove the listed files.
    """
    from nas.runs.listing import clean as clean_run
    from nas.runs.listing import removable, size_mb

    is_removable = False
    for folder in run:
        entries = removable(folder)
        is_removable |= bool(entries)
        names = ", ".join(str(entry.relative_to(folder)) for entry in entries)
        print(f"{shown_path(folder)}: {sum(map(size_mb, entries)):,.1f} MB that the front does not need: {names or 'nothing'}")
        if yes:
            print(f"{clean_run(folder):,.1f} MB removed")
    if is_removable and not yes:
        print("nothing is removed yet; give --yes to remove them")


def table(
    run: Runs,
    /,
    *,
    front: bool = False,
    where: Where = "",
    best: Best = None,
    within_error: WithinError = False,
    output: Path | None = None,
) -> None:
    """Print the trials of runs, or only their Pareto fronts; in Python, nas.results(run) gives the same table.

    Args:
        front: Only the Pareto front of each run, the best first.
        output: Write every column to this file instead: .csv, .xlsx, or .parquet, which alone keeps the columns' types.
    """
    from nas.runs import front as fronts
    from nas.runs import results as tables
    from nas.runs.table_file import write_table
    from nas.runs.trial import Status

    df = tables.results(*run)
    _print_gone(tables.run_folders(*run))
    rows = fronts.front(df) if front else df
    rows = tables.select(rows, where) if where else rows
    rows = rows.loc[[fronts.best(rows, best, within_error=within_error).name]] if best else rows
    if output is not None:
        write_table(rows, output)
        return
    if front and not (where or best) and df["run"].nunique() <= 1:
        print_front(df)
        return
    shown = rows if where else rows[rows["trial"].notna()]  # skipped proposals are only in the counts below
    names = ["run"] if df["run"].nunique() > 1 else []
    failures = ["reason", "error"] if shown["reason"].notna().any() else []
    measured = [*df.attrs["directions"], *df.attrs["proxies"]]
    print_rows(shown, [*names, "trial", "id", "status", *measured, *varying_columns(df), "seconds", "source", "name", *failures])
    if rows is df:
        counts = df["status"].value_counts()
        statuses = dict.fromkeys((Status.DONE, Status.STOPPED, Status.FAILED, Status.RUNNING, *counts.index))
        print(", ".join(f"{counts.get(status, 0)} {status}" for status in statuses))
        _print_predictors(df)


def _print_predictors(df: "pd.DataFrame") -> None:
    """Print how well the objectives only to look at predict the top-1, if there are any."""
    from nas.runs.compare import predictors

    if rows := predictors(df):
        print(f"\nKendall's tau with {df.attrs['learning_curve']} over trained networks")
        print_table(["column", "networks", "tau"], [[one.name, one.networks, one] for one in rows], right=["networks"])


def _print_gone(runs: Iterable[Path]) -> None:
    """Say to the standard error which runs' images are gone."""
    from nas.runs.images import gone_images
    from nas.runs.run_folder import read_experiment

    for run in runs:
        if gone := gone_images(run, read_experiment(run)):
            print(f"nas: {gone}", file=sys.stderr)


def report(run: Run, /, *, output: Path | None = None) -> None:
    """Write a run's page, one HTML file that works offline; the search may still be running.

    Args:
        output: The file to write, by default report.html in the run folder.
    """
    from nas.runs.report import write_report

    print(shown_path(write_report(run, output)))
    _print_gone([run])


def compare(one: Path, other: Path, /) -> None:
    """Compare two searches by hypervolume: two runs, or two folders of runs over several seeds to see the noise.

    Args:
        one: A run folder, or a folder of runs with different seeds.
        other: The same for the second search.
    """
    from nas.runs.compare import compare as compare_runs

    comparison = compare_runs(one, other)
    reference = ", ".join(f"{name} {value:.4g}" for name, value in comparison.reference.items())
    print(f"hypervolumes count from a tenth beyond the worst value of any of these runs ({reference}) to the best\n")
    sides = (comparison.one, comparison.other)
    rows = [
        ["runs", *(str(len(side)) for side in sides)],
        ["hypervolume", *(f"{sum(side) / len(side):.4f}" for side in sides)],
        ["lowest to highest", *(f"{min(side):.4f} to {max(side):.4f}" for side in sides)],
    ]
    print_table(["", str(one), str(other)], rows)
    print(f"\n{comparison.verdict}")


def verify(
    run: Run,
    /,
    *,
    top: int | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    shared: bool = False,
    networks: int | None = None,
) -> None:
    """Train a front's best networks in full with several seeds, and compare that ranking with the search's.

    Each full training becomes an export folder under full/ in the run folder. Each network is also trained once more as in the
    search, with another seed, to show how well two seeds agree.

    Args:
        top: How many networks of the front, the best by top-1; by default 5.
        seeds: How many seeds to train each network with; by default 3, with --shared 2.
        epochs: Epochs of each training, by default ten times the run's; the other settings are the trial's.
        shared: Check the scores by shared weights instead: train some of those networks alone, with the run's settings.
        networks: With --shared, how many of the scored networks, spread evenly over their costs; by default 8.
    """
    log_to_stdout()
    if not shared:
        if networks is not None:
            raise NasError("networks: only --shared needs it; give --top, or add --shared")
        _verify_front(run, top=5 if top is None else top, seeds=3 if seeds is None else seeds, epochs=epochs)
        return
    if top is not None or epochs is not None:
        raise NasError("shared: trains with the run's settings; leave out --top and --epochs, or --shared")
    _verify_shared(run, networks=8 if networks is None else networks, seeds=2 if seeds is None else seeds)


def _verify_front(run: Path, *, top: int, seeds: int, epochs: int | None) -> None:
    from nas.cli.progress import bar
    from nas.exporting.verify import verify as verify_run
    from nas.runs.results import results

    with bar("full trainings") as on_done:
        trust = verify_run(run, top=top, seeds=seeds, epochs=epochs, on_done=on_done)
    df = results(run)
    trained = df[df["full_seeds"].notna()].sort_values("full_test_top1_pct", ascending=False)
    columns = [df.attrs["learning_curve"], *(name for name in df.columns if name.startswith("full_"))]
    print_rows(trained, ["trial", "id", *columns])
    print(f"\n{trust}" if trust is not None else "\none network alone has no ranking")


def _verify_shared(run: Path, *, networks: int, seeds: int) -> None:
    from nas.cli.progress import bar
    from nas.exporting.verify_shared import verify_shared
    from nas.runs.results import results

    with bar("trainings alone") as on_done:
        check = verify_shared(run, networks=networks, seeds=seeds, on_done=on_done)
    df = results(run)
    trained = df[df["alone_seeds"].notna()].sort_values("alone_val_top1_pct", ascending=False)
    print_rows(trained, ["trial", "id", *df.attrs["directions"], "val_loss", "alone_val_top1_pct", "alone_seeds"])
    print(f"\n{check.difference}\n\nKendall's tau with the ranking by top-1 alone")
    print_table(["by", "tau"], check.rankings)


def dashboard(run: Run, /, *, port: int = 8080) -> None:
    """Serve a run in optuna-dashboard, on 127.0.0.1 only, until Ctrl-C; new trials appear as they end.

    Args:
        port: The port that it listens on.
    """
    from nas.runs.dashboard import serve

    serve(run, port=port, on_ready=lambda address: print(f"{address} until Ctrl-C", flush=True))
