"""A command ends as its work does, wherever its output goes: nowhere, to a full disk, to a terminal that is gone."""

import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from nas.cli.streams import Output
from tests.conftest import DATA

PROGRAM = DATA / "long_work.py"


def shell(line, folder):
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", [">/dev/full", "2>/dev/full", "<&- >&- 2>&-", "| head -1"])
def test_work_is_done_and_says_so_though_its_output_is_lost(tmp_path, place):
    answer = shell(f"{sys.executable} {PROGRAM} done {place}", tmp_path)
    assert answer.returncode == 0
    assert "Error" not in answer.stdout + answer.stderr
    assert (tmp_path / "done").read_text() == "work"  # and not what was printed


def test_a_terminal_that_goes_away_ends_no_work(tmp_path):
    """As with `nohup`, or where a connection is lost; the bar is drawn in it all the time."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, str(PROGRAM), "done"])
    assert b"work" in os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "done").read_text() == "work"


@pytest.mark.parametrize("setting", ["PYTHONIOENCODING=ascii TERM=dumb", "LC_ALL=xx_XX.UTF-8 COLUMNS=0"])
def test_any_text_is_shown_in_any_terminal(tmp_path, setting):
    answer = shell(f"{setting} {sys.executable} {PROGRAM} café", tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "mistake\n")
    assert ("work on caf\\xe9" if "ascii" in setting else "work on café") in answer.stdout


@pytest.mark.parametrize(
    ("line", "code"),
    [("space >/dev/full", 2), ("space >&-", 2), ("space | head -0", 0), ("space nowhere 2>&-", 2), ("search >/dev/full", 0)],
)
def test_only_a_command_that_only_prints_fails_where_its_output_cannot_be_written(tmp_path, line, code):
    answer = shell(f"COLUMNS=1 {sys.executable} -m nas {line}", tmp_path)
    assert answer.returncode == code
    assert answer.stderr.count("nas: the output cannot be written: ") == (line in ("space >/dev/full", "space >&-"))


def test_a_full_pipe_that_does_not_block_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data, read = bytes(range(250)) * 4_000, []
    thread = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(reader, 65536), b"")))
    with Output(writer, "w") as output:
        thread.start()
        rest = memoryview(data)
        while rest:
            rest = rest[output.write(rest) :]
        assert output.lost is None
    thread.join()
    os.close(reader)
    assert b"".join(read) == data


def test_a_help_ends_in_a_terminal_of_one_column(tmp_path):
    assert shell(f"COLUMNS=1 timeout 60 {sys.executable} -m nas table --help", tmp_path).returncode == 0


def test_a_working_folder_that_is_gone_is_one_sentence(tmp_path):
    answer = shell(f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m nas search ./mine.py", tmp_path)
    says = "nas: ./mine.py: the working folder is gone; give the whole path, or change to another folder\n"
    assert (answer.returncode, answer.stderr) == (2, says)
