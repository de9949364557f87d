"""What a run records of its machine, also where the machine does not say it."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import onnxruntime

import nas
from nas.runs import serialization
from nas.runs.serialization import describe_session, package_versions


def test_versions_need_no_package_of_the_modules_name(monkeypatch):
    """As where `onnxruntime-gpu` is installed, and this project is not; no module has the last one's name."""

    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(serialization, "version", missing)
    monkeypatch.setattr(serialization, "PACKAGES", ("frontier-nas", "onnxruntime", "no-such-package"))
    versions = package_versions()
    assert versions.pop("python")
    assert versions == {
        "frontier-nas": nas.__version__,
        "onnxruntime": onnxruntime.__version__,
        "no-such-package": "unknown",
    }


def test_a_folder_without_a_commit_a_path_without_git_and_a_system_without_proc(tmp_path, monkeypatch):
    def without_proc(path, **options):
        if path.is_relative_to("/proc"):
            raise PermissionError(path)
        return read_text(path, **options)

    read_text = Path.read_text

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    assert describe_session({})["git_commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "read_text", without_proc)
    session = describe_session({})
    assert session["git_commit"] is None
    assert session["machine"]["processor"]


def test_a_user_without_a_name_and_a_home_gets_a_temporary_home(tmp_path):
    """In a process of its own, since `import nas` sees to it; Ray and timm ask for the home."""
    program = """if True:
        import os, pwd
        def nobody(number): raise KeyError(number)
        pwd.getpwuid = nobody
        import nas, nas.cli.app
        from pathlib import Path
        print(Path.home())
    """
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(nas.__file__).parents[1])}
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert Path(answer.stdout.strip()).parent == tmp_path
