"""A fit compares what costs the same by the run's recipe, says how sure it is, and `nas scale` reads it again."""

import csv
import math
from dataclasses import replace

import pytest

import nas
from nas.cli.app import run as command
from nas.models.network import TimmNetwork
from nas.objectives.macs_m import OBJECTIVE as MACS
from nas.objectives.val_top1_pct import OBJECTIVE as TOP1
from nas.plugins import load_plugin
from nas.runs.beliefs import Belief, write_beliefs
from nas.runs.run_folder import create_run, read_experiment
from nas.runs.serialization import experiment_of
from nas.runs.trial import Outcome, Reason, Status, Trial, Weights
from nas.searching.scaling_fit import read_fit, trained_network
from nas.searching.trial_writer import TrialLog
from nas.training.settings import Epoch, TrainSettings
from search_spaces.compound import CompoundSpace

MOBILE = nas.reference("mobilenetv2_035")
TINY = replace(  # a training takes a second
    MOBILE,
    resolution=16,
    stem=replace(MOBILE.stem, stride=1),
    stages=tuple(stage[:2] for stage in MOBILE.stages[:4]),
    head=replace(MOBILE.head, width=64),
)
RECIPE = TrainSettings(epochs=1, batch_size=256)
AT_ONE = CompoundSpace(base=TINY, min_phi=1.0, max_phi=1.0)


def begin(parent, name, **changes):
    """An empty run."""
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), train=RECIPE, runs=str(parent / "runs"), workers=1)
    return create_run(replace(experiment, **changes), name)


def log(run, number, text, top1, *, params, **fields):
    """A trial that is done, or that failed without a top-1, as a search writes it."""
    written = TrialLog(run=run)
    known = {"params": params, "values": {"macs_m": 1.0}, "architecture": text}
    written.start(Trial(number=number, id=f"id{number}", status=Status.RUNNING, **known, **fields))
    if top1 is None:
        return written.end(number, Outcome(status=Status.FAILED, reason=Reason.DIVERGED, error="the loss is not finite"))
    epoch = Epoch(epoch=1, train_loss=1.0, val_top1_pct=top1, val_images=359, seconds=1.0)
    written.epoch(number, epoch)
    return written.end(number, Outcome(status=Status.DONE, values={"val_top1_pct": top1, "macs_m": 1.0}, epochs=1, seconds=1.0))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run of two networks, one that failed, and one of timm's; TINY is the best."""
    run = begin(tmp_path_factory.mktemp("searched"), "tiny")
    log(run, 0, nas.scale(TINY, width=0.5).to_json(), 40.0, params={"x": 1})
    log(run, 1, TINY.to_json(), 60.0, params={"x": 2})
    log(run, 2, TINY.to_json(), None, params={"x": 3})
    timm = TimmNetwork(name="resnet18", resolution=32).to_json()
    log(run, 3, timm, 99.0, params={}, is_baseline=True, name="timm:resnet18")
    return run


def fitted(parent, tops):
    """The run of a fit of TINY with these outcomes."""
    run = begin(parent, "tiny-scaling", space=AT_ONE, objectives=(TOP1,), early_stopping=False)
    for number, top1 in enumerate(tops):
        params = {"depth_share": number / 4, "width_share": 0.5, "phi": 1.0}
        log(run, number, AT_ONE.decode(params).to_json(), top1, params=params, weights=Weights.TRAINED)
    return run


def test_a_runs_network_is_its_best_or_that_of_a_trial(searched):
    assert trained_network(searched) == (1, TINY)
    assert trained_network(searched, 0) == (0, nas.scale(TINY, width=0.5))
    for trial, sentence in ((7, "trial 7 is not a done one of .*; done: 0, 1, 3"), (2, "trial 2 is not"), (3, "timm's own")):
        with pytest.raises(nas.NasError, match=sentence):
            trained_network(searched, trial)


