"""A search by shared weights in Ray: a network that kills its process costs no other one, and a killed driver goes on."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.plugins import load_plugin
from nas.runs.run_folder import TRIALS_FILE, create_run, shared_weights_file
from nas.runs.shared_weights import SharedRecord, write_shared_record
from nas.supernet.network import SharedNetwork
from nas.supernet.whole import whole_shapes
from tests.conftest import DATA

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """A run whose shared weights are there, new ones, and nothing else."""
    experiment = replace(load_plugin("experiment", str(DATA / "killing.py")), runs=str(tmp_path / "runs"))
    folder = create_run(experiment.resolved(), "killing", experiment.dataset.fingerprint())
    torch.manual_seed(0)
    shapes = whole_shapes(experiment.space, 2)
    shared_weights_file(folder).parent.mkdir()
    save_file(dict(SharedNetwork(shapes, 2).state_dict()), shared_weights_file(folder))
    training = {"processes": 1, "device": "cpu", "precision": "float32", "seed": 0}
    write_shared_record(folder, SharedRecord(train_loss=(2.0,), seconds=1.0, **training))
    return folder


def test_a_killed_worker_costs_one_network_and_a_killed_driver_none(running_ray, run, tmp_path, typed):
    """The driver is killed while its workers score; the network that kills its worker is tried twice, its batch goes on."""
    line = [sys.executable, "-m", "nas", "resume", str(run)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 300
    while b'"event":"end"' not in (run / TRIALS_FILE).read_bytes():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = nas.results(run).query("status == 'done'")
    printed = typed("resume", run, cwd=tmp_path)
    df = nas.results(run).dropna(subset="trial")
    scored = df[df["weights"] == "shared"]
    assert scored["id"].is_unique
    assert scored[scored["trial"].isin(before["trial"])]["ended"].tolist() == before["ended"].tolist()
    assert Counter(scored["status"]) == {"done": 11, "failed": 1}
    (failed,) = scored.query("status == 'failed'").itertuples()
    assert (failed.reason, failed.retries) == ("crash", 1)
    assert scored["retries"].count() == 1
    front = nas.front(scored, {"val_top1_pct": "maximize", "macs_m": "minimize"})
    assert set(df["from_trial"][df["weights"] == "fine-tuned"]) == set(front["trial"])
    assert (df["weights"] == "trained").sum() == 1
    kept = {int(path.stem) for path in (run / "checkpoints").glob("*.safetensors")}
    assert kept == set(df["trial"][df["is_front"]])
    assert "11 networks scored, 1 failed" in printed
    assert " weights " in typed("table", run, cwd=tmp_path).splitlines()[0]
