"""A trial never raises: whatever happens in it is an Outcome with its reason."""

import math

import pytest
import torch
from safetensors.torch import load_file

from nas.evaluate import evaluate
from nas.objectives import Objective, objective
from nas.objectives.mnasnet_reward import mnasnet_reward
from nas.recipe import TrainSettings
from tests.data.stripes import Stripes, architecture

SETTINGS = TrainSettings(epochs=1, batch_size=16)


def raises(error):
    def measure(candidate):
        raise error

    return measure


def outcome(tmp_path, *objectives, text=None, settings=SETTINGS):
    return evaluate(
        text or architecture().to_json(),
        dataset=Stripes(),
        objectives=objectives,
        settings=settings,
        seed=0,
        folder=tmp_path / "trial7",
    )


def own(measure):
    return Objective(name="own_ms", direction="minimize", needs_training=True, measure=measure)


def test_a_finished_trial_has_its_values_and_its_weights(tmp_path):
    torch.set_num_threads(2)
    done = outcome(tmp_path, objective("val_top1_pct"), own(lambda candidate: float(candidate.model.training)))
    assert (done.status, done.reason, done.error) == ("done", None, None)
    assert done.values == {"val_top1_pct": done.history[-1].val_top1_pct, "own_ms": 0.0}
    assert "1 thread(s)" in done.device or "cuda" in done.device
    assert len(done.fingerprint) == 16
    state = load_file(tmp_path / "trial7" / "weights.safetensors")
    assert state["conv_stem.weight"].shape[0] == architecture().stem.width
    assert {path.name for path in (tmp_path / "trial7").iterdir()} == {"last.pt", "weights.safetensors"}
    assert done.to_record()["history"][0]["epoch"] == 1


@pytest.mark.parametrize(
    ("measure", "reason", "sentence"),
    [
        (raises(torch.OutOfMemoryError("CUDA out of memory")), "oom", "OutOfMemoryError: CUDA out of memory"),
        (
            raises(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
            "oom",
            "RuntimeError: DefaultCPUAllocator: can't allocate memory",
        ),
        (raises(MemoryError("no room")), "oom", "MemoryError: no room"),
        (raises(ValueError("first line\nsecond line")), "crash", "ValueError: first line"),
        (lambda candidate: math.nan, "nan", "DivergedError: objective own_ms is nan"),
    ],
)
def test_a_failure_is_an_outcome_with_its_reason_and_no_weights(tmp_path, measure, reason, sentence):
    failed = outcome(tmp_path, own(measure))
    assert (failed.status, failed.reason, failed.error) == ("failed", reason, sentence)
    assert failed.values == {}
    assert failed.seconds > 0
    assert not (tmp_path / "trial7" / "weights.safetensors").exists()


def test_a_loss_that_diverges_is_a_failure_of_its_own(tmp_path):
    settings = TrainSettings(epochs=1, batch_size=16, lr=1e30, optimizer="sgd", warmup_share=0)
    failed = outcome(tmp_path, objective("val_top1_pct"), settings=settings)
    assert (failed.status, failed.reason) == ("failed", "nan")
    assert "a lower learning rate than 1e+30 may help" in failed.error


def test_a_text_that_is_no_architecture_is_a_failure(tmp_path):
    failed = outcome(tmp_path, objective("val_top1_pct"), text="{}")
    assert (failed.status, failed.reason) == ("failed", "crash")
    assert "ArchitectureError" in failed.error


def test_a_latency_is_measured_where_no_table_is_given(tmp_path, monkeypatch):
    busy = outcome(tmp_path, objective("val_top1_pct"), objective("latency_ms"))
    assert busy.status == "done" or "the machine does not hold still" in busy.error  # other tests run meanwhile
    monkeypatch.setattr("nas.latency.timing.MAX_DRIFT", 10.0)
    monkeypatch.setattr("nas.latency.timing.MIN_CPU_SHARE", 0.0)
    done = outcome(tmp_path, objective("val_top1_pct"), objective("latency_ms"), mnasnet_reward(1000.0))
    assert done.status == "done", done.error
    top1, ms, reward = done.values.values()
    assert 0 < ms < 1000
    assert reward == pytest.approx(top1 * (ms / 1000) ** -0.07)  # one measurement for both


def test_nothing_is_trained_for_objectives_that_need_no_training(tmp_path):
    done = outcome(tmp_path)
    assert (done.status, done.history) == ("done", ())
    assert not (tmp_path / "trial7").exists()
