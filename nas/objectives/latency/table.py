"""A latency table: the milliseconds of each layer on one device; their sum predicts a network's latency.

Needs neither torch nor a runtime. Read `measure.py` next.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from nas.errors import NasError, unknown_name
from nas.files import write_atomically
from nas.models.architecture import Architecture
from nas.models.layers import layer_keys, parts
from nas.paths import user_folder
from nas.records import parse

FORMAT: Final = 2  # version of the file's format
RUNTIMES: Final = ("onnxruntime", "torch")
DEVICES: Final = ("cpu", "cuda")
DTYPES: Final = ("float32", "bfloat16", "float16")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a network is run to measure its latency.

    Raises: NasError for a value that is not supported.
    """

    runtime: str = "onnxruntime"
    """onnxruntime, with batch norms folded into convolutions; or torch, timm's network as it is, channels_last."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """CPU threads."""
    batch: int = 1
    """Images per batch."""
    dtype: str = "float32"
    """float32, float16 or bfloat16; onnxruntime runs float32."""

    def __post_init__(self) -> None:
        for field, allowed in (("runtime", RUNTIMES), ("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, field) not in allowed:
                raise unknown_name(field, getattr(self, field), allowed)
        for field in ("threads", "batch"):
            if getattr(self, field) < 1:
                raise NasError(f"{field}: {getattr(self, field)} is not 1 or more")
        if self.runtime == "onnxruntime" and self.dtype != "float32":
            raise NasError(f"dtype: onnxruntime runs float32 here, not {self.dtype}; give float32, or --runtime torch")


ONE_THREAD: Final = Setup()  # onnxruntime, one image per batch: the latency that a search predicts by default


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far a table's predictions are from measured latencies; the intervals are 95 % bootstrap intervals."""

    networks: int
    mape_pct: float
    """Mean absolute percentage error of the predicted latencies."""
    mape_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]
    kendall: float
    kendall_interval: tuple[float, float]

    def __str__(self) -> str:
        """One line per figure."""
        figures = [("MAPE %", self.mape_pct, self.mape_interval), ("Spearman", self.spearman, self.spearman_interval)]
        figures.append(("Kendall", self.kendall, self.kendall_interval))
        return "\n".join(f"{name} {value:.4g}, 95 % from {low:.4g} to {high:.4g}" for name, value, (low, high) in figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Milliseconds of layers, by `Layer.key`, on one device in one runtime; a network's latency is the sum of its layers.

    Raises: ValueError for a time that is negative or not finite.
    """

    device: str
    """The device's model."""
    runtime_version: str
    """Empty if the networks were measured on another device."""
    setup: Setup | None
    """How networks were run; None if the table was fitted to whole networks that were measured on another device."""
    date: str
    """When the table was made, ISO 8601."""
    space: str
    """Name of the search space whose layers it has."""
    milliseconds: Mapping[str, float]
    check: Check | None = None
    """Its error against measured networks; None if it was not checked."""

    def __post_init__(self) -> None:
        for key, ms in self.milliseconds.items():
            if not 0 <= ms < float("inf"):
                raise ValueError(f"{key!r} takes {ms} ms")

    def predict(self, architecture: Architecture, num_classes: int) -> float:
        """The latency of a network in milliseconds per batch.

        Raises: NasError if layers are missing; the error names the first five and counts the others.
        """
        try:
            return sum(map(self.milliseconds.__getitem__, _keys(architecture, num_classes)))
        except KeyError:
            missing = self.missing(architecture, num_classes)
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise NasError(
                f"the latency table of {self.device} has no {', '.join(map(repr, missing[:5]))}{more}; it was made for space "
                f"{self.space}: build one for this space, its resolution and number of classes with `nas latency build`"
            ) from None

    def own_setup(self) -> Setup:
        """How networks are run to check the table.

        Raises: NasError if the table was fitted to networks that were measured on another device.
        """
        if self.setup is None:
            raise NasError(
                f"the latency table of {self.device} was fitted to networks measured there, so this machine cannot check "
                "it; `nas latency build --measured` checks it by cross-validation, and has written the error into it"
            )
        return self.setup

    def missing(self, architecture: Architecture, num_classes: int) -> list[str]:
        """Keys of the layers of a network that the table lacks."""
        return list(dict.fromkeys(key for key in _keys(architecture, num_classes) if key not in self.milliseconds))

    def __str__(self) -> str:
        """The device, the runtime and the error in one line, as a search prints it."""
        setup, networks = self.setup, "measured networks"
        if setup is None:
            how, networks = f"{self.device}, fitted to the latencies of whole networks", "held-out networks"
        else:
            how = f"{self.device}, {setup.runtime} {self.runtime_version}, {setup.threads} thread(s), batch {setup.batch}"
        if self.check is None:
            return f"{how}; not checked against measured networks"
        return (
            f"{how}; over {self.check.networks} {networks} MAPE {self.check.mape_pct:.1f} %, Spearman {self.check.spearman:.3f}"
        )

    def write(self, file: Path) -> None:
        """Write the table as JSON, atomically: the file never holds half a table.

        Raises: NasError if the file cannot be written.
        """
        write_atomically(file, json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    format: int


HEADER: Final = TypeAdapter(_Header)
TABLE: Final = TypeAdapter(LatencyTable)


def _keys(architecture: Architecture, num_classes: int) -> Iterator[str]:
    return chain.from_iterable(map(layer_keys, parts(architecture, num_classes)))


def table_folder() -> Path:
    """The folder of this user's tables, where searches look for them: under $XDG_DATA_HOME, or under ~/.local/share."""
    return user_folder("XDG_DATA_HOME", ".local/share") / "latency"


def table_file(words: Sequence[str], setup: Setup) -> Path:
    """The path of a table in `table_folder()`; its name joins the words, such as space and device, and the setup."""
    name = "-".join([*words, setup.runtime, setup.device, f"{setup.threads}threads", f"batch{setup.batch}", setup.dtype])
    return table_folder() / (re.sub(r"[^A-Za-z0-9_.]+", "-", name) + ".json")


def newest_table(space: str, networks: Sequence[Architecture], num_classes: int) -> Path | None:
    """This user's newest table for a space with the setup `ONE_THREAD` and every layer of at least one of the networks.

    None if there is no such table. Logs a warning for a file that cannot be read.
    """
    dates: dict[Path, str] = {}
    for file in table_folder().glob("*.json"):
        try:
            table = read_table(file)
        except NasError as error:
            logger.warning("%s", error)
            continue
        fits = table.space == space and table.setup == ONE_THREAD
        if fits and any(not table.missing(network, num_classes) for network in networks):
            dates[file] = table.date
    return max(dates, key=dates.__getitem__, default=None)


def read_table(file: str | Path) -> LatencyTable:
    """Read a table from a file.

    Raises: NasError if the file is missing or damaged, or has another format.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise NasError(f"latency table {path} does not exist; `nas latency build` makes one")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NasError(f"latency table {path} cannot be read: {error}") from None
    if path.suffix == ".csv":
        raise NasError(f"{path} is no latency table; `nas latency build SPACE --measured {path}` makes one of a list of networks")
    version = parse(HEADER, text, f"latency table {path}").format
    if version == FORMAT:
        return parse(TABLE, text, f"latency table {path}")
    raise NasError(f"latency table {path} has format {version}, and this version reads {FORMAT}; build it again")
