"""`nas runs`, `clean`, `table`, `report`, `compare`, `verify`, `dashboard`: call one function, print."""

from pathlib import Path

from nas.cli.options import command
from nas.cli.output import log_to_stdout, print_front, print_rows, print_table, shown_path


@command
def runs(folder: Path = Path("runs"), /) -> None:
    """List every run in a folder: its state, trials, best network and size.

    Args:
        folder: The folder that the run folders are in.
    """
    from nas.runs.listing import RunSummary, list_runs

    found = list_runs(folder)
    print_table(RunSummary._fields, [(shown_path(run.run), *run[1:-1], f"{run.size_mb:,.1f}") for run in found])
    print(f"{len(found)} runs, {sum(r.size_mb for r in found):,.1f} MB")


@command
def clean(run: tuple[Path, ...], /, *, yes: bool = False) -> None:
    """Say which weights and checkpoints of networks off the front a run keeps, and remove them with --yes.

    Args:
        run: Run folders.
        yes: Remove them.
    """
    from nas.runs.listing import clean as clean_run
    from nas.runs.listing import removable, size_mb

    for folder in run:
        entries = removable(folder)
        names = ", ".join(entry.name for entry in entries)
        print(f"{shown_path(folder)}: {sum(map(size_mb, entries)):,.1f} MB off the front: {names or 'nothing'}")
        if yes:
            print(f"{clean_run(folder):,.1f} MB removed")
    if not yes:
        print("nothing is removed yet; give --yes to remove them")


@command
def table(
    run: tuple[Path, ...],
    /,
    *,
    front: bool = False,
    where: str = "",
    best: str | None = None,
    within_error: bool = False,
    output: Path | None = None,
) -> None:
    """Print the trials of runs, or only their Pareto fronts; from Python, nas.results(run) gives the same table.

    Args:
        run: Run folders, or folders of them.
        front: Only the networks that no other one of their run beats on every objective, the best first.
        where: Only rows that meet this, such as "macs_m < 60 and val_top1_pct > 90 and status == 'done'".
        best: An objective: only the network that is best on it among the rows that are left; ties go to the other objectives.
        within_error: With --best, rank even where the latency table's error is larger than the difference.
        output: A CSV file to write instead, of every column; RESULTS.md describes each.
    """
    from nas.runs.results import best as best_row
    from nas.runs.results import front as front_of
    from nas.runs.results import results, select
    from nas.runs.trial import Status

    df = results(*run)
    chosen = front_of(df) if front else df
    chosen = select(chosen, where) if where else chosen
    chosen = chosen.loc[[best_row(chosen, best, within_error=within_error).name]] if best else chosen
    if output is not None:
        output.write_text(chosen.to_csv(index=False), encoding="utf-8")  # in place: it may be a pipe or /dev/stdout
        return
    if front and not (where or best) and df["run"].nunique() <= 1:
        print_front(df)
        return
    shown = chosen if where else chosen[chosen["trial"].notna()]  # skipped proposals are only counted
    runs = ["run"] if df["run"].nunique() > 1 else []
    failures = ["reason", "error"] if shown["reason"].notna().any() else []
    print_rows(shown, [*runs, "trial", "id", "status", *df.attrs["directions"], "seconds", "source", "name", *failures])
    if chosen is df:
        counts = df["status"].value_counts()
        statuses = dict.fromkeys((Status.DONE, Status.STOPPED, Status.FAILED, Status.RUNNING, *counts.index))
        print(", ".join(f"{counts.get(status, 0)} {status}" for status in statuses))


@command
def report(run: Path, /, *, output: Path | None = None) -> None:
    """Write the page of a run: one HTML file that works offline; it can be made while the search runs.

    Args:
        run: The run folder.
        output: The file to write, by default report.html in the run folder.
    """
    from nas.runs.report import write_report

    print(shown_path(write_report(run, output)))


@command
def compare(one: Path, other: Path, /) -> None:
    """Hold two runs against each other; give folders of runs over several seeds to know what is within the noise.

    Args:
        one: A run folder, or a folder of them.
        other: The same.
    """
    from nas.runs.compare import compare as compare_runs

    found = compare_runs(one, other)
    reference = ", ".join(f"{name} {value:.4g}" for name, value in found.reference.items())
    print(f"hypervolumes count from a tenth beyond the worst that any of these runs found ({reference}) to the best\n")
    sides = (found.one, found.other)
    rows = [
        ["runs", *(str(len(side)) for side in sides)],
        ["hypervolume", *(f"{sum(side) / len(side):.4f}" for side in sides)],
        ["lowest to highest", *(f"{min(side):.4f} to {max(side):.4f}" for side in sides)],
    ]
    print_table(["", str(one), str(other)], rows)
    print(f"\n{found.verdict}")


@command
def verify(run: Path, /, *, top: int = 5, seeds: int = 3, epochs: int | None = None) -> None:
    """Train the best of a run's front in full with several seeds, and say how far to trust the search's short trainings.

    Each becomes an export folder under full/ in the run folder.

    Args:
        run: The run folder.
        top: How many networks, the best of the front by top-1.
        seeds: How often each is trained.
        epochs: Of each training, by default ten times the run's; all else is the run's own recipe.
    """
    from nas.cli.live import bar
    from nas.exporting.verify import verify as verify_run
    from nas.runs.results import results

    log_to_stdout()
    with bar("full trainings") as on_done:
        trust = verify_run(run, top=top, seeds=seeds, epochs=epochs, on_done=on_done)
    df = results(run)
    trained = df[df["full_seeds"].notna()].sort_values("full_test_top1_pct", ascending=False)
    columns = [df.attrs["learning_curve"], *(name for name in df.columns if name.startswith("full_"))]
    print_rows(trained, ["trial", "id", *columns])
    print(f"\n{trust}" if trust is not None else "\none network alone has no ranking")


@command
def dashboard(run: Path, /, *, port: int = 8080) -> None:
    """Open optuna-dashboard on a run, on 127.0.0.1 alone, until Ctrl-C; trials that end meanwhile are added.

    Args:
        run: The run folder.
        port: Where it listens.
    """
    from nas.runs.dashboard import serve

    serve(run, port=port, on_ready=lambda address: print(f"{address} until Ctrl-C", flush=True))
