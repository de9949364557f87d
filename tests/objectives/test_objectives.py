"""Every objective keeps its contract; limits say what they mean and are read as they are written."""

import math
from dataclasses import replace

import pytest
import torch

import nas
from nas.models.network import OwnNetwork
from nas.objectives import Candidate, Limit, Objective, objective, parse_limit
from nas.plugins import plugin_names
from nas.training.settings import Epoch, TrainReport

NETWORK = OwnNetwork(architecture=nas.reference("mobilenetv3_small_100"))
REPORT = TrainReport(
    history=(Epoch(epoch=1, train_loss=1.0, val_top1_pct=75.0, val_images=4, seconds=1.0),),
    val_top1_pct=75.0,
    val_loss=0.5,
    fingerprint="0",
    device="cpu",
    precision="float32",
)


@pytest.mark.parametrize("name", plugin_names("objective"))
def test_every_objective_is_one_finite_number_under_its_files_name(name, monkeypatch):
    monkeypatch.setattr("nas.objectives.latency.measure.SECONDS", 0.05)
    monkeypatch.setattr("nas.objectives.latency.measure.REFERENCE_SECONDS", 0.05)
    monkeypatch.setattr("nas.objectives.latency.measure.MAX_DRIFT", 10.0)  # other tests run meanwhile
    monkeypatch.setattr("nas.objectives.latency.measure.MIN_CPU_SHARE", 0.0)
    found = objective(name)
    assert found.name == name
    assert not found.steers or name.rsplit("_", 1)[1] in ("m", "mb", "pct", "ms", "reward")  # its unit
    network = NETWORK.at(32)
    candidate = Candidate(network=network, num_classes=10, report=REPORT if found.needs_training else None)
    if found.needs_images:
        torch.manual_seed(0)
        candidate = replace(candidate, model=network.build(10), images=torch.randn(8, 3, 32, 32), labels=torch.arange(8))
    assert math.isfinite(found.measure(candidate))


def test_costs_are_in_millions_with_the_datasets_number_of_classes():
    candidate = Candidate(network=NETWORK, num_classes=1000)
    assert objective("params_m").measure(candidate) == pytest.approx(2.542856)
    assert objective("macs_m").measure(candidate) == pytest.approx(56.5104)
    ten = Candidate(network=NETWORK, num_classes=10)
    assert objective("params_m").measure(ten) == pytest.approx(2.542856 - 990 * 1025 / 1e6)


def test_the_lower_a_loss_the_better_whatever_the_direction():
    assert objective("val_top1_pct").loss(75.0) < objective("val_top1_pct").loss(70.0)
    assert objective("macs_m").loss(3.0) < objective("macs_m").loss(4.0)


def test_top1_is_the_share_of_validation_images():
    candidate = Candidate(network=NETWORK, num_classes=10, report=REPORT)
    assert objective("val_top1_pct").measure(candidate) == 75.0


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("macs_m<60", -math.inf, 60),
        (" macs_m <= 6e1 ", -math.inf, 60),
        ("params_m>1.5", 1.5, math.inf),
        ("params_m>=0", 0, math.inf),
    ],
)
def test_a_limit_is_read_as_it_is_written(text, low, high):
    limit = parse_limit(text)
    assert (limit.low, limit.high) == (low, high)
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize("text", ["macs_m", "macs_m=60", "macs_m<", "<60", "macs_m<sixty", "macs_m<1<2", "macs_m<nan", ""])
def test_a_text_that_states_no_limit_is_refused(text):
    with pytest.raises(nas.NasError):
        parse_limit(text)


def test_a_limit_is_met_at_its_ends_and_tells_by_how_much_it_is_not():
    limit = Limit(objective=objective("macs_m"), low=10, high=60)
    assert [limit.excess(value) <= 0 for value in (9.9, 10, 60, 60.1)] == [False, True, True, False]
    assert limit.excess(75) == 15


@pytest.mark.parametrize(("text", "why"), [("val_top1_pct>90", "its value needs training"), ("naswot>900", "only to look at")])
def test_a_limit_on_what_no_formula_gives_is_refused(text, why):
    with pytest.raises(nas.NasError, match=why):
        parse_limit(text)


def test_an_unknown_objective_is_answered_with_the_nearest():
    with pytest.raises(nas.NasError, match="objective 'mac_m' does not exist; did you mean 'macs_m'"):
        objective("mac_m")


def test_an_own_objective_goes_before_the_known_ones():
    own = Objective(name="macs_m", direction="maximize", needs_training=False, measure=len)
    assert objective("macs_m", own=(own,)) is own


@pytest.mark.parametrize("fields", [{"direction": "up"}, {"name": "Two Words"}, {"needs_images": True}])
def test_a_wrong_objective_is_refused(fields):
    with pytest.raises(nas.NasError):
        Objective(**{"name": "a_ms", "direction": "minimize", "needs_training": False, "measure": len} | fields)
