"""`nas doctor` says what this machine has, and names what does not work."""

import json
import os
import platform
import sys

import pytest
import torch

from nas.machine import memory_limit, usable_cores

pytestmark = pytest.mark.slow


def test_it_is_one_screen_with_versions_devices_folders_and_extras(tmp_path, typed):
    printed = typed("doctor", cwd=tmp_path)
    assert len(printed.splitlines()) < 40
    assert max(map(len, printed.splitlines())) < 160
    facts = json.loads(typed("doctor", "--json", cwd=tmp_path))
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["machine"]["cores"].startswith(f"{usable_cores()} may be used")
    assert "float" in facts["devices"]["cpu"]
    assert facts["folders"]["runs"].startswith(f"{tmp_path}/runs, ")
    assert facts["extras"]["mlflow"].startswith("mlflow-skinny ")
    assert all(value in printed for section in ("versions", "extras") for value in facts[section].values())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, typed, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    folders = json.loads(typed("doctor", "--json", cwd=tmp_path))["folders"]
    assert folders["images"].endswith("CANNOT BE WRITTEN")
    assert not folders["runs"].endswith("CANNOT BE WRITTEN")


def test_a_package_that_is_damaged_costs_a_row_and_no_more(tmp_path, typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    facts = json.loads(typed("doctor", "--json", cwd=tmp_path))
    assert facts["folders"]["fault"].startswith("ModuleNotFoundError: import of huggingface_hub.constants halted")
    assert facts["machine"]["cores"]


def test_the_memory_is_that_of_the_machine_or_less():
    total, free = memory_limit()
    assert 0 < free <= total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
