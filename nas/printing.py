"""What the commands print: rows, fronts, paths. Read `cli.py` next."""

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


def print_front(df: "pd.DataFrame", chosen: "pd.DataFrame | None" = None) -> None:
    """The rows of the front, in the order of `chosen` if it is given, and how many they are of how many."""
    from nas.table import close_pairs, front

    chosen = front(df) if chosen is None else chosen
    print_rows(chosen, ["trial", "id", *df.attrs["directions"], "seconds", "source", "name"])
    print(f"front: {len(chosen)} of {int((df['status'] == 'done').sum())} done")
    if pairs := close_pairs(df):
        print(
            f"the latency table errs by {df.attrs['latency_error_pct']:.1f} %, and does not tell apart, by latency_ms, trials "
            + ", ".join(f"{one} and {other}" for one, other in pairs)
        )


def print_rows(df: "pd.DataFrame", columns: list[str]) -> None:
    """The rows, drawn in a terminal and plain in a pipe."""
    shown = df[columns]
    if shown.empty:
        print("no row")
        return
    if not sys.stdout.isatty():
        print(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
        return
    import pandas as pd

    right = [column for column in columns if pd.api.types.is_numeric_dtype(shown[column])]
    cells = [["" if pd.isna(value) else _cell(value) for value in row] for row in shown.itertuples(index=False)]
    print_table(columns, cells, right=right)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Collection[str] = ()) -> None:
    """A table, drawn in a terminal and of plain columns in a pipe."""
    texts = [[str(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        for row in (columns, *texts):
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
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


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_path(path: Path) -> str:
    """A path as short as it can be typed here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
