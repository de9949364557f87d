"""Searches with Ray, as users have them: files of their own, failures, kills, hangs, lost machines, interrupts, other folders."""

import json
import os
import pty
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from safetensors.torch import load_file

import nas
from nas.models.layers import layers
from nas.objectives.latency.build_table import reachable
from nas.objectives.latency.table import LatencyTable, Setup, read_table, table_folder
from nas.plugins import load_plugin
from nas.runs.run_folder import is_running, read_experiment
from nas.searching.checkpoint_storage import WEIGHTS_FILE
from nas.searching.evaluate import evaluate
from nas.searching.task import Task
from tests.conftest import DATA, fresh_logging, type_command
from tests.data.shades import Shades

pytestmark = pytest.mark.slow
WIDTHS = DATA / "widths.py"


def only_run(folder):
    (run,) = (folder / "runs").iterdir()
    return run


def trials_of(run):
    """The rows of a run without proposals that were skipped, such as a width drawn twice."""
    return nas.results(run).dropna(subset="trial").reset_index(drop=True)


def epochs_told(folder):
    """The lines of the history of the one run in a folder."""
    told = list(folder.glob("runs/*/history.jsonl"))
    return told[0].read_text().splitlines() if told else []


def begun(folder, *arguments, epochs):
    """A search in a process and a Ray of its own, once it has told of so many epochs."""
    line = [sys.executable, "-m", "nas", *map(str, arguments)]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while len(epochs_told(folder)) < epochs:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


@pytest.fixture(scope="module")
def searched(tmp_path_factory, running_ray):
    """One search over all nine networks, some of which fail: the folder, its run, and what it printed."""
    folder = tmp_path_factory.mktemp("nine")
    answer = type_command("search", DATA / "nine.py", "--dataset.num-images", 48, "--workers", 1, cwd=folder)
    assert answer.code == 0, answer.printed + answer.errors
    assert not (folder / "test_was_read").exists()  # a search never reads the test part
    return folder, only_run(folder), answer.printed


def test_a_search_over_files_of_ones_own_ends_with_every_trial_a_row(searched):
    _, run, _ = searched
    df = trials_of(run)
    assert len(df) == 9
    assert df["id"].is_unique
    rows = df.set_index(["params.kernel", "params.width"])
    assert rows.loc[(7, 8), ["status", "reason", "retries"]].tolist() == ["failed", "crash", 1]  # the worker was killed, twice
    assert rows.loc[(7, 8), "error"].startswith("the worker process died (killed from outside, ")
    assert rows.loc[(7, 16), ["status", "reason", "error"]].tolist() == ["failed", "oom", "MemoryError: no room"]
    assert rows.loc[(7, 24), ["status", "reason"]].tolist() == ["failed", "diverged"]
    done = df[df["status"] == "done"]
    assert len(done) == 6
    assert done[["val_top1_pct", "confidence_nat", "kernel_px", "seconds"]].notna().all(axis=None)
    assert (done["epochs"] == 2).all()
    assert done["device"].nunique() == 1
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert sorted((line["trial"], line["epoch"]) for line in lines) == [(trial, epoch) for trial in range(9) for epoch in (1, 2)]
    assert sorted(int(path.stem) for path in (run / "checkpoints").iterdir()) == sorted(done["trial"][done["is_front"]])


def test_a_search_says_what_it_did(searched):
    _, run, printed = searched
    assert str(run) in printed
    assert "6 done, 3 failed" in printed
    assert "MemoryError: no room" in printed
    assert f"nas table runs/{run.name} --front" in printed
    assert "Traceback" not in printed


def test_the_table_of_a_run(searched, typed):
    folder, run, _ = searched
    table = typed("table", run, cwd=folder).splitlines()
    assert len(table) == 11  # a header, nine trials, the counts
    assert table[-1].startswith("6 done, 0 stopped, 3 failed, 0 running")
    assert len(typed("table", run, "--front", cwd=folder).splitlines()) == 2 + len(nas.front(nas.results(run)))


