"""Ray: its start on this machine or its connection to a cluster, and its resources."""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Final

import ray
import ray._private.node
from ray import _raylet
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray.job_config import JobConfig

from nas.errors import NasError
from nas.machine import usable_cores
from nas.runs.experiment import Experiment
from nas.searching.checkpoint_storage import is_local
from nas.searching.ray_folder import own_folder

logger = logging.getLogger(__name__)

# Ray Tune's settings: no log files of its own, as the run folder has the logs; no handler for Ctrl-C, as we have one; no warning
# about frequent checkpoints; no table of results; workers stay in the working folder; no usage statistics. Tune tells workers
# what they need. Ray Train's: looks at its processes twice a second, and starts none that waits for a machine to be taken away.
ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

OWN_RAY: Final = Lock()  # held while a Ray of ours runs, which ends with the thread that started it
LOADER: Final = "AuthenticationTokenLoader"  # which not every Ray has
PRINTS: Final = "_worker_logs_enabled"  # of Ray's worker module


@contextmanager
def ray_session(
    workers: int | None, *, address: str | None = None, verbose: bool = False, while_starting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Ray on this machine, or on the cluster at an address; `while_starting` is called while it starts.

    If this process has initialized Ray before, that Ray is used and left running; `workers` and `address` are then ignored.
    No other Ray is joined, whatever RAY_ADDRESS says.

    Raises: NasError if Ray does not start, there is no cluster at the address, or another thread runs a Ray of ours; what
    `while_starting` raises.
    """
    with _environment(ENVIRONMENT), nullcontext() if verbose else _quiet():
        if ray.is_initialized() and not OWN_RAY.locked():
            while_starting()
            yield
            return
        # Ray's processes end with the thread that started them.
        with _alone(), _own_token(address), own_folder() as folder, ThreadPoolExecutor(1) as pool:
            starting = pool.submit(_start, workers, address, folder, verbose=verbose)
            try:
                while_starting()
                starting.result()
                yield
            finally:
                wait([starting])
                ray.shutdown()


def _start(workers: int | None, address: str | None, folder: Path, *, verbose: bool) -> None:
    where: dict[str, Any] = {
        "address": "local",
        "num_cpus": workers or usable_cores(),
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "_system_config": {"prestart_worker_first_driver": False},  # Tune starts the processes of its trials
        "_temp_dir": str(folder),
    }
    if address is not None:
        where = {"address": address}
    level = logging.INFO if verbose else logging.CRITICAL
    try:
        _check_answers(address)
        with _plain_start(verbose=verbose):
            ray.init(log_to_driver=verbose, logging_level=level, job_config=_OwnPaths(), **where)
    except Exception as error:  # noqa: BLE001 - Ray raises errors of every kind
        last = (str(error).strip().splitlines() or [""])[-1]
        reason = f"{type(error).__name__}: {last}"[:500]
        if address is None:
            raise NasError(f"Ray, which runs the trials, does not start on this machine: {reason}") from None
        hint = "`ray start --head` starts one, and one that asks for a token needs RAY_AUTH_MODE=token"
        raise NasError(f"address {address!r}: no Ray cluster answers there ({reason}); {hint}") from None


class _OwnPaths(JobConfig):  # type: ignore[misc]  # Ray has no types for it
    """Keeps the driver's folders off the path of its workers, where Ray would put them first."""

    def _serialize(self) -> str:
        self._py_driver_sys_path: list[str] = []
        return str(super()._serialize())


@contextmanager
def _plain_start(*, verbose: bool) -> Iterator[None]:
    """Ray as it starts outside `uv run`, whose hook would pack the working folder, and without processes that nothing here uses.

    These are its dashboard's server, which Ray starts without a dashboard too, its autoscaler, and the collector of logs.
    """
    hook, node = "RAY_ENABLE_UV_RUN_RUNTIME_ENV", ray._private.node.Node  # noqa: SLF001 - Ray has no options for these
    unused = () if verbose else ("start_api_server", "start_monitor", "start_log_monitor")
    before = [(node, name, getattr(node, name)) for name in unused if hasattr(node, name)]
    before.append((ray_constants, hook, getattr(ray_constants, hook, None)))
    try:
        for name in unused:
            setattr(node, name, lambda self, **_: None)  # noqa: ARG005
        setattr(ray_constants, hook, False)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _alone() -> Iterator[None]:
    """One Ray of ours at a time, as a process can have no second one."""
    if not OWN_RAY.acquire(blocking=False):
        raise NasError("another thread of this process runs a search or a training; wait for its end, or use two processes")
    try:
        yield
    finally:
        OWN_RAY.release()


@contextmanager
def _own_token(address: str | None) -> Iterator[None]:
    """A token for the Ray of this machine, if the user has none: Ray would write one into the home folder, or fail."""
    if address is not None or not hasattr(_raylet, LOADER):
        yield
        return
    loader = getattr(_raylet, LOADER).instance()
    loader.reset_cache()  # it keeps what it found, even that there is none
    try:
        has_one = loader.has_token(ignore_auth_mode=True)
    except Exception:  # noqa: BLE001 - whatever it is, the start of Ray says the same
        has_one = True
    loader.reset_cache()
    try:
        with nullcontext() if has_one else _environment({"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
            yield
    finally:
        loader.reset_cache()


def _check_answers(address: str | None) -> None:
    """Raises: OSError if nothing listens at the address, where Ray would wait for minutes; ValueError if it is not HOST:PORT."""
    if address not in (None, "auto", "local"):
        host, _, port = address.rpartition("://")[2].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10):
            pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides all but Ray's critical messages and Optuna's warnings and errors; the trial log has the reason of each failure.

    Ray prints the deaths of its processes to the standard output, whatever the level; its debugger silences them as we do.
    """
    levels = {name: logging.getLogger(name).level for name in ("ray", "optuna")}
    prints = getattr(ray_worker, PRINTS, True)
    setattr(ray_worker, PRINTS, False)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    try:
        yield
    finally:
        setattr(ray_worker, PRINTS, prints)
        for logger_name, level in levels.items():
            logging.getLogger(logger_name).setLevel(level)


def resources(experiment: Experiment) -> tuple[int, float]:
    """(concurrent trials, GPUs per trial); at most as many trials as Ray has resources for.

    Raises: NasError if a trial needs more GPUs than a machine has, or Ray has no CPU core.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(node.get("GPU", 0.0) for node in nodes)
    wanted = experiment.gpus_per_trial if experiment.gpus_per_trial is not None else min(1.0, most)
    if wanted > most:
        raise NasError(
            f"gpus-per-trial: {wanted:g} is more than the {most:g} GPUs of {'a' if len(nodes) > 1 else 'this'} machine"
        )
    if len(nodes) > 1 and is_local(experiment.storage or experiment.runs):
        logger.info(
            "%d machines: trials keep their checkpoints in %s, which all of them must reach; else give --storage",
            len(nodes),
            Path(experiment.storage or experiment.runs).resolve(),
        )
    most = sum(_trials_per_node(node, wanted) for node in nodes)
    if most == 0:
        raise NasError("the Ray that runs here has no CPU core for a trial; give it one with ray.init(num_cpus=1), or end it")
    return min(experiment.workers or most, most), wanted


def _trials_per_node(node: Mapping[str, float], gpus: float) -> int:
    """The number of trials that a machine runs at a time; a trial never spans parts of two GPUs."""
    cpus = int(node.get("CPU", 0))
    if not gpus:
        return cpus
    shared = int(node.get("GPU", 0)) * int(1 / gpus + 1e-9) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(cpus, shared)
