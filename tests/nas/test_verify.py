"""Baselines and full trainings, with Ray, as a user types them."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import nas
from nas.runs import read_experiment
from tests.nas.test_driver import begun, command, only_run

pytestmark = pytest.mark.slow
SEARCH = ["digits_mobilenetv3", "--trials", 3, "--train.epochs", 2]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run of three networks."""
    folder = tmp_path_factory.mktemp("verify")
    answer = command("search", *SEARCH, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    return only_run(folder)


def test_baselines_are_rows_under_the_same_recipe_and_never_on_the_front(searched):
    answer = command("baselines", searched, "--network", "timm:resnet18", "--network", "mobilenetv2_035", cwd=searched.parent)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "baseline timm:resnet18 done: val_top1_pct " in answer.stdout
    df = nas.results(searched).set_index("name")
    outside = df.loc[["timm:resnet18", "mobilenetv2_035"]]
    assert outside["source"].tolist() == ["reference"] * 2
    assert outside["status"].tolist() == ["done"] * 2
    assert outside["epochs"].tolist() == [2, 2]
    assert not outside["is_front"].any()  # no points of the space
    assert outside.loc["timm:resnet18", "macs_m"] == pytest.approx(1814 * (32 / 224) ** 2, rel=0.02)  # at the space's resolution
    assert (df["status"] == "done").sum() >= 5
    again = command("baselines", searched, "--network", "mobilenetv2_035", cwd=searched.parent)
    assert (again.returncode, "every baseline has a row already" in again.stderr) == (2, True)
    longer = command("resume", searched, "--trials", 4, cwd=searched.parent)
    assert "4/4 trial" in longer.stdout, longer.stdout + longer.stderr  # baselines count for no trial


def test_a_run_can_begin_with_its_baselines(tmp_path):
    answer = command("baselines", "digits_mobilenetv3", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    run = only_run(tmp_path)
    df = nas.results(run)
    assert set(df["source"]) == {"reference"}
    assert df["name"].str.startswith("like ").all()
    assert df["is_front"].any()  # points of the space
    kept = {file.name for file in (run / "checkpoints").glob("*.safetensors")}
    assert kept == {f"{trial}.safetensors" for trial in df["trial"]}  # of every one, as none is trained again
    first = run / "checkpoints" / "0.safetensors"
    answer = command("resume", run, "--trials", 1, cwd=tmp_path)
    assert "1 done, 0 failed" in answer.stdout, answer.stdout + answer.stderr
    assert first.is_file()


def test_the_front_is_trained_in_full_goes_on_after_a_kill_and_says_how_far_to_trust_it(searched):
    options = ["verify", searched, "--top", 2, "--seeds", 2, "--epochs", 6]
    process = begun(searched.parent.parent, *options, epochs_told=0)
    deadline = time.monotonic() + 600
    while not (done := list(searched.glob("full/*/card.json"))):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = {file: file.stat().st_mtime_ns for file in done}
    answer = command(*options, cwd=searched.parent)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert {file: file.stat().st_mtime_ns for file in first} == first  # what was trained is not trained again
    df = nas.results(searched)
    full = df[df["full_seeds"].notna()]
    networks = min(2, int(df["is_front"].sum()))
    assert full["full_seeds"].tolist() == [2] * networks
    assert full["full_epochs"].tolist() == [6] * networks
    cards = [json.loads(file.read_text()) for file in searched.glob("full/*/card.json")]
    assert len(cards) == 2 * networks
    for row in full.itertuples():
        mine = [card for card in cards if card["id"] == row.id]
        assert {card["accuracy"]["seed"] for card in mine} == {0, 1}
        tests = [card["accuracy"]["test_top1_pct"] for card in mine]
        assert row.full_test_top1_pct == pytest.approx(sum(tests) / 2)
    assert nas.load(next(searched.glob("full/trial*"))).training is False
    if networks > 1:
        assert "Kendall's tau between the search's ranking and that of full trainings: " in answer.stdout
    assert read_experiment(searched)["schema"] == 4


def test_the_dashboard_shows_the_run_on_this_machine_alone(searched):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "nas.cli", "dashboard", str(searched), "--port", str(port)]
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy this machine names
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"http://127.0.0.1:{port}/ until Ctrl-C\n"
            deadline = time.monotonic() + 600
            while True:
                try:
                    with straight.open(f"http://127.0.0.1:{port}/api/studies") as answer:
                        studies = json.load(answer)["study_summaries"]
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.2)
            assert [study["study_name"] for study in studies] == [searched.name]
            sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            listening = [fields[1] for fields in sockets if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"]
            assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1
            busy = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
            assert (busy.returncode, f"port {port} cannot be listened on: " in busy.stderr) == (2, True)
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["verify", "nothing"], "nothing is not a run folder"),
        (["table", "RUN", "--format", "excel"], "invalid choice 'excel' for argument '--format'"),
        (["verify", "RUN", "--top", 0], "top: 0 is not 1 or more"),
        (["baselines", "RUN", "--network", "resnet19"], "network 'resnet19' does not exist"),
        (["baselines", "no_such"], "experiment 'no_such' does not exist"),
        (["dashboard", "nothing"], "nothing is not a run folder"),
        (["dashboard", "RUN", "--port", 0], "port: 0 is not from 1 to 65535"),
        (["compare", "RUN", "nothing"], "nothing is not a run folder"),
    ],
)
def test_a_mistake_is_one_sentence(searched, tmp_path, mistaken, arguments, sentence):
    assert sentence in mistaken(*(searched if argument == "RUN" else argument for argument in arguments), cwd=tmp_path)
