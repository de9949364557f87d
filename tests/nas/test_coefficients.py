"""A fit compares what costs the same, trains each triple once whatever happens, and says how sure it is."""

import math
from dataclasses import replace

import pytest

import nas
from nas.coefficients import fit_scaling
from nas.datasets.digits import Digits
from nas.driver import begin_run
from nas.errors import SpaceError
from nas.files import append_line
from nas.objectives import objective
from nas.plugins import load_plugin
from nas.recipe import TrainSettings
from nas.runs import HISTORY_FILE, TRIALS_FILE
from nas.triples import GRID, TripleSpace, trained_network, triple_space

B0 = nas.reference("efficientnet_b0")
MOBILE = nas.reference("mobilenetv2_035")
# Of which four triples of the grid are near enough to twice the multiply-adds; a training takes a second.
TINY = replace(
    MOBILE,
    resolution=16,
    stem=replace(MOBILE.stem, stride=1),
    stages=tuple(stage[:2] for stage in MOBILE.stages[:4]),
    head=replace(MOBILE.head, width=64),
)
RECIPE = TrainSettings(epochs=1, batch_size=256)
PAIRS = ((1.0, 1.0), (1.0, 1.1), (1.4, 1.0), (1.4, 1.1))


def begin(parent, name="tiny", **changes):
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), train=RECIPE, runs=str(parent / "runs"), workers=1)
    return begin_run(replace(experiment, **changes), name)


def log(run, trial, architecture, top1, *, params, status="done", **fields):
    """A trial that has ended, as a search writes it."""
    text = architecture if isinstance(architecture, str) else architecture.to_json()
    macs = {} if isinstance(architecture, str) else {"macs_m": nas.cost(architecture, 10).macs / 1e6}
    known = {"trial": trial, "id": f"id{trial}", "params": params, "source": "search", "architecture": text}
    append_line(run / TRIALS_FILE, {"event": "start", "values": macs} | known | fields)
    values = macs | ({"val_top1_pct": top1} if status == "done" else {})
    failed = {"reason": "nan", "error": "the loss is not finite"} if status == "failed" else {}
    append_line(run / TRIALS_FILE, {"event": "end", "trial": trial, "status": status, "values": values, "seconds": 1.0} | failed)
    epoch = {"trial": trial, "epoch": 1, "train_loss": 1.0, "val_top1_pct": top1, "val_images": 359, "seconds": 1.0}
    append_line(run / HISTORY_FILE, epoch)


def run_of_tiny(parent):
    """A run of two networks and one of timm's, of which TINY is the best."""
    run = begin(parent)
    log(run, 0, nas.scale(TINY, width=0.5), 40.0, params={"x": 1})
    log(run, 1, TINY, 60.0, params={"x": 2})
    log(run, 2, TINY, 0.0, params={"x": 3}, status="failed")
    log(run, 3, '{"resolution":32,"timm":"resnet18"}', 99.0, params={}, baseline=True, name="timm:resnet18")
    return run


@pytest.fixture
def searched(tmp_path):
    return run_of_tiny(tmp_path)


def test_a_runs_network_is_its_best_or_that_of_a_trial(searched):
    assert trained_network(searched) == (1, TINY)
    assert trained_network(searched, 0) == (0, nas.scale(TINY, width=0.5))
    for trial, sentence in ((7, "trial 7 is not a done one of .*; done: 0, 1, 3"), (2, "trial 2 is not"), (3, "timm's own")):
        with pytest.raises(nas.NasError, match=sentence):
            trained_network(searched, trial)


@pytest.mark.parametrize(("base", "classes"), [(B0, 1000), (nas.reference("mobilenetv3_small_100"), 10), (TINY, 10)])
def test_every_triple_of_the_grid_costs_twice_as_much(base, classes):
    space = triple_space(base, num_classes=classes)
    macs = nas.cost(base, classes).macs
    assert 2 <= len(space.triples) <= len(GRID)
    for (alpha, beta, gamma), architecture in zip(space.triples, space.architectures.values(), strict=True):
        assert (alpha, beta) in GRID
        assert gamma >= 1
        assert 1.9 <= nas.cost(architecture, classes).macs / macs <= 2.1
        assert architecture == nas.scale(base, depth=alpha, width=beta, resolution=round(base.resolution * gamma))
        for pixels in (-1, 1):  # no other resolution is nearer, of those that do not shrink it
            if architecture.resolution + pixels >= base.resolution:
                other = replace(architecture, resolution=architecture.resolution + pixels)
                assert abs(nas.cost(other, classes).macs - 2 * macs) >= abs(nas.cost(architecture, classes).macs - 2 * macs)
    assert len({one.id for one in space.architectures.values()}) == len(space.triples)


