"""A trial never raises: whatever happens in it is an Outcome with its reason."""

import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import nas
from nas.objectives import Objective, objective
from nas.objectives.mnasnet_reward import mnasnet_reward
from nas.runs.trial import Reason, Status, Weights
from nas.searching.evaluate import evaluate
from nas.searching.task import SharedWeights, Task
from nas.supernet.network import SharedNetwork, shared_shapes
from nas.training.predict import Preprocess, predict
from nas.training.settings import TrainSettings
from tests.data.shades import Shades
from tests.test_files import full_disk

BASE = nas.reference("mobilenetv2_035")
SMALL = replace(BASE, resolution=16, stages=BASE.stages[:1])  # one block
TEXT = SMALL.to_json()
PROXIES = ("naswot", "synflow", "zico")
SETTINGS = TrainSettings(epochs=1, batch_size=16)


def outcome(tmp_path, *objectives, text=TEXT, settings=SETTINGS):
    task = Task(dataset=Shades(num_images=32), objectives=objectives, settings=settings, seed=0)
    return evaluate(text, task, folder=tmp_path / "trial7")


@pytest.fixture(scope="module")
def shared():
    """New shared weights, as a driver hands them to its workers."""
    torch.manual_seed(0)
    network = SharedNetwork(shared_shapes(SMALL, 2), 2)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return SharedWeights(digest="d", tensors=tensors, dataset=Shades(num_images=32))


def by_shared_weights(shared, weights, folder, **settings):
    fine_tuning = replace(SETTINGS, **settings)
    trained = (objective("val_top1_pct"),)
    task = Task(dataset=shared.dataset, objectives=trained, settings=SETTINGS, seed=0, fine_tuning=fine_tuning, shared=shared)
    return evaluate(TEXT, task, folder=folder, weights=weights)


def test_a_score_is_that_of_the_slice_and_its_weights_are_saved(tmp_path, shared):
    scored, again = (by_shared_weights(shared, Weights.SHARED, tmp_path / name) for name in "ab")
    assert (scored.status, scored.history, scored.epochs) == (Status.DONE, (), 0), scored.error
    assert (scored.values, scored.val_loss, scored.fingerprint) == (again.values, again.val_loss, again.fingerprint)
    assert scored.seconds > 0
    model = nas.build(SMALL, 2)
    model.load_state_dict(load_file(tmp_path / "a" / "weights.safetensors"))
    val = shared.dataset.load("val")
    logits = predict(model, val, Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert scored.val_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(val.labels))))
    assert torch.equal(model.conv_stem.weight, torch.from_numpy(shared.tensors["conv_stem.weight"]))


def test_a_fine_tuning_begins_at_the_slice(tmp_path, shared):
    still = by_shared_weights(shared, Weights.FINE_TUNED, tmp_path / "still", lr=1e-12, weight_decay=0.0)
    assert (still.status, still.epochs) == (Status.DONE, 1), still.error
    weight = load_file(tmp_path / "still" / "weights.safetensors")["conv_stem.weight"]
    assert torch.allclose(weight, torch.from_numpy(shared.tensors["conv_stem.weight"]), atol=1e-9)
    moved = by_shared_weights(shared, Weights.FINE_TUNED, tmp_path / "moved", epochs=4)
    assert moved.val_loss < still.val_loss
    assert shared.tensors["conv_stem.weight"].tolist() == weight.tolist()  # other networks have the same slices


def test_a_network_that_does_not_fit_into_the_shared_weights_is_a_failure(tmp_path, shared):
    wide = replace(SMALL, stem=replace(SMALL.stem, width=2 * SMALL.stem.width))
    task = Task(dataset=shared.dataset, objectives=(objective("val_top1_pct"),), settings=SETTINGS, seed=0, shared=shared)
    failed = evaluate(wide.to_json(), task, folder=tmp_path, weights=Weights.SHARED)
    assert failed.status is Status.FAILED
    assert "does not fit into the shared weights" in failed.error


def own(measure):
    return Objective(name="own_ms", direction="minimize", needs_training=True, measure=measure)


def raises(error):
    def measure(candidate):
        raise error

    return own(measure)


def test_a_finished_trial_has_its_values_and_its_weights(tmp_path):
    torch.set_num_threads(2)
    done = outcome(tmp_path, objective("val_top1_pct"), own(lambda candidate: float(candidate.model.training)))
    assert (done.status, done.reason, done.error) == (Status.DONE, None, None)
    assert done.values == {"val_top1_pct": done.history[-1].val_top1_pct, "own_ms": 0.0}
    assert "1 thread(s)" in done.device or "cuda" in done.device
    assert len(done.fingerprint) == 16
    state = load_file(tmp_path / "trial7" / "weights.safetensors")
    assert state["conv_stem.weight"].shape[0] == SMALL.stem.width
    assert {path.name for path in (tmp_path / "trial7").iterdir()} == {"last.pt", "weights.safetensors"}
    assert done.to_record()["history"][0]["epoch"] == 1


