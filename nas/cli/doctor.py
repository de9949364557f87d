"""`nas doctor`: what matters of this machine and this installation, for a first run or a report."""

import json
import os
import platform
import pwd
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import arg

from nas.errors import describe_error
from nas.machine import memory_limit, processor_name, usable_cores
from nas.paths import absolute, existing_part, user_folder

PACKAGES: Final = (
    *("torch", "torchvision", "timm", "ray", "optuna", "numpy", "pandas", "onnx", "onnxruntime", "opencv-python-headless"),
    *("pillow", "scikit-learn", "huggingface_hub"),
)
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Ray puts the arrays that its processes share
LEAST_SHARED: Final = 2**30  # bytes; Docker gives a container 64 MB
GIB: Final = 2**30


def doctor(*, as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Print what this machine has and where files go, on one screen; the first thing that a report of a fault needs.

    Args:
        as_json: Print it as JSON.
    """
    absolute(".")  # in a folder that is gone, torch would end the process
    parts = {"devices": _devices, "machine": _machine, "folders": _folders, "ray": _ray, "extras": _extras}
    facts = {"versions": dict(_versions())} | {title: _rows(part()) for title, part in parts.items()}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    versions = ", ".join(f"{name}\u00a0{value}" for name, value in facts.pop("versions").items())
    lines = textwrap.wrap(versions, 98, break_on_hyphens=False)
    print("\n  ".join(["versions", *lines]).replace("\u00a0", " "))
    for title, rows in facts.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:<15} {value}")


def _rows(part: Iterator[tuple[str, str]]) -> dict[str, str]:
    """The rows of a part, with the fault that ends it as the last one."""
    rows: dict[str, str] = {}
    try:
        rows |= part
    except Exception as error:  # noqa: BLE001 - of whatever a broken installation raises
        rows["fault"] = describe_error(error)
    return rows


def _versions() -> Iterator[tuple[str, str]]:
    yield "frontier-nas", import_module("nas").__version__
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, _installed(package) or "missing"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    """Each device, and the precision that `--train.precision auto` takes on it."""
    import torch

    from nas.training.device import pick_precision

    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        device = torch.device("cuda", index)
        precision = pick_precision("auto", device)
        yield f"cuda:{index}", f"{about.name}, {about.total_memory / GIB:.1f} GiB, fast at {precision}"
    if not torch.cuda.device_count():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield "cuda", f"none; {built}"
    yield "cpu", f"{processor_name()}, fast at {pick_precision('auto', torch.device('cpu'))}"


def _machine() -> Iterator[tuple[str, str]]:
    yield "system", platform.platform()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{usable_cores()} may be used; {os.cpu_count()} there, {allowed} by affinity"
    total, free = memory_limit()
    yield "memory", f"{total / GIB:.1f} GiB may be used, {free / GIB:.1f} free" if total else "unknown"
    if SHARED_MEMORY.is_dir():
        space = shutil.disk_usage(SHARED_MEMORY)
        small = "; Ray is slow with so little: docker run --shm-size 2g" if space.total < LEAST_SHARED else ""
        yield "shared memory", f"{space.total / GIB:.1f} GiB, {space.free / GIB:.1f} free{small}"
    yield "user", f"{_user()}; home {Path.home()}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"number {os.getuid()}, without a name"


def _folders() -> Iterator[tuple[str, str]]:
    """Where files go, whether they can be written, and how much room there is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {
        "runs": Path.cwd() / "runs",
        "images": user_folder("XDG_CACHE_HOME", ".cache"),
        "latency tables": user_folder("XDG_DATA_HOME", ".local/share"),
        "temporary": Path(tempfile.gettempdir()),
        "weights": Path(HF_HUB_CACHE),
    }
    for name, folder in places.items():
        yield name, _about(absolute(folder))


def _about(folder: Path) -> str:
    there = existing_part(folder)
    can = "" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else ", CANNOT BE WRITTEN"
    return f"{folder}, {shutil.disk_usage(there).free / GIB:.1f} GiB free{can}"


def _ray() -> Iterator[tuple[str, str]]:
    """Whether a Ray runs that `ray start` began; those of searches are their own."""
    from ray._private.services import find_gcs_addresses
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    is_there = address is not None and address in find_gcs_addresses()
    yield "running", f"{address}; --address {address} joins it" if is_there else "none to join; a search starts its own"
    if address := os.environ.get("RAY_ADDRESS"):
        yield "RAY_ADDRESS", f"{address}, which only --address heeds"


def _extras() -> Iterator[tuple[str, str]]:
    """Each extra of this package, and which of its packages are there."""
    try:
        needs = distribution("frontier-nas").requires or []
    except PackageNotFoundError:
        yield "extras", "unknown, as the package runs from its source"
        return
    for line in needs:
        match = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[2] not in ("dev", "docs"):
            name, extra = match[1], match[2]
            there = _installed(name)
            yield extra, f"{name} {there}" if there else f"missing; pip install 'frontier-nas[{extra}]'"