def test_of_triples_that_mean_one_network_the_one_nearest_to_doubling_is_kept():
    """Depths of 2 round up to 4 for 1.6 to 2, and 2 is what they grow by."""
    space = triple_space(B0, [(1.8, 1.0), (1.0, 1.0), (2.0, 1.0)])
    assert [triple[:2] for triple in space.triples] == [(2.0, 1.0), (1.0, 1.0)]


def test_the_space_of_triples_is_one_like_any_other():
    space = triple_space(TINY, num_classes=10)
    (distribution,) = space.parameters.values()
    for name in distribution.choices:
        assert space.encode(space.decode({"triple": name})) == {"triple": name}
    with pytest.raises(SpaceError, match="is not in space triples"):
        space.encode(B0)
    with pytest.raises(nas.NasError, match=r"space\.triples: .* has one twice"):
        TripleSpace(base=TINY.to_json(), triples=((1.0, 1.0, 1.5), (1.0, 1.0, 1.5)))


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ([(1.0, 1.0)], "1 of 1 pairs of alpha and beta can bring architecture"),
        ([(3.0, 2.0), (4.0, 2.0)], "0 of 2 pairs of alpha and beta can bring architecture .* within 5% of twice"),
        ([(90.0, 1.0), (1.0, 1.0)], "1 of 2 pairs"),
        ([(0.9, 1.0)], "alpha: 0.9 is not a number from 1 to 100"),
    ],
)
def test_a_grid_without_two_comparable_triples_is_refused(grid, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        triple_space(B0, grid)


def finished(run, outcomes, grid=PAIRS):
    """A fit of TINY as it is on the disk when it has ended; an outcome is a top-1, or None for a failure."""
    space = triple_space(TINY, grid, num_classes=10)
    objectives = (objective("val_top1_pct"), objective("macs_m"))
    fit = begin(run.parent.parent, "tiny-scaling", space=space, dataset=Digits(), objectives=objectives)
    for trial, ((name, architecture), top1) in enumerate(zip(space.architectures.items(), outcomes, strict=True)):
        status = "failed" if top1 is None else "done"
        log(fit, trial, architecture, top1 or 0.0, params={"triple": name}, status=status)
    return fit, space


def test_the_best_triple_is_told_with_the_noise_of_the_difference(searched):
    fit, space = finished(searched, [80.0, 84.0, 81.5, 60.0])
    found = fit_scaling(searched, grid=PAIRS)  # which trains nothing
    assert found.run == fit
    assert (found.rule.alpha, found.rule.beta, found.rule.gamma) == space.triples[1]
    assert found.table["val_top1_pct"].tolist() == [84.0, 81.5, 80.0, 60.0]
    assert found.table["macs_ratio"].between(1.9, 2.1).all()
    first = found.table.iloc[0]
    assert first["growth"] == pytest.approx(first["alpha"] * first["beta"] ** 2 * first["gamma"] ** 2)
    error = math.sqrt((84 * 16 + 81.5 * 18.5) / 359)
    assert f"2.50 points behind, no more than the standard error of the difference, {error:.2f} points" in found.verdict
    assert "84.00 over 359 images" in found.verdict


def test_a_clear_lead_is_told_as_one(searched):
    finished(searched, [80.0, 90.0, 81.5, 60.0])
    assert "8.50 points behind, more than the standard error" in fit_scaling(searched, grid=PAIRS).verdict


def test_of_equals_the_cheaper_is_taken_and_a_failure_is_never_chosen(searched):
    _, space = finished(searched, [70.0, 70.0, 70.0, None])
    costs = [nas.cost(one, 10).macs for one in space.architectures.values()]
    found = fit_scaling(searched, grid=PAIRS)
    assert found.rule == list(space.rules.values())[costs.index(min(costs[:3]))]
    assert found.table["status"].tolist() == ["done", "done", "done", "failed"]


def test_a_single_outcome_has_nothing_to_be_held_against_and_none_is_an_error(searched):
    fit, _ = finished(searched, [None, 70.0, None, None])
    assert "no other triple is done" in fit_scaling(searched, grid=PAIRS).verdict
    (fit / TRIALS_FILE).unlink()
    finished(searched, [None] * 4)
    with pytest.raises(nas.NasError, match=r"none of 4 triples is done; trial 0 failed \(nan\): the loss is not finite"):
        fit_scaling(searched, grid=PAIRS)


@pytest.mark.parametrize("change", [{"train": replace(RECIPE, lr=0.1)}, {"seed": 1}], ids=["recipe", "seed"])
def test_a_fit_by_another_recipe_or_seed_is_another_fit(searched, change):
    """It would be trained anew, which a storage that is none tells before anything is."""
    finished(searched, [80.0, 84.0, 81.5, 60.0])
    other = begin(searched.parent.parent, "tiny", storage="nowhere://bucket", **change)
    log(other, 0, TINY, 60.0, params={"x": 2})
    with pytest.raises(nas.NasError, match="nowhere"):
        fit_scaling(other, grid=PAIRS)
