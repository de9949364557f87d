"""What the commands print: rows, fronts, paths."""

import logging
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.plugins import plugin_names, plugin_summary

if TYPE_CHECKING:
    import pandas as pd

PIPE_COLUMNS = 100_000  # no line is that long: in a pipe none wraps


def log_to_stdout() -> None:
    """Send the messages of a search or a training to the standard output of this moment."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("nas").setLevel(logging.INFO)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it warns of a cosine of one step


def print_plugins(kind: str) -> None:
    """Print the spaces, or the plug-ins of another kind, each with its summary."""
    for name in plugin_names(kind):
        print(f"  {name:<24} {plugin_summary(kind, name)}")


def print_front(df: "pd.DataFrame") -> None:
    """Print the front of a run, the best first, and the pairs that a latency table does not tell apart."""
    from nas.runs.results import close_pairs, front

    rows = front(df)
    print_rows(rows, ["trial", "id", *df.attrs["directions"], "seconds", "source", "name"])
    print(f"front: {len(rows)} of {int((df['status'] == 'done').sum())} done")
    for name, pairs in close_pairs(df).items():
        error, trials = df.attrs["table_error_pct"][name], ", ".join(f"{one} and {other}" for one, other in pairs)
        print(f"the latency table's error, {error:.1f} %, is larger than the difference in {name} of trials {trials}")


def print_rows(df: "pd.DataFrame", columns: list[str]) -> None:
    """Print columns of a table, numbers with four digits."""
    import pandas as pd

    if df.empty:
        print("no row")
        return
    cells = [
        ["" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else value for value in row]
        for row in df[columns].itertuples(index=False)
    ]
    print_table(columns, cells, right=[column for column in columns if pd.api.types.is_numeric_dtype(df[column])])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Collection[str] = ()) -> None:
    """Print aligned columns, those of `right` at their right edge; a terminal wraps long cells, a pipe gets a line a row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, table = Console(), Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))  # nothing in a cell is markup
    with console.capture() as drawing:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawing.get().splitlines()))


def shown_path(path: Path) -> str:
    """A path as short as it can be typed here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