@pytest.mark.parametrize(
    ("tops", "best", "ahead"),
    [((80.0, None, 84.0, 81.5), 2, "2.50 points behind, no more"), ((90.0, 81.5), 0, "8.50 points behind, more")],
)
def test_the_best_rule_is_told_with_the_noise_of_the_difference(tmp_path, tops, best, ahead):
    fit = read_fit(fitted(tmp_path, tops))
    assert (fit.base, fit.rule.alpha) == (TINY, pytest.approx(2 ** (best / 4)))
    assert fit.rule.alpha * fit.rule.beta**2 * fit.rule.gamma**2 == pytest.approx(2)
    error = math.sqrt((tops[best] * (100 - tops[best]) + 81.5 * 18.5) / 359)
    assert f"{ahead} than the standard error of the difference, {error:.2f} points" in fit.verdict
    assert f"{fit.rule} is the best, val_top1_pct {tops[best]:.2f} over 359 images" in fit.verdict


def test_the_best_rule_goes_by_what_is_believed_as_the_front_does(tmp_path):
    run = fitted(tmp_path, (80.0, 84.0, 81.5))
    write_beliefs(run, {"id0": Belief(82.0, 0.3), "id1": Belief(81.0, 0.4), "id2": Belief(80.0, 0.5)})
    fit = read_fit(run)
    assert fit.rule.alpha == pytest.approx(1)
    assert "is the best, a believed val_top1_pct of 82.00 over 359 images" in fit.verdict
    assert "is 1.00 points behind, more than the standard error of the difference, 0.50 points (of what is" in fit.verdict


def test_a_single_outcome_is_told_alone_and_none_is_an_error(tmp_path):
    assert read_fit(fitted(tmp_path, (None, 70.0))).verdict.endswith("val_top1_pct 70.00 over 359 images")
    with pytest.raises(nas.NasError, match="no trial here is done"):
        read_fit(fitted(tmp_path, (None,)))


def test_another_run_is_no_fit(searched, tmp_path):
    assert read_fit(searched) is None
    assert read_fit(begin(tmp_path, "wide", space=CompoundSpace())) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trial", "2", "--fit", "3"], "trial 2 is not a done one of"),
        (["--trial", "3"], "timm's own network and has no architecture"),
        (["--fit", "3", "--gamma", "1.1"], "fit finds alpha, beta and gamma by itself; leave out --gamma"),
        (["--macs", "1"], "no network of the family has as few as 1"),
    ],
)
def test_a_mistake_about_a_run_is_one_sentence(searched, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(searched.parent)
    assert command(["scale", str(searched), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert [entry.name for entry in searched.parent.iterdir()] == [searched.name]


@pytest.mark.slow
def test_a_fit_trains_networks_of_twice_the_cost_by_the_runs_recipe_and_is_read_again(searched, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["scale", str(searched), "--fit", "2", "--phi", "0", "1"]) == 0
    (fit,) = searched.parent.glob("tiny-scaling-*")
    rebuilt = experiment_of(read_experiment(fit), fit.parent)
    assert (rebuilt.space, rebuilt.train, rebuilt.stops_early) == (AT_ONE, RECIPE, False)
    df = nas.results(fit)
    trained = df[df["status"] == "done"]
    assert len(trained) == 2
    assert (trained["macs_m"] / (nas.cost(TINY, 10).macs / 1e6)).between(1.9, 2.1).all()
    assert [limit.objective.name for limit in rebuilt.limits] == [MACS.name]
    family = tmp_path / "scaled" / f"{searched.name}-trial1"
    best = trained.sort_values(["val_top1_pct", "trial"], ascending=[False, True]).iloc[0]
    with (family / "family.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [TINY.id, best["id"]]  # the network that was trained
    found = read_fit(fit)
    printed = capsys.readouterr().out
    assert found.verdict in printed
    assert f"by {found.rule}; multiply-adds with 10 classes" in printed

    assert command(["scale", str(fit), "--macs", "2M"]) == 0  # trains nothing
    assert f"{fit.name} by {found.rule}" in capsys.readouterr().out
    assert len(list(searched.parent.glob("tiny-scaling-*"))) == 1
