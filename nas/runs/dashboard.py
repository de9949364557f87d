"""Shows a run in optuna-dashboard, also while the search runs."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nas.errors import NasError, needs_extra
from nas.runs.optuna_study import RunStudy

PAUSE: Final = 2.0  # seconds between two reads of the log; optuna-dashboard caches a study for as long


def serve(run: Path, *, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve a run's dashboard to this machine alone until Ctrl-C; `on_ready` gets the address.

    Raises: NasError if `run` is no run folder, the port is taken, or optuna-dashboard is not installed.
    """
    if not 0 < port < 65_536:
        raise NasError(f"port: {port} is not from 1 to 65535")
    with needs_extra("dashboard"):
        from optuna_dashboard import run_server
    run_study = RunStudy(run)

    def follow() -> None:
        while True:
            time.sleep(PAUSE)
            run_study.update()

    threading.Thread(target=follow, daemon=True).start()
    on_ready(f"http://127.0.0.1:{port}/")
    try:
        run_server(run_study.storage, host="127.0.0.1", port=port)
    except OSError as error:
        raise NasError(f"cannot listen on port {port}: {error.strerror}; give another with --port") from None
