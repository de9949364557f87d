"""A folder is written whole or not at all, by one process at a time, and never over what must not be replaced."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from nas.errors import NasError
from nas.files import atomic_folder, is_locked, locked, write_atomically
from tests.conftest import full_disk


def only_mine(target):
    if target.exists() and not (target / "mine").exists():
        raise NasError(f"{target} is somebody else's")


def write(target, text="new"):
    with atomic_folder(target, only_mine) as folder:
        (folder / "mine").write_text(text)


def broken(target):
    with atomic_folder(target, only_mine) as folder:
        (folder / "mine").write_text(str(1 / 0))


def test_a_new_one_takes_the_place_of_an_earlier_one_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "net", "old")
    write(tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net" / "mine").read_text() == "new"


def test_an_error_leaves_the_earlier_one(tmp_path):
    write(tmp_path / "net", "old")
    with pytest.raises(ZeroDivisionError):
        broken(tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net" / "mine").read_text() == "old"


def test_a_folder_that_appears_while_it_is_written_is_not_replaced(tmp_path):
    def appear():
        with atomic_folder(tmp_path / "net", only_mine) as folder:
            (folder / "mine").touch()
            (tmp_path / "net").mkdir()
            (tmp_path / "net" / "notes").touch()

    with pytest.raises(NasError, match="is somebody else's"):
        appear()
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["notes"]


def test_an_earlier_one_that_a_kill_left_aside_comes_back(tmp_path):
    """As after a kill between the two renames."""
    write(tmp_path / "net", "old")
    (tmp_path / "net").rename(tmp_path / ".net.old")
    with pytest.raises(ZeroDivisionError):
        broken(tmp_path / "net")
    assert (tmp_path / "net" / "mine").read_text() == "old"


def hold(target):
    with atomic_folder(target, only_mine) as folder:
        (folder / "mine").touch()
        time.sleep(60)


def test_one_process_at_a_time_and_a_killed_one_is_no_hindrance(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "net",))
    process.start()
    deadline = time.monotonic() + 600
    while not (tmp_path / ".net.partial" / "mine").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(NasError, match="is being written by another process"):
        write(tmp_path / "net")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    write(tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NasError, match=r"net cannot be written: .*; run the same command again once it can, or give"):
        write(tmp_path / "file" / "net")
    with pytest.raises(NasError, match=r"/proc/sys/my_net cannot be written: .*, or give another folder"):
        write(Path("/proc/sys/my_net"))


def test_a_file_whose_folder_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(NasError, match=r"taken/a\.json cannot be written: (File exists|Not a directory)"):
        write_atomically(tmp_path / "taken" / "a.json", "text")


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path):
    write_atomically(tmp_path / "file", b"before")
    with (
        full_disk(1000),
        pytest.raises(NasError, match="cannot be written: File too large; what was there before is kept"),
    ):
        write_atomically(tmp_path / "file", bytes(5000))
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_seen_and_refused_with_the_sentence_given(tmp_path):
    file = tmp_path / "lock"
    assert not is_locked(file)
    with locked(file, busy="mine"):
        assert is_locked(file)
        with pytest.raises(NasError, match=r"^mine$"), locked(file, busy="mine"):
            pass
    assert not is_locked(file)


def test_one_of_another_user_or_what_else_has_its_name_can_be_locked_too(tmp_path):
    """A folder stands for a file that can only be read."""
    mine = partial(locked, tmp_path, busy="mine", courtesy=True)
    with mine(), pytest.raises(NasError, match=r"^mine$"), mine():
        pass


def test_a_lock_of_courtesy_fails_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "file" / "lock", tmp_path / "loop"):
        with locked(place, busy="", courtesy=True):
            assert f"{place} cannot be locked" in caplog.text
        with pytest.raises(NasError, match="cannot be written"), locked(place, busy=""):
            pass


@pytest.mark.parametrize("lacks", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_and_fsync_takes_everything(tmp_path, monkeypatch, caplog, lacks):
    def refuse(*arguments):
        raise OSError(lacks, os.strerror(lacks))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    write(tmp_path / "net", "old")
    write(tmp_path / "net")
    assert (tmp_path / "net" / "mine").read_text() == "new"
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert not is_locked(tmp_path / "file")
    assert "net.lock cannot be locked" in caplog.text


def test_a_folder_of_a_containers_image_is_replaced(tmp_path, monkeypatch):
    """Such a folder cannot be renamed."""
    rename = os.rename

    def refuse(source, target, **options):
        if Path(source).name == "net":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **options)

    write(tmp_path / "net", "old")
    monkeypatch.setattr(os, "rename", refuse)
    write(tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net" / "mine").read_text() == "new"