def test_in_a_ray_that_runs_already_relative_paths_are_those_of_the_driver(running_ray, tmp_path, monkeypatch):
    """As in a notebook: Ray's own processes work in the folder where it was started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "ready").touch()
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), dataset=Shades(root="images"))
    settings = nas.TrainSettings(epochs=1, batch_size=16)
    limit = nas.Limit(objective=nas.objective("macs_m"), high=0.8)
    run = nas.search(replace(experiment, train=settings, trials=1, runs="made", limits=(limit,)))
    (row,) = nas.results(run).query("status == 'done'").itertuples()
    assert row.macs_m <= 0.8
    assert run.parent == tmp_path / "made"
    assert ray.is_initialized()
    assert "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ  # what it set is as it was


def test_a_search_whose_driver_is_killed_goes_on_to_the_same_end(running_ray, tmp_path):
    """Finished trials stay, those under way go on from their checkpoints to the very same bits, and Ray's state is not needed.

    The checkpoints are kept at a place that is no folder of this machine to the program: they are sent there and fetched.
    """
    epochs, place = 25, tmp_path / "place"
    options = ["search", WIDTHS, "--train.epochs", epochs, "--keep-all", "--workers", 1, "--trials", 2]
    folder = tmp_path / "killed"
    for made in (place, folder):
        made.mkdir()
    process = begun(folder, *options, "--storage", f"dir::file://{place}", epochs=epochs + 8)
    run = only_run(folder)
    refused = type_command("resume", run, "--trials", 9, cwd=folder)
    assert (refused.code, "another process is searching" in refused.errors) == (2, True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not is_running(run)
    before = trials_of(run)
    assert list(before["status"]) == ["done", "interrupted"]
    assert [path.name for path in place.rglob("*") if path.is_file()] == ["last.pt"]
    shutil.rmtree(run / "ray")

    resumed = type_command("resume", run, cwd=folder)
    assert resumed.code == 0, resumed.printed + resumed.errors
    assert "1 trials have ended, 1 continue" in resumed.printed
    after = trials_of(run)
    assert list(after["status"]) == ["done", "done"]
    columns = ["trial", "id", "fingerprint", "seconds", "val_top1_pct"]
    assert after[columns].iloc[0].equals(before[columns].iloc[0])
    experiment = load_plugin("experiment", str(WIDTHS))
    settings = replace(experiment.train, epochs=epochs)
    task = Task(dataset=experiment.dataset, objectives=experiment.objectives[:1], settings=settings, seed=experiment.seed)
    undisturbed = evaluate(after["architecture"][1], task, folder=tmp_path / "whole")
    assert after["fingerprint"][1] == undisturbed.fingerprint
    ours, theirs = load_file(run / "checkpoints" / "1.safetensors"), load_file(tmp_path / "whole" / WEIGHTS_FILE)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    told = sorted((line["trial"], line["epoch"]) for line in lines)
    assert told == [(trial, epoch) for trial in range(2) for epoch in range(1, epochs + 1)]
    assert not [path for path in place.rglob("*") if path.is_file()]


def test_a_finished_run_is_extended_with_changes_that_are_recorded(running_ray, tmp_path):
    """Of objectives that train nothing."""
    options = ["--objectives", "params_m", "macs_m", "--sampler", "random", "--trials", 4, "--workers", 1]
    assert type_command("search", WIDTHS, *options, cwd=tmp_path).code == 0
    run = only_run(tmp_path)
    finished = type_command("resume", run, cwd=tmp_path)
    assert (finished.code, "is finished: 4 of 4 trials have ended" in finished.errors) == (2, True)
    limit = nas.results(run)["macs_m"].median()
    changes = ["--trials", 5, "--sampler", "nsga2", "--limit", f"macs_m<{limit}"]
    longer = type_command("resume", run, *changes, cwd=tmp_path)
    assert longer.code == 0, longer.printed + longer.errors
    changed = read_experiment(run)["sessions"][1]["changed"]
    assert (changed["trials"], changed["sampler"]) == ([4, 5], ["random", "nsga2"])
    assert changed["limits"][1][0]["high"] == limit
    df = nas.results(run)
    assert (df["status"] == "done").sum() == 5
    assert df["macs_m"][df["is_front"]].max() <= limit  # earlier networks beyond the limit are no longer on the front


def check_interrupted(folder, code, printed, errors, *, trial=0, signum=signal.SIGINT):
    """What an interrupted search says and leaves: its last trial, which `resume` continues."""
    assert code == 128 + signum, printed + errors
    assert errors.strip().splitlines()[-1].startswith("nas: interrupted")
    assert "Traceback" not in printed + errors
    run = only_run(folder)
    assert f"nas resume {run}" in printed
    row = trials_of(run).iloc[-1]
    assert (row["trial"], row["status"]) == (trial, "interrupted")
    assert row["epochs"] >= 1
    assert [str(path.relative_to(run)) for path in run.rglob("last.pt")] == [f"checkpoints/trial{trial}/last.pt"]


LONG = ["search", WIDTHS, "--train.epochs", 5_000, "--trials", 1]


def test_ctrl_c_lets_epochs_end_and_leaves_trials_that_can_be_continued(tmp_path):
    """As a terminal sends it, to every process of the group, Ray's too."""
    process = begun(tmp_path, *LONG, epochs=4)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=600)
    check_interrupted(tmp_path, process.returncode, printed, errors)


