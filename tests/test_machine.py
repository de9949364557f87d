"""The cores that a process may use."""

import math
import os

import pytest
import torch

from nas.machine import _quota, has_amx_bfloat16, memory_limit, processor_name, usable_cores


def test_an_affinity_mask_leaves_fewer_cores():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
        ("0::/", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/of/the/host", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/a\n2:cpuset:/",
            {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            "1:cpu:/",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        ("1:name=systemd:/", {}, math.inf),
    ],
)
def test_the_least_quota_of_the_control_groups_counts(tmp_path, groups, files, cores):
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert _quota(tmp_path) == cores


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert _quota(tmp_path) == math.inf
    assert memory_limit(tmp_path) == (0, 0)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a", {"a/memory.max": "max", "a/memory.current": "9"}, (8192, 6144)),
        ("0::/a/b", {"a/memory.max": "4096", "a/memory.current": "1024", "a/b/memory.max": "max"}, (4096, 3072)),
        (
            "5:memory:/job",
            {"memory/job/memory.limit_in_bytes": "2048", "memory/job/memory.usage_in_bytes": "3000"},
            (2048, 0),
        ),
    ],
)
def test_the_least_memory_of_the_control_groups_counts(tmp_path, groups, files, limit):
    meminfo = "MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable: 6 kB"
    limits = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": groups, "proc/meminfo": meminfo, **limits}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert memory_limit(tmp_path) == limit


def test_the_processor_has_a_name_on_one_line():
    assert processor_name().strip()
    assert "\n" not in processor_name()
    assert has_amx_bfloat16() == torch.cpu._is_amx_tile_supported()
