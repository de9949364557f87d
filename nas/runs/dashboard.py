"""optuna-dashboard on a run, which it follows while the search runs."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nas.errors import NasError
from nas.runs.study import RunStudy

PAUSE: Final = 2.0  # seconds between two looks at the log; optuna-dashboard keeps what it has read as long


def serve(run: Path, *, port: int, on_ready: Callable[[str], None]) -> None:
    """Show a run to this machine alone until Ctrl-C; `on_ready` is called with the address.

    Raises: NasError for a folder that is no run, a port that cannot be listened on, or a missing optuna-dashboard.
    """
    if not 0 < port < 65_536:
        raise NasError(f"port: {port} is not from 1 to 65535")
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise NasError("optuna-dashboard is not installed; `pip install 'frontier-nas[dashboard]'` does it") from None
    shown = RunStudy(run)

    def follow() -> None:
        while True:
            time.sleep(PAUSE)
            shown.update()

    threading.Thread(target=follow, daemon=True).start()
    on_ready(f"http://127.0.0.1:{port}/")
    try:
        run_server(shown.storage, host="127.0.0.1", port=port)
    except OSError as error:
        raise NasError(f"port {port} cannot be listened on: {error.strerror}; give another with --port") from None