@contextmanager
def signals(folder, *told, epochs):
    """While it lasts, this process gets signals once a search in a folder has told of so many epochs, a second apart."""

    def send():
        while len(epochs_told(folder)) < epochs:
            time.sleep(0.05)
        for signum in told:
            os.kill(os.getpid(), signum)
            time.sleep(1)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


def test_sigterm_stops_a_search_at_once_and_gives_its_core_back(running_ray, tmp_path):
    before = ray.available_resources()["CPU"]
    with signals(tmp_path, signal.SIGTERM, epochs=4):
        answer = type_command(*LONG, cwd=tmp_path)
    check_interrupted(tmp_path, answer.code, answer.printed, answer.errors, signum=signal.SIGTERM)
    deadline = time.monotonic() + 5
    while ray.available_resources().get("CPU", 0) < before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_trial_that_hangs_is_ended_by_its_timeout_or_ctrl_c_twice_and_the_others_go_on(spoiled_ray, tmp_path):
    """Whether its process is stopped, as the first trial's, or in a call of C's that lets no other thread of Python's run."""
    options = ["--trials", 3, "--workers", 1, "--trial-timeout", 6, "--seed", 1]
    with signals(tmp_path, signal.SIGINT, signal.SIGINT, epochs=6):
        answer = type_command("search", DATA / "hanging.py", *options, cwd=tmp_path)
    assert "stopping when the running epochs have ended" in answer.printed
    check_interrupted(tmp_path, answer.code, answer.printed, answer.errors, trial=2)
    rows = trials_of(only_run(tmp_path)).set_index("trial")
    assert rows.loc[0, ["status", "reason", "error"]].tolist() == ["failed", "timeout", "not done after 6 s"]
    assert rows["status"].tolist() == ["failed", "done", "interrupted"]


def test_a_disk_that_is_full_ends_the_search_and_its_trials_are_tried_again(running_ray, tmp_path):
    full = type_command("search", DATA / "full_disk.py", "--trials", 2, "--workers", 1, cwd=tmp_path)
    assert full.code == 2, full.printed + full.errors
    run = only_run(tmp_path)
    assert full.errors.startswith("nas: trial 0: OSError: [Errno 28] No space left on device")
    assert full.errors.endswith(f"; make room on the disk, then `nas resume {run}` continues the search\n")
    assert trials_of(run)["status"].tolist() == ["interrupted"]
    (tmp_path / "room").touch()
    again = type_command("resume", run, cwd=tmp_path)
    assert again.code == 0, again.printed + again.errors
    assert trials_of(run)["status"].tolist() == ["done", "done"]


