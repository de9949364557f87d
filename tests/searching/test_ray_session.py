"""Ray's start on this machine: where its files are, what runs, and what its errors say."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas.errors import NasError
from nas.searching.ray_folder import MAX_BYTES, PREFIX, own_folder
from nas.searching.ray_session import OWN_RAY, ray_session

PROGRAM = """
import os, subprocess, sys
import ray
from nas.searching.ray_session import ray_session
sys.path.insert(0, os.getcwd())
with ray_session(None):
    running = subprocess.run(["ps", "-ww", "-o", "args", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    print([name for name in ("dashboard.py", "monitor.py", "log_monitor.py", "gcs_server") if f"/{name} " in running])
    print(int(ray.cluster_resources()["CPU"]))
    print(os.getcwd() in ray.get(ray.remote(lambda: __import__("sys").path).remote()))
    where = ray._private.worker._global_node.get_temp_dir_path()
print(len(where) <= 40, os.path.exists(where))
"""


def test_a_long_tmpdir_no_home_one_core_and_uv_run_change_nothing_and_nothing_is_left(tmp_path):
    place = tmp_path / ("long" * 25)
    place.mkdir()
    (tmp_path / "json.py").write_text("raise SystemError('the working folder is on the path')")
    environment = os.environ | {"TMPDIR": str(place), "RAY_ADDRESS": "127.0.0.1:1", "HOME": "/dev/null"}
    (tmp_path / "uv").symlink_to("/bin/sh")  # `uv run` as Ray knows it: by an ancestor of this name and its first argument
    (tmp_path / "run").write_text('"$@"; exit $?')
    line = [tmp_path / "uv", "run", "taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-P", "-c", PROGRAM]
    answer = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.splitlines() == ["['gcs_server']", "1", "False", "True False"], answer.stdout + answer.stderr
    assert list(place.iterdir()) == []


def test_a_second_search_of_a_process_at_the_same_time_is_refused():
    with OWN_RAY, pytest.raises(NasError, match="another thread of this process runs a search"), ray_session(None):
        pass


def test_python_without_docstrings_is_refused_before_ray_fails_without_them():
    answer = subprocess.run([sys.executable, "-OO", "-c", "import nas.searching"], capture_output=True, text=True, check=False)
    assert "nas.errors.NasError: Python runs with -OO" in answer.stderr


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_stays(tmp_path, monkeypatch):
    place = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    (place / f"{PREFIX}dead").mkdir()
    (place / f"{PREFIX}dead" / "lock").touch()
    with own_folder() as first:
        assert sorted(place.iterdir()) == [first]
        with own_folder() as second:
            assert set(place.iterdir()) == {first, second}
            assert len(str(second)) <= MAX_BYTES
    assert list(place.iterdir()) == []
    place.rmdir()


def test_without_a_temporary_folder_the_error_names_tmpdir(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NasError, match="TMPDIR"), own_folder():
        pass
