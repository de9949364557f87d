"""optuna-dashboard shows a run, to this machine alone, and what ends while it is open."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nas.runs.dashboard import RunStudy
from tests.made_up_runs import end, run_of_networks, skip, write

TRIALS = (
    {"status": "done", "top1": 60.0},
    {"status": "stopped", "top1": 40.0},
    {"status": "failed", "reason": "oom", "error": "out of memory"},
    {"status": "done", "values": {"val_top1_pct": 70.0}, "start": {"params": {}, "values": {}, "baseline": True}},  # no macs_m
    {},  # under way
)


@pytest.fixture
def run(tmp_path):
    run = run_of_networks(tmp_path, TRIALS)
    write(run, [skip("infeasible", {"macs_m": 9.0})])
    return run


def test_the_study_has_every_trial_that_ended_and_those_that_end_later(run):
    shown = RunStudy(run)
    first, stopped, failed = shown.study.trials
    assert first.values == [60.0, first.user_attrs["macs_m"]]
    assert [trial.state.name for trial in (first, stopped, failed)] == ["COMPLETE", "PRUNED", "FAIL"]
    assert failed.user_attrs["reason"] == "oom"
    assert len(first.params) > 50
    assert (first.datetime_complete - first.datetime_start).total_seconds() == 3600
    write(run, [end(4, {"macs_m": 3.0, "val_top1_pct": 99.0})])
    shown.update()
    shown.update()
    assert [trial.user_attrs["trial"] for trial in shown.study.trials] == [0, 1, 2, 4]
    assert shown.study.trials[-1].values == [99.0, 3.0]


@pytest.mark.slow
def test_the_dashboard_serves_this_machine_alone_and_follows_the_log(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "nas", "dashboard", str(run), "--port", str(port)]
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy this machine names
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:

        def answer(path, ready):
            """What the server says once it is ready."""
            for _ in range(1000):
                try:
                    with straight.open(f"http://127.0.0.1:{port}{path}") as opened:
                        found = json.load(opened)
                    if ready(found):
                        return found
                except OSError:
                    assert process.poll() is None, process.communicate()
                time.sleep(0.2)
            raise AssertionError(f"{path} is not ready")

        try:
            assert process.stdout.readline() == f"http://127.0.0.1:{port}/ until Ctrl-C\n"
            (study,) = answer("/api/studies", bool)["study_summaries"]
            assert study["study_name"] == run.name
            trials = f"/api/studies/{study['study_id']}?after=0"
            assert [trial["state"] for trial in answer(trials, bool)["trials"]] == ["Complete", "Pruned", "Fail"]
            write(run, [end(4, {"macs_m": 3.0, "val_top1_pct": 99.0})])
            answer(trials, lambda found: found["trials"][-1].get("values") == [99.0, 3.0])
            sockets = [entry.split() for entry in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            listening = [fields[1] for fields in sockets if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"]
            assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1
            busy = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
            assert (busy.returncode, f"cannot listen on port {port}: " in busy.stderr) == (2, True)
        finally:
            process.terminate()
