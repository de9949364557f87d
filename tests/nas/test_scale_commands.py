"""`nas scale`, as a user types it."""

import csv
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nas
from nas.cli import run
from nas.datasets.digits import Digits
from nas.description import experiment_of
from nas.family import MAX_PHI
from nas.files import read_lines
from nas.runs import TRIALS_FILE, read_experiment
from nas.triples import triple_space
from tests.nas.test_coefficients import RECIPE, TINY, run_of_tiny
from tests.nas.test_family import B0, SMALL
from tests.nas.test_search import command

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def searched(tmp_path):
    return run_of_tiny(tmp_path)


def test_the_command_prints_the_table_and_writes_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["scale", "efficientnet_b0", "--phi", "1", "-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "efficientnet_b0 by alpha 1.2, beta 1.1, gamma 1.15; multiply-adds with 1,000 classes"
    assert lines[1].split() == ["phi", "depth", "width", "resolution", "params_m", "macs_m", "id"]
    assert lines[2].split() == ["1", "1.2", "1.1", "258", "9.11", "992.6", nas.scale_family(B0, [1])[0].architecture.id]
    assert lines[-2:] == ["scaled/efficientnet_b0", "nas train scaled/efficientnet_b0/phi1.json --dataset DATASET"]
    # from a file, with other coefficients, for a budget that two phi share
    assert run(["scale", "scaled/efficientnet_b0/phi1.json", "--macs", "300M", "1.2G", "1200000000", "--beta", "1.2"]) == 0
    with (tmp_path / "scaled" / "efficientnet_b0-phi1" / "family.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["macs_m"]) <= most for row, most in zip(rows, (300, 1200), strict=True)] == [True, True]
    assert run(["scale", SMALL.to_json(), "--classes", "10", "--output", "mine"]) == 0
    assert "multiply-adds with 10 classes" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {"family.csv", "phi1.json", "phi2.json", "phi3.json"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["efficientnet_b9"], "network 'efficientnet_b9' does not exist; did you mean"),
        (["timm:resnet18"], "timm:resnet18 is timm's own network, which has no architecture to scale"),
        (["no/such.json"], "network 'no/such.json' is not there"),
        (["efficientnet_b0", "--phi", "x"], "Could not find valid parse for arguments: ['x']; see nas scale --help"),
        (["efficientnet_b0", "--phi", "99"], f"phi: 99.0 is not a number from -{MAX_PHI} to {MAX_PHI}"),
        (["efficientnet_b0", "--alpha", "0.5"], "alpha: 0.5 is not a number from 1 to 100"),
        (["efficientnet_b0", "--macs", "many"], "macs: 'many' is not a positive number of multiply-adds"),
        (["efficientnet_b0", "--macs", "1k"], "no network of the family is so small"),
        (["efficientnet_b0", "--macs", "1B", "--phi", "1"], "give --phi or --macs"),
        (["efficientnet_b0", "--fit"], "fit: 'efficientnet_b0' is not a run folder"),
        (["efficientnet_b0", "--trial", "1"], "trial: 'efficientnet_b0' is not a run folder"),
        (["efficientnet_b0", "--fit", "--alpha", "1.2", "--beta", "1.1"], "leave out --alpha and --beta"),
        (["efficientnet_b0", "--classes", "-1"], "num_classes: -1 is not 0 or more"),
        (["efficientnet_b0", "--output", "."], "is there already and is no family as it was written"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["scale", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("nas: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_the_readmes_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```\n(nas scale .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert len(lines) > 3
    for words in lines:
        if not any("…" in word for word in words):  # which names a run
            assert run(words) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trial", "2", "--fit"], "trial 2 is not a done one of"),
        (["--trial", "3"], "timm's own network, which has no architecture to scale"),
        (["--fit", "--gamma", "1.1"], "fit finds alpha, beta and gamma by itself; leave out --gamma"),
        (["--macs", "1"], "no network of the family is so small"),
    ],
)
def test_a_mistake_about_a_run_is_one_sentence(searched, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(searched.parent)
    assert run(["scale", str(searched), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert [entry.name for entry in searched.parent.iterdir()] == [searched.name]


def starts(run):
    return [event["trial"] for event in read_lines(run / TRIALS_FILE) if event["event"] == "start"]


@pytest.mark.slow
def test_a_fit_goes_on_after_a_kill_and_is_not_trained_again(searched, monkeypatch, capsys):
    here = searched.parent.parent
    line = [sys.executable, "-m", "nas.cli", "scale", str(searched), "--fit"]
    with subprocess.Popen(line, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 600
        while not (told := [file for file in here.glob("runs/tiny-scaling-*/trials.jsonl") if '"end"' in file.read_text()]):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    fit = told[0].parent
    before = len(starts(fit))
    answer = command("scale", searched, "--fit", "--phi", 0, 1, cwd=here)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    space = triple_space(TINY, num_classes=10)
    assert before < len(space.triples)
    df = nas.results(fit)
    assert starts(fit) == list(range(len(space.triples)))  # each once
    assert df["status"].eq("done").all()
    assert df["epochs"].eq(RECIPE.epochs).all()
    assert df["source"].eq("start").all()
    assert df["name"].tolist() == [architecture.id for architecture in space.architectures.values()]
    assert df["params.triple"].tolist() == list(space.architectures)
    rebuilt = experiment_of(read_experiment(fit), fit.parent)
    assert (rebuilt.space, rebuilt.dataset, rebuilt.train) == (space, Digits(), RECIPE)
    assert not rebuilt.stops_early
    best = df.sort_values(["val_top1_pct", "macs_m"], ascending=[False, True]).iloc[0]
    rule = space.rules[best["params.triple"]]
    assert f"{rule} is the best, val_top1_pct {best['val_top1_pct']:.2f} over 360 images" in answer.stdout
    family = here / "scaled" / f"{searched.name}-trial1"
    assert nas.Architecture.from_json((family / "phi0.json").read_text()) == TINY
    assert nas.Architecture.from_json((family / "phi1.json").read_text()).id == best["id"]  # the network that was trained

    log_before = (fit / TRIALS_FILE).read_bytes()
    monkeypatch.chdir(here)
    assert run(["scale", str(searched), "--fit", "--macs", "2M", "--output", "mine"]) == 0
    assert (fit / TRIALS_FILE).read_bytes() == log_before
    assert len(list(here.glob("runs/tiny-scaling-*"))) == 1
    assert f"by {rule}; multiply-adds with 10 classes" in capsys.readouterr().out
    assert run(["resume", str(fit)]) == 2
    assert "is finished: 4 of 4 trials have ended" in capsys.readouterr().err
