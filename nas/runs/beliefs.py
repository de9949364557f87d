"""What a run's surrogate believes of the top-1 of its networks: the file `beliefs.json`, which the search writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import TypeAdapter

from nas.files import write_atomically
from nas.records import parse

BELIEFS_FILE: Final = "beliefs.json"


class Belief(NamedTuple):
    """A network's top-1 on the search validation part as a normal distribution, percent."""

    mean: float
    deviation: float
    """Its standard deviation, without the noise of a training."""


RECORD: Final = TypeAdapter(dict[str, Belief])


def write_beliefs(run: Path, beliefs: Mapping[str, Belief]) -> None:
    """Write the beliefs, network id → its top-1, atomically.

    Raises: NasError if they cannot be written.
    """
    write_atomically(run / BELIEFS_FILE, json.dumps(beliefs) + "\n")


def read_beliefs(run: Path) -> dict[str, Belief]:
    """A run's beliefs, network id → its top-1; empty if it has none.

    Raises: NasError for a damaged file.
    """
    file = run / BELIEFS_FILE
    return parse(RECORD, file.read_bytes(), str(file)) if file.is_file() else {}
