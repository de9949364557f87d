"""JSON that others may have changed, read against the type it should have: logs with one record per line, and whole files."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from nas.errors import NasError

T = TypeVar("T")


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Time: TypeAlias = Annotated[str, AfterValidator(_time)]  # ISO 8601


def append_record(file: Path, record: Mapping[str, Any]) -> None:
    """Append one record to a log as a line of JSON, whole or not at all.

    Raises: NasError if the disk is full or the folder is gone.
    """
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()
    try:
        with file.open("ab") as log:
            log.write(line)
    except OSError as error:
        cut_torn_line(file)  # a full disk may have stored only a part of the line
        raise NasError(f"{file} cannot be written: {error.strerror}; the records before it are kept") from None


def read_records(file: Path, kind: TypeAdapter[T]) -> Iterator[tuple[int, T]]:
    """(line, record) for each record of a log. A torn last line is skipped: its writer was killed, or is still writing.

    Raises: NasError for a file that cannot be read, a damaged line, or a line with a field that is missing or wrong.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise NasError(f"{file} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if line and (number < len(lines) or _is_whole(line)):
            yield number, parse(kind, line, f"{file}: line {number}")


def parse(kind: TypeAdapter[T], text: bytes | str, where: str) -> T:
    """The value in a JSON text.

    Raises: NasError if the text is no JSON, or a field is missing or wrong; it begins with `where`, and names the field.
    """
    try:
        return kind.validate_json(text, strict=True)
    except NasError as error:  # of the type itself, such as a setting out of its interval
        what = str(error)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        what = f"{field}: " * bool(field) + first["msg"].removeprefix("Value error, ").partition("\n")[0]
    raise NasError(f"{where} is damaged: {what}; restore the file from a copy")


def _is_whole(line: bytes) -> bool:
    """Whether a last line without its line feed is JSON, as an editor may leave it."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def cut_torn_line(file: Path) -> None:
    """Cut a torn last line off a log, so that the next record starts a new line.

    Raises: NasError if the file cannot be read or written.
    """
    try:
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data) and _is_whole(data[whole:]):
            with file.open("ab") as log:
                log.write(b"\n")
        else:
            os.truncate(file, whole)
    except OSError as error:
        raise NasError(f"{file} cannot be used: {error.strerror}") from None
