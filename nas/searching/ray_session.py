"""Ray: its start on this machine or its connection to a cluster, and its resources."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import worker as ray_worker

from nas.errors import NasError, describe_error
from nas.machine import usable_cores
from nas.runs.experiment import Experiment
from nas.searching.checkpoint_storage import is_local

logger = logging.getLogger(__name__)

# Ray Tune's settings: no log files of its own, as the run folder has the logs; no handler for Ctrl-C, as we have one; no warning
# about frequent checkpoints; no table of results; workers stay in the working folder. Tune tells workers what they need.
TUNE_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

PRINTS: Final = "_worker_logs_enabled"  # of Ray's worker module


@contextmanager
def ray_session(
    workers: int | None, *, address: str | None = None, verbose: bool = False, while_starting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Ray on this machine, or on the cluster at an address; `while_starting` is called while it starts.

    If this process has initialized Ray before, that Ray is used and left running; `workers` and `address` are then ignored.

    Raises: NasError if there is no cluster at the address; what `while_starting` raises.
    """
    with _environment(TUNE_ENVIRONMENT), nullcontext() if verbose else _quiet():
        if ray.is_initialized():
            while_starting()
            yield
            return
        with ThreadPoolExecutor(1) as pool:  # kept for the whole session: Ray's processes end with the thread that started them
            starting = pool.submit(_start, workers, address, verbose=verbose)
            try:
                while_starting()
                starting.result()
                yield
            finally:
                wait([starting])
                ray.shutdown()


def _start(workers: int | None, address: str | None, *, verbose: bool) -> None:
    where: dict[str, Any] = {
        "address": "local",
        "num_cpus": workers or usable_cores(),
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    where["_system_config"] = {"prestart_worker_first_driver": False}  # Tune starts the processes of its trials
    if address is not None:
        where = {"address": address}
    level = logging.INFO if verbose else logging.CRITICAL
    try:
        _check_answers(address)
        ray.init(log_to_driver=verbose, logging_level=level, **where)
    except (OSError, ValueError, RuntimeError) as error:
        if address is None:
            raise
        raise NasError(
            f"address {address!r}: no Ray cluster answers there ({describe_error(error)}); `ray start --head` starts one"
        ) from None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


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

    Raises: NasError if a trial needs more GPUs than a machine has.
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
    most = max(1, sum(_trials_per_node(node, wanted) for node in nodes))
    return min(experiment.workers or most, most), wanted


def _trials_per_node(node: Mapping[str, float], gpus: float) -> int:
    """The number of trials that a machine runs at a time; a trial never spans parts of two GPUs."""
    cpus = int(node.get("CPU", 0))
    if not gpus:
        return cpus
    shared = int(node.get("GPU", 0)) * int(1 / gpus + 1e-9) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(cpus, shared)
