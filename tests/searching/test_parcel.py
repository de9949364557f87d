"""What goes to workers: the user's own code goes by value from any folder, and what cannot go is named with its file."""

import subprocess
import sys
from pathlib import Path

import pytest

from nas.errors import NasError
from nas.plugins import load_module
from nas.searching.parcel import HOME, in_worker, pack

UNPACK = """
import sys
sys.path.append(sys.argv[1])
from nas.searching.unpack import unpack
print(*unpack(sys.stdin.buffer.read()).load())
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the files of a user's folder, the first one's module, while the working folder is another one."""

    def module(**sources):
        folder = tmp_path / "cfg"
        for name, source in sources.items():
            (folder / name).with_suffix(".py").parent.mkdir(parents=True, exist_ok=True)
            (folder / name).with_suffix(".py").write_text(source)
        return load_module(folder / f"{next(iter(sources))}.py")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return module


def unpacked(parcel, cwd):
    """What the unpacked object's `load` gives in another process."""
    line = [sys.executable, "-P", "-c", UNPACK, HOME]
    return subprocess.run(line, input=parcel.data, cwd=cwd, capture_output=True, check=True).stdout.decode().split()


def test_a_dataset_in_another_folder_reaches_a_worker_with_the_files_beside_it(load, tmp_path):
    mine = load(
        my_images_="import early_of_mine\nclass Mine:\n    def load(self):\n        from inner_of_mine.late import LATE\n"
        "        return early_of_mine.EARLY, LATE\nDATASET = Mine()\n",
        early_of_mine="EARLY = 1\n",
        **{"inner_of_mine/late": "import later_of_mine\nLATE = later_of_mine.LATE\n", "later_of_mine": "LATE = 2\n"},
    )
    parcel = pack({"dataset": mine.DATASET}["dataset"])
    assert parcel.files == (str(tmp_path / "cfg" / "my_images_.py"),)
    parcel.check()
    (tmp_path / "empty").mkdir()
    assert unpacked(parcel, tmp_path / "empty") == ["1", "2"]


def test_a_process_pool_of_the_users_finds_their_functions_in_a_worker(load, tmp_path):
    mine = load(
        pool_of_mine="import multiprocessing\ndef double(x): return 2 * x\nclass Mine:\n    def load(self):\n"
        "        with multiprocessing.get_context('fork').Pool(1) as pool: return pool.map(double, [1, 2])\nDATASET = Mine()\n"
    )
    assert unpacked(pack(mine.DATASET), tmp_path) == ["2", "4"]


def test_a_module_of_the_users_is_sent_even_where_another_object_holds_its_function(load):
    mine = load(held_of_mine="from functools import partial\ndef f(x): return x\nHELD = partial(f, 1)\n")
    assert pack([mine.HELD]).files == (mine.__file__,)


def test_an_object_without_code_of_the_users_needs_no_check():
    parcel = pack({"a": Path("b"), "c": len})
    assert parcel.files == ()
    parcel.check()


@pytest.mark.parametrize(
    ("source", "where", "kind"),
    [
        (
            "import threading\nclass Mine:\n    def __init__(self): self.locks = [threading.Lock()]\nDATASET = Mine()",
            "locks[0]",
            "lock",
        ),
        ("class Mine:\n    def __init__(self): self.file = open(__file__)\nDATASET = Mine()", "file", "TextIOWrapper"),
        ("class Mine:\n    def __init__(self): self.file = open(__file__, 'rb')\nDATASET = Mine()", "file", "BufferedReader"),
        ("import sqlite3\nDB = sqlite3.connect(':memory:')\nDATASET = lambda: DB", "DB", "Connection"),
        ("import threading\nDONE = threading.Event()\nDATASET = lambda: DONE", "DONE._cond._lock", "lock"),
        ("class Mine:\n    def __init__(self): self.rows = (i for i in ())\nDATASET = Mine()", "rows", "generator"),
        ("def make(handle): return lambda: handle\nDATASET = make(iter(open(__file__)))", "handle", "TextIOWrapper"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_file(load, source, where, kind):
    mine = load(unsendable=source + "\n")
    with pytest.raises(NasError) as caught:
        pack(mine.DATASET)
    assert str(caught.value).startswith(f"{mine.__file__}: {where} is a {kind}, which cannot be sent to worker processes")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_rebuilt_elsewhere_is_found_before_a_run(load):
    mine = load(fragile="class Mine:\n    def __reduce__(self): return int, ('seven',)\nTHING = Mine()\ndef f(): return THING\n")
    with pytest.raises(NasError, match=r"fragile\.py: its objects cannot be rebuilt in a worker process: ValueError: inv"):
        pack(mine.f).check()


def test_a_worker_finds_no_file_of_the_drivers_folders(tmp_path):
    own = ["/x/ray/thirdparty_files", "/x/ray/_private/workers", *sys.path]
    (tmp_path / "json.py").write_text("raise SystemError\n")
    path, sys.path[:] = list(sys.path), [str(tmp_path), str(tmp_path), *own]
    try:
        in_worker(pack)({})
        assert sys.path == own
    finally:
        sys.path[:] = path
