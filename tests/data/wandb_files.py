"""Reads what W&B's offline runs have written: files of protobuf records in the framing of LevelDB's log."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

from wandb.proto import wandb_internal_pb2

FILE_HEADER = 7  # bytes: `:W&B`, a magic number, the version
BLOCK = 32768  # bytes; no record's header spans two blocks
HEADER = struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first part, 3 middle part, 4 last part


@dataclass
class OfflineRun:
    """One file: what began the run, its rows, and what ended it."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    config: dict = field(default_factory=dict)
    rows: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    exit_code: int | None = None


def records(file: Path):
    """The records of a file in their order."""
    data, at, whole = file.read_bytes(), FILE_HEADER, b""
    while at + HEADER.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            at += left
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        whole += data[at + HEADER.size : at + HEADER.size + length]
        at += HEADER.size + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def read_runs(folder: Path) -> list[OfflineRun]:
    """The offline runs in a folder, in the order in which they began."""
    return [_read(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_ctime)]


def _read(file: Path) -> OfflineRun:
    run = OfflineRun()
    for record in records(file):
        match record.WhichOneof("record_type"):
            case "run":
                one = record.run
                run.id, run.name, run.group, run.job_type, run.project = (
                    one.run_id,
                    one.display_name,
                    one.run_group,
                    one.job_type,
                    one.project,
                )
                run.config |= {item.key: json.loads(item.value_json) for item in one.config.update}
            case "history":
                run.rows.append(_items(record.history.item))
            case "summary":
                run.summary |= _items(record.summary.update)
            case "artifact":
                run.artifacts.append(record.artifact)
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _items(items) -> dict:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
