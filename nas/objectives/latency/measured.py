"""The list of networks to measure on another device: written with an empty column `ms`, read as any spreadsheet saves it.

`sample.py` writes the list, `fit_table.py` makes a latency table from it.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nas.errors import ArchitectureError, NasError
from nas.models.architecture import Architecture
from nas.models.cost import cost

COLUMNS: Final = ("file", "params_m", "macs_m", "ms", "classes", "architecture")
NEEDED: Final = ("file", "ms", "classes", "architecture")  # the others are to look at
SEPARATORS: Final = ",;\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A row of the list."""

    line: int
    """The row's last line in the file, from 1."""
    architecture: Architecture
    num_classes: int
    ms: float | None
    """Milliseconds for one image; None if the network was not measured."""


def file_name(network: Architecture) -> str:
    """The name of a network's ONNX file."""
    return f"{network.id}.onnx"


def list_text(networks: Iterable[Architecture], num_classes: int) -> str:
    """The list of networks as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for network in networks:
        costs = cost(network, num_classes)
        millions = f"{costs.params / 1e6:.3f}", f"{costs.macs / 1e6:.3f}"
        writer.writerow([file_name(network), *millions, "", num_classes, network.to_json()])
    return text.getvalue()


def read_list(file: Path) -> list[Listed]:
    """The rows of a list. Columns may have any order, and others may be beside them; commas, semicolons or tabs separate them.

    If commas do not separate them, a comma in a number is a decimal one.

    Raises: NasError for a file that cannot be read or is no such list, and for a wrong value; it names the line.
    """
    text = _text(file)
    separator = max(SEPARATORS, key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = [name.strip() for name in next(filter(any, reader), [])]
        if repeated := [name for name in NEEDED if columns.count(name) > 1]:
            raise NasError(f"{file}: there are two columns {repeated[0]!r}; leave one")
        if missing := [name for name in NEEDED if name not in columns]:
            needed = f"the columns {', '.join(NEEDED)}, as the list that `nas latency sample` writes"
            raise NasError(f"{file}: there is no column {missing[0]!r}; give a CSV file with {needed}")
        return list(_rows(reader, columns, file, "" if separator == "," else ","))
    except csv.Error as error:
        raise NasError(f"{file}: line {reader.line_num} is not CSV: {error}") from None


def _text(file: Path) -> str:
    """The text of a file as spreadsheets save it, in UTF-8 or UTF-16, without Excel's line `sep=`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NasError(f"{file} cannot be read: {error.strerror}") from None
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_wide else "utf-8-sig", errors="replace")  # other columns may have any encoding
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r'\A(\s*)"?sep=.?"?[,;\t]*\n', r"\1\n", text, flags=re.IGNORECASE)


def _rows(reader: Iterator[list[str]], columns: Sequence[str], file: Path, decimal_comma: str) -> Iterator[Listed]:
    for cells in reader:
        if any(map(str.strip, cells)):
            line: int = reader.line_num  # type: ignore[attr-defined]
            values = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
            yield _row({name: values.get(name, "") for name in NEEDED}, line, f"{file}: line {line}", decimal_comma)


def _row(values: Mapping[str, str], line: int, where: str, decimal_comma: str) -> Listed:
    name, architecture_text = values["file"], values["architecture"]
    if not architecture_text:
        raise NasError(f"{where}: file {name!r} has no architecture; keep only the rows of `nas latency sample`")
    try:
        architecture = Architecture.from_json(architecture_text)
    except ArchitectureError as error:
        raise NasError(f"{where}: {error}; `nas latency sample` writes that column anew") from None
    if name != file_name(architecture):
        raise NasError(f"{where}: file {name!r} is not that of the row's architecture, which is {file_name(architecture)!r}")
    if not (values["classes"].isdecimal() and int(values["classes"]) > 0):
        raise NasError(f"{where}: classes {values['classes']!r} is not a whole number of 1 or more")
    ms = _milliseconds(values["ms"], where, decimal_comma) if values["ms"] else None
    return Listed(line=line, architecture=architecture, num_classes=int(values["classes"]), ms=ms)


def _milliseconds(text: str, where: str, decimal_comma: str) -> float:
    ms = math.nan
    with suppress(ValueError):
        ms = float(text.replace(decimal_comma, ".") if decimal_comma else text)
    if not 0 < ms < math.inf:
        raise NasError(f"{where}: ms {text!r} is not a number of milliseconds above 0; leave it empty if it was not measured")
    return ms
