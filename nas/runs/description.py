"""The fields of experiment.json and their types, which every reader can rely on. `serialization.py` writes them."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, TypeAdapter

from nas.datasets.images.fingerprint import Fingerprint
from nas.records import Time
from nas.training.settings import TrainSettings

Bound: TypeAlias = float | Literal["inf", "-inf"]  # JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    schema: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    """A class or a function, and how to find it again."""

    module: str
    kind: Annotated[str, Field(alias="class")]
    file: str | None
    fields: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Space(_Code):
    name: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset(_Code):
    name: str
    fields: dict[str, Any]
    classes: Annotated[list[str], Field(min_length=1)]
    mean: list[float]
    std: list[float]
    fingerprint: Fingerprint | None
    """None if the run trained nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    name: str
    title: str
    direction: Literal["minimize", "maximize"]
    needs_training: bool
    measure: _Code
    steers: bool
    needs_images: bool
    learning_curve: bool
    needs_architecture: bool
    needs_latency: bool
    has_table_error: bool
    bounds: tuple[Bound, Bound] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    objective: _Objective
    low: Bound
    high: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    platform: str
    processor: str
    cpus: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    started: Time
    changed: dict[str, Any]
    versions: dict[str, str | None]
    git_commit: str | None
    machine: _Machine


def _whole(train: Any) -> Any:
    """The settings as they are; a search wrote all of them, so a missing one is no default."""
    missing = [field.name for field in fields(TrainSettings) if isinstance(train, dict) and field.name not in train]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    return train


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """An experiment with its sessions. The fields without a note are those of `Experiment`."""

    name: str
    """The first part of the run folder's name."""
    space: _Space
    dataset: _Dataset
    objectives: Annotated[list[_Objective], Field(min_length=1)]
    limits: list[_Limit]
    train: Annotated[TrainSettings, BeforeValidator(_whole)]
    teachers: dict[str, str]
    """Teacher as the settings name it → its network and a digest of its weights."""
    tune: list[str]
    sampler: str
    latency: str | None
    trials: PositiveInt | Literal["auto"]
    min_gain: str
    seeds_per_network: PositiveInt | Literal["auto"]
    shared_weights: str
    shared_epochs: PositiveInt | None
    shared_trials: PositiveInt
    fine_tune: NonNegativeInt
    alone: NonNegativeInt
    start: list[str]
    reuse: list[str]
    baselines: list[str]
    early_stopping: bool | None
    trial_timeout: Bound
    keep_all: bool
    workers: PositiveInt | None
    gpus_per_trial: float | None
    address: str | None
    storage: str | None
    seed: int
    log: list[str]
    latency_table: str | None
    """The device and the error of the latency table, in one line."""
    latency_error_pct: float | None
    """Mean absolute percentage error of the latency table."""
    sessions: Annotated[list[_Session], Field(min_length=1)]
    over: bool = False
    """Whether a search with --trials auto has found that no further network is worth its trial."""
    finished: bool = False
    """Whether the last session left nothing to do."""


HEADER: Final = TypeAdapter(_Header)
DESCRIPTION: Final = TypeAdapter(_Description)