def test_what_is_only_to_look_at_changes_no_training_and_is_missing_where_it_is_not_finite(tmp_path, caplog):
    infinite = Objective(name="own", direction="minimize", needs_training=False, steers=False, measure=lambda _: math.inf)
    plain = outcome(tmp_path / "plain", objective("val_top1_pct"))
    looked_at = outcome(tmp_path / "looked_at", objective("val_top1_pct"), *map(objective, PROXIES), infinite)
    assert looked_at.fingerprint == plain.fingerprint
    assert [epoch.train_loss for epoch in looked_at.history] == [epoch.train_loss for epoch in plain.history]
    assert set(looked_at.values) == {"val_top1_pct", *PROXIES}
    assert "objective own is inf for this network" in caplog.text
    again = outcome(tmp_path / "again", objective("val_top1_pct"), objective("zico"))
    assert again.values["zico"] == looked_at.values["zico"]  # whatever was measured before it


@pytest.mark.parametrize(
    ("measured", "reason", "sentence"),
    [
        (raises(torch.OutOfMemoryError("CUDA out of memory")), Reason.OOM, "OutOfMemoryError: CUDA out of memory"),
        (
            raises(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
            Reason.OOM,
            "RuntimeError: DefaultCPUAllocator: can't allocate memory",
        ),
        (raises(MemoryError("no room")), Reason.OOM, "MemoryError: no room"),
        (raises(ValueError("first line\nsecond line")), Reason.CRASH, "ValueError: first line"),
        (
            own(lambda candidate: None),
            Reason.CRASH,
            "NasError: objective own_ms gave None for a network; it must give a finite number",
        ),
        (own(lambda candidate: math.nan), Reason.DIVERGED, "DivergedError: objective own_ms is nan"),
    ],
)
def test_a_failure_is_an_outcome_with_its_reason_and_no_weights(tmp_path, measured, reason, sentence):
    failed = outcome(tmp_path, measured)
    assert (failed.status, failed.reason, failed.error) == (Status.FAILED, reason, sentence)
    assert failed.values == {}
    assert failed.seconds > 0
    assert not (tmp_path / "trial7" / "weights.safetensors").exists()


def test_a_full_disk_costs_a_checkpoint_and_then_the_weights(tmp_path, caplog):
    with full_disk(1000):
        failed = outcome(tmp_path, objective("val_top1_pct"))
    assert "training continues without this checkpoint: " in caplog.text
    assert failed.is_disk_fault
    assert re.search(r"weights\.safetensors cannot be written: File too large", failed.error)
    assert not list((tmp_path / "trial7").iterdir())


def test_a_loss_that_diverges_is_a_failure_of_its_own(tmp_path):
    settings = TrainSettings(epochs=1, batch_size=16, lr=1e30, optimizer="sgd", warmup_share=0)
    failed = outcome(tmp_path, objective("val_top1_pct"), settings=settings)
    assert (failed.status, failed.reason) == (Status.FAILED, Reason.DIVERGED)
    assert "a lower learning rate than 1e+30 may help" in failed.error


def test_a_text_that_is_no_architecture_is_a_failure(tmp_path):
    failed = outcome(tmp_path, objective("val_top1_pct"), text="{}")
    assert (failed.status, failed.reason) == (Status.FAILED, Reason.CRASH)
    assert "ArchitectureError" in failed.error


def test_a_latency_is_measured_where_no_table_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.objectives.latency.measure.SECONDS", 0.05)
    monkeypatch.setattr("nas.objectives.latency.measure.REFERENCE_SECONDS", 0.05)
    monkeypatch.setattr("nas.objectives.latency.measure.MAX_DRIFT", -1.0)  # no machine is this still
    busy = outcome(tmp_path, objective("val_top1_pct"), objective("latency_ms"))
    assert (busy.status, busy.reason) == (Status.FAILED, Reason.BUSY)
    assert not busy.history  # found before the training
    monkeypatch.setattr("nas.objectives.latency.measure.MAX_DRIFT", 10.0)  # other tests run meanwhile
    monkeypatch.setattr("nas.objectives.latency.measure.MIN_CPU_SHARE", 0.0)
    done = outcome(tmp_path, objective("val_top1_pct"), objective("latency_ms"), mnasnet_reward(1000.0))
    assert done.status is Status.DONE, done.error
    top1, ms, reward = done.values.values()
    assert 0 < ms < 1000
    assert reward == pytest.approx(top1 * (ms / 1000) ** -0.07)  # one measurement for both
