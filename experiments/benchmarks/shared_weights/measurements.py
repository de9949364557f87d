"""What the sections share: their sizes, and a journal of measurements from which a long benchmark continues."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from pydantic import TypeAdapter

from nas.datasets.imagenette import Imagenette
from nas.plugins import load_plugin
from nas.records import append_record, cut_torn_line, read_records
from nas.runs.experiment import Experiment

T = TypeVar("T")
Key: TypeAlias = Mapping[str, Any]
Figures: TypeAlias = Mapping[str, Any]

EXPERIMENTS: Final = ("digits_mobilenetv3", "imagenette_cpu")
NEEDS_ROOT: Final = "imagenette_cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured, and at which sizes."""

    experiments: Sequence[str]
    root: Path | None
    """A folder with Imagenette's train/ and val/."""
    minutes: Sequence[float]
    """Budgets of the searches at equal time."""
    seeds: Sequence[int]
    quick: bool
    """True for tiny sizes, which show that a section runs; its figures mean nothing."""

    def size(self, full: T, quick: T) -> T:
        """The first of two sizes, or the second in a quick run."""
        return quick if self.quick else full

    def key(self, section: str, experiment: str, **rest: Any) -> Key:
        """The key of a measurement; a quick one never stands for a full one."""
        return {"section": section, "experiment": experiment, **rest} | ({"quick": True} if self.quick else {})

    def experiment(self, name: str) -> Experiment:
        """An experiment, with its images in `root`."""
        experiment: Experiment = load_plugin("experiment", name)
        if not isinstance(experiment.dataset, Imagenette):
            return experiment
        assert self.root is not None, "main() checks it"
        return replace(experiment, dataset=replace(experiment.dataset, root=self.root))


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The measurements so far: those of the file, and those of this run."""

    file: Path | None
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __contains__(self, key: Key) -> bool:
        return any(line["key"] == key for line in self.lines)

    def __getitem__(self, key: Key) -> Figures:
        """The figures of a measurement. Raises: KeyError if it is not there."""
        for line in self.lines:
            if line["key"] == key:
                figures: Figures = line["figures"]
                return figures
        raise KeyError(key)

    def add(self, key: Key, figures: Figures) -> None:
        """Keep the figures of a measurement, also in the file."""
        self.lines.append({"key": dict(key), "figures": dict(figures)})
        if self.file is not None:
            append_record(self.file, self.lines[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One step of a benchmark, which is measured again only if the journal does not have it."""

    key: Key
    seconds: float
    """Estimate of its time."""
    run: Callable[[Journal], Figures]
    """Gets the journal with every measurement before it."""


def read_journal(file: Path | None) -> Journal:
    """The measurements in a file, which is made if it is missing; a line that a kill has torn is cut off.

    Raises: NasError if the file cannot be read, or has a line that is no measurement.
    """
    if file is None:
        return Journal(file=None)
    file.touch()
    cut_torn_line(file)
    kind = TypeAdapter(dict[str, dict[str, Any]])
    return Journal(file=file, lines=[line for _, line in read_records(file, kind)])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean, smallest and largest value in words, such as `1.5 (1.0 to 2.0)`."""
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
