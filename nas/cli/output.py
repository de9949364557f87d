"""Prints what several commands show: tables, fronts, plug-ins, paths."""

import logging
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.plugins import plugin_names, plugin_summary
from nas.runs.columns import SETTINGS

if TYPE_CHECKING:
    import pandas as pd

PIPE_COLUMNS = 100_000  # characters; no line is that long, so none wraps in a pipe


def log_to_stdout() -> None:
    """Send the log of a search or a training to the current sys.stdout."""
    from nas.trackers import is_no_library  # takes a tenth of a second, which other commands save

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger().handlers[0].addFilter(is_no_library)
    logging.getLogger("nas").setLevel(logging.INFO)
    logging.getLogger("timm").setLevel(logging.ERROR)  # timm warns about a cosine schedule of one step


def print_plugins(kind: str) -> None:
    """Print the plug-ins of a kind, such as the spaces, each with its summary."""
    for name in plugin_names(kind):
        print(f"  {name:<24} {plugin_summary(kind, name)}")


def print_front(df: "pd.DataFrame") -> None:
    """Print a run's front, the best first, and the pairs that differ by less than the latency table's error."""
    from nas.runs.front import close_pairs, front

    rows = front(df)
    print_rows(rows, ["trial", "id", *df.attrs["directions"], *varying_columns(df), "seconds", "source", "name"])
    print(f"front: {len(rows)} of {int((df['status'] == 'done').sum())} done")
    for name, pairs in close_pairs(df).items():
        error, trials = df.attrs["table_error_pct"][name], ", ".join(f"{one} and {other}" for one, other in pairs)
        print(f"the latency table's error, {error:.1f} %, is larger than the difference in {name} of trials {trials}")


def varying_columns(df: "pd.DataFrame") -> list[str]:
    """The believed top-1 if there is one, the searched training settings, and `weights` if its values differ."""
    believed = ["val_top1_pct_believed", "val_top1_pct_believed_sd"]
    settings = [name for name in df.columns if name.startswith(SETTINGS)]
    return [
        *(believed if df[believed[0]].notna().any() else []),
        *settings,
        *(["weights"] if df["weights"].nunique() > 1 else []),
    ]


def print_rows(df: "pd.DataFrame", columns: list[str]) -> None:
    """Print columns of a table; floats have four significant digits."""
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
    texts = [[str(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in columns:
            table.add_column(Text(column), justify="right" if column in right else "left")
        for row in texts:
            table.add_row(*map(Text, row))  # nothing in a cell is markup
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]  # rich takes a second for 1,000 rows
    for line in (columns, *texts):
        cells = zip(line, widths, columns, strict=True)
        print("  ".join(text.rjust(width) if name in right else text.ljust(width) for text, width, name in cells).rstrip())


def shown_path(path: Path) -> str:
    """A path to type in a shell: relative if it is in the working folder, quoted if needed."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
