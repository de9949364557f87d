"""What this process may use of the machine."""

import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores() -> int:
    """The number of CPU cores that this process may use: those of its affinity mask, or fewer if its control group has a quota.

    A part of a core counts as one, as for Java, Go and joblib.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(Path("/")))))


def processor_name() -> str:
    """The model of the CPU, such as `AMD EPYC`."""
    model = re.search(r"^model name\s*:\s*(.+)", _cpuinfo(), re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def has_amx_bfloat16() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 in tiles; only Linux tells."""
    flags = re.search(r"^flags\s*:\s*(.+)", _cpuinfo(), re.MULTILINE)
    return flags is not None and "amx_bf16" in flags[1].split()


def memory_limit(root: Path = Path("/")) -> tuple[int, int]:
    """(memory that this process may use, what of it is free), bytes: of the machine or its control groups; 0 if unknown."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return 0, 0
    values = {name: 1024 * int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    total, free = values["MemTotal"], values["MemAvailable"]
    for group in _groups(root, "memory"):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):  # no such file, or `max` for no limit
                most, now = (int((group / name).read_text(encoding="utf-8")) for name in names)
                total, free = min(total, most), min(free, max(0, most - now))
    return total, free


def _cpuinfo() -> str:
    """What Linux says of the CPUs; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _quota(root: Path) -> float:
    """The least CPU quota, in cores, of this process's control group and the groups around it; inf without any."""
    return min(map(_quota_of, _groups(root, "cpu")), default=math.inf)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group for a controller, and of the groups around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mount / path.lstrip("/")
        # Inside a container, the group's path may not exist, and the mount is the group.
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _quota_of(group: Path) -> float:
    """The quota of one control group, in cores: of version 2, from `cpu.max`, or of version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = map(float, " ".join((group / name).read_text(encoding="utf-8") for name in names).split())
        except (OSError, ValueError):  # no such file, or `max` for no quota
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf
