"""What the commands print: rows, fronts, paths."""

import logging
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def log_to_stdout() -> None:
    """What a search or a training says goes to the standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("nas").setLevel(logging.INFO)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it warns of a cosine of one step


def print_front(df: "pd.DataFrame") -> None:
    """The rows of the front, the best first, and how many they are of how many."""
    from nas.runs.results import close_pairs, front

    chosen = front(df)
    print_rows(chosen, ["trial", "id", *df.attrs["directions"], "seconds", "source", "name"])
    print(f"front: {len(chosen)} of {int((df['status'] == 'done').sum())} done")
    for name, pairs in close_pairs(df).items():
        print(
            f"the latency table errs by {df.attrs['table_error_pct'][name]:.1f} %, and does not tell apart, by {name}, trials "
            + ", ".join(f"{one} and {other}" for one, other in pairs)
        )


def print_rows(df: "pd.DataFrame", columns: list[str]) -> None:
    """The rows as a table; numbers have four digits."""
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
    """A table, drawn in a terminal and of plain columns in a pipe; the columns in `right` end at their right edge."""
    texts = [[str(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        for row in (columns, *texts):
            cells = zip(row, widths, columns, strict=True)
            print("  ".join(text.rjust(width) if name in right else text.ljust(width) for text, width, name in cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table()
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left")
    for row in texts:
        drawn.add_row(*map(Text, row))  # nothing in a cell is markup
    Console().print(drawn)


def shown_path(path: Path) -> str:
    """A path as short as it can be typed here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
