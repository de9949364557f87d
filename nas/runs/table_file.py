"""Writes a table of results as CSV, Excel or Parquet."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pandas as pd

from nas.errors import NasError

UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # characters that a cell of Excel cannot have


def write_table(df: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the path's suffix: .csv (also for a path without a suffix), .xlsx or .parquet.

    Parquet alone keeps the dtypes and `attrs`.

    Raises: NasError for another suffix, a file that cannot be written, or if the package that writes the format is missing.
    """
    suffix = path.suffix.lower() or ".csv"
    if suffix not in WRITERS:
        raise NasError(f"output: {path} ends in {suffix}, and tables are written as {', '.join(WRITERS)}")
    try:
        content = WRITERS[suffix](df)
    except ImportError as error:
        package = {".xlsx": "openpyxl", ".parquet": "pyarrow"}[suffix]
        raise NasError(f"output: {suffix} needs the package {package}, which cannot be imported ({error.name})") from None
    try:
        path.write_bytes(content)  # not atomically: it may be a pipe or /dev/stdout
    except BrokenPipeError:  # its reader, such as `head`, has seen enough
        pass
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror}; give another file with --output") from None


def _csv(df: pd.DataFrame) -> bytes:
    return df.to_csv(index=False).encode()


def _excel(df: pd.DataFrame) -> bytes:
    texts = df.select_dtypes(["str", "object"]).columns
    shown = df.assign(**{name: df[name].replace(UNPRINTABLE, "", regex=True) for name in texts})
    with io.BytesIO() as file:
        shown.to_excel(file, index=False)
        return file.getvalue()


def _parquet(df: pd.DataFrame) -> bytes:
    with io.BytesIO() as file:
        df.to_parquet(file, index=False)
        return file.getvalue()


WRITERS: Final[dict[str, Callable[[pd.DataFrame], bytes]]] = {".csv": _csv, ".xlsx": _excel, ".parquet": _parquet}
