"""Rows that meet conditions such as `macs_m<60, status=done`: a small language of our own; nothing of it is run as code.

Read `cli.py` next.
"""

import operator
import re
from collections.abc import Callable
from typing import Any, Final

import pandas as pd

from nas.errors import NasError, unknown

COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
CONDITION: Final = re.compile(r"""\s*([A-Za-z_][\w.]*)\s*(<=|>=|!=|=|<|>)\s*(?:"([^"]*)"|([^,"<>=!]*[^,"<>=!\s]))\s*(,|$)""")


def where(df: pd.DataFrame, conditions: str) -> pd.DataFrame:
    """The rows that meet every one of the conditions: COLUMN, a comparison (< <= > >= = !=) and a value, set apart by commas.

    A text with a comma stands in double quotes. A row that has nothing in a column meets no condition on it.
    Raises: NasError for what is not a condition, a column that is not there, or a value that the column cannot be compared with.
    """
    kept, at = pd.Series(data=True, index=df.index), 0
    while at < len(conditions) or not at:
        match = CONDITION.match(conditions, at)
        if match is None:
            raise NasError(
                f"where: {conditions[at:].strip()!r} does not begin with COLUMN<VALUE, such as 'macs_m<60, status=done'; the "
                f"comparisons are {' '.join(COMPARISONS)}"
            )
        name, sign, quoted, plain, _ = match.groups()
        if name not in df.columns:
            raise unknown("column", name, df.columns)
        value = _value(df[name], sign, plain if quoted is None else quoted)
        kept &= COMPARISONS[sign](df[name], value).fillna(value=False).astype(bool) & df[name].notna()
        at = match.end()
    return df[kept]


def _value(column: "pd.Series[Any]", sign: str, text: str) -> Any:
    """What the text is, in a column.

    Raises: NasError where it is nothing there.
    """
    if pd.api.types.is_bool_dtype(column):
        if sign in ("=", "!=") and text in ("true", "false"):
            return text == "true"
        raise NasError(f"where: {column.name} is true or false; give {column.name}=true or {column.name}=false, not {sign}{text}")
    if pd.api.types.is_numeric_dtype(column):
        try:
            return float(text)
        except ValueError:
            raise NasError(f"where: {column.name} is a number, and {text!r} is none") from None
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        try:
            return pd.Timestamp(text, tz="UTC")
        except ValueError:
            raise NasError(f"where: {column.name} is a time (UTC), and {text!r} is none; give such as 2026-01-31T12:00") from None
    if sign not in ("=", "!="):
        raise NasError(f"where: {column.name} is a text; compare it with = or !=, not {sign}")
    return text