def children(pid):
    """The processes below a process: id → command line."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    found = {}
    for child, parent, command in (line.split(None, 2) for line in listed.splitlines()):
        if int(parent) == pid:
            found |= {int(child): command} | children(int(child))
    return found


def test_a_search_whose_ray_is_killed_says_how_to_go_on_and_leaves_nothing_running(tmp_path):
    process = begun(tmp_path, *LONG, epochs=4)
    below = children(process.pid)
    os.kill(next(pid for pid, command in below.items() if "/raylet/raylet " in command), signal.SIGKILL)
    printed, errors = process.communicate(timeout=600)
    run = only_run(tmp_path)
    assert process.returncode == 2
    assert errors.startswith("nas: Ray's process raylet has ended: ")
    assert errors.endswith(f"`nas resume {run}` continues the search\n")
    assert (printed + errors).count("\n") == 2  # the run folder, and that sentence
    assert trials_of(run)["status"].tolist() == ["interrupted"]
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_memory_is_handed_back_between_many_trials_of_one_process(running_ray, tmp_path):
    answer = type_command("search", DATA / "memory.py", "--train.epochs", 1, cwd=tmp_path)
    assert answer.code == 0, answer.printed + answer.errors
    lines = [line.split() for line in (tmp_path / "rss").read_text().splitlines()]
    worker = lines[-1][0]
    megabytes = [float(rss) for pid, rss in lines if pid == worker]
    assert len(megabytes) == 40  # one process loads two parts twenty times
    assert statistics.median(megabytes[-10:]) < 1.5 * megabytes[2]  # 1.3, as torch keeps what it has compiled; else 1.9


def test_gpus_are_shared_by_whole_trials_and_never_by_more(tmp_path):
    """A pretend GPU in halves: two trials at a time, though there are three CPUs; one thread each."""
    answer = subprocess.run(
        [sys.executable, DATA / "gpu_shares.py"], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert answer.returncode == 0, answer.stderr
    places = [line.split() for line in (tmp_path / "places").read_text().splitlines()]
    assert len(places) == 3
    assert {(gpu, threads) for gpu, *_, threads in places} == {("0", "1")}
    together = [sum(float(start) <= float(moment) < float(end) for _, _, start, end, _ in places) for _, _, moment, *_ in places]
    assert max(together) == 2


def test_a_cluster_that_loses_a_machine_ends_with_every_trial_a_row(tmp_path):
    answer = subprocess.run(
        [sys.executable, DATA / "lost_machine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert "2 machines: trials keep their checkpoints in" in answer.stdout
    trials = trials_of(only_run(tmp_path))
    assert list(trials["status"]) == ["done"] * 2
    assert trials["retries"].fillna(0).sum() >= 1
    assert trials["epochs"].nunique() == 1


def test_a_search_in_a_terminal_shows_what_it_does(running_ray, tmp_path, monkeypatch):
    """A pseudo-terminal: counts, best values, hypervolume and time left stay in place, and lines pass above them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    printed = bytearray()

    def read():
        while (part := os.read(ours, 65536)) != b"\x04":  # what ends it
            printed.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    from nas.cli.output import log_to_stdout
    from nas.cli.progress import shown_search

    with os.fdopen(theirs, "w") as terminal, redirect_stdout(terminal), fresh_logging():
        log_to_stdout()
        experiment = replace(load_plugin("experiment", str(WIDTHS)), trials=3, workers=1)
        experiment = replace(experiment, objectives=tuple(map(nas.objective, ("params_m", "macs_m"))))  # trains nothing
        nas.search(experiment, watch=shown_search)
        terminal.flush()
        time.sleep(0.2)
        terminal.write("\x04")
    reader.join(timeout=60)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.decode())
    assert re.search(r"3 done · 0 running · 0 stopped early · 0 failed", text)
    assert re.search(r"best params_m [\d.]+, macs_m [\d.]+; front \d+, hypervolume [01]\.\d{3}", text)
    assert re.search(r"\d+/3 +\d:\d\d:\d\d left", text)
    assert "Traceback" not in text


def test_a_search_that_trains_nothing_reads_no_images(running_ray, tmp_path, typed):
    """MNIST is not here, and nobody asks for it."""
    options = ["--dataset", "mnist", "--objectives", "params_m", "macs_m", "--trials", 2, "--workers", 1]
    assert "2 done, 0 failed" in typed("search", "digits_mobilenetv3", *options, cwd=tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_search_by_predicted_latency(running_ray, tmp_path, monkeypatch, typed):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    space = load_plugin("experiment", "digits_mobilenetv3").space
    networks = reachable(space, quiet_draws=300)
    keys = {layer.key: layer for network in networks for layer in layers(network, 10)}
    milliseconds = {key: 1e-5 * layer.width * layer.size + 1e-3 for key, layer in keys.items()}
    setup = {"setup": Setup(), "device": "Phone", "runtime_version": "1"}
    table = LatencyTable(date="2026-01-01", space=space.name, milliseconds=milliseconds, **setup)
    table.write(table_folder() / "phone.json")
    limit = statistics.median(table.predict(network, 10) for network in networks)
    options = ["--objectives", "params_m", "latency_ms", "--limit", f"latency_ms<{limit}", "--trials", 2, "--workers", 1]
    printed = typed("search", "digits_mobilenetv3", *options, cwd=tmp_path)
    assert "latency/phone.json" in printed
    run = only_run(tmp_path)
    assert read_table(run / "latency.json") == table
    done = nas.results(run).query("status == 'done'")
    assert len(done) == 2
    for row in done.itertuples():
        assert row.latency_ms == table.predict(nas.Architecture.from_json(row.architecture), 10) <= limit
