"""Logs a session of a search to the experiment's trackers, from its settings to its front and its page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from nas.errors import NasError
from nas.runs.run_folder import read_experiment
from nas.searching.plan import Session

FACTS: Final = ("trials", "sampler", "seed", "tune", "shared_weights", "seeds_per_network", "latency_table")


@contextmanager
def tracked(session: Session) -> Iterator[None]:
    """Logs the search that runs in the block, however it ends."""
    run, trackers = session.run, session.trackers
    if not trackers:
        yield
        return
    trackers.open(run, facts_of(read_experiment(run)), name=run.name, folder=run)
    status = "failed"
    try:
        yield
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        with TemporaryDirectory(prefix="nas-front-") as folder:
            values, files = _end_of(run, Path(folder))
            trackers.end(None, status, values, files=files)
            trackers.close()


def facts_of(described: dict[str, Any]) -> dict[str, Any]:
    """The settings of a search by name, of its experiment.json."""
    own = {name: described[name] for name in ("space", "dataset")}
    return {
        **{kind: record["name"] for kind, record in own.items()},
        **{f"{kind}.{name}": value for kind, record in own.items() for name, value in record["fields"].items()},
        "objectives": ", ".join(one["name"] for one in described["objectives"]),
        "limits": ", ".join(f"{one['low']} <= {one['objective']['name']} <= {one['high']}" for one in described["limits"]),
        **{name: described[name] for name in FACTS if described[name] not in (None, [])},
        **{f"train.{name}": value for name, value in described["train"].items()},
    }


def _end_of(run: Path, folder: Path) -> tuple[dict[str, float], list[Path]]:
    """The counts of a run's trials and the size of its front; its front and its page as files. None of a damaged run."""
    from nas.runs.front import front  # pandas and scikit-learn, which a search needs only here
    from nas.runs.report import write_report
    from nas.runs.results import results

    try:
        df = results(run)
        on_front = front(df)
        file = folder / "front.csv"
        on_front.drop(columns="architecture").dropna(axis="columns", how="all").to_csv(file, index=False)
        page = write_report(run, folder / "report.html")
    except (NasError, OSError, json.JSONDecodeError):
        return {}, []
    counts = {f"trials_{name}": int(number) for name, number in df["status"].value_counts().items()}
    best = {
        f"best_{name}": float(on_front[name].agg("max" if way == "maximize" else "min"))
        for name, way in df.attrs["directions"].items()
    }
    return {**counts, "front": len(on_front), **(best if len(on_front) else {})}, [file, page]
