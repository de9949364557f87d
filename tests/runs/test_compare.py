"""Searches and rankings are compared fairly, and what is noise is called noise."""

import math

import numpy as np
import pytest

import nas
from nas.cli.app import run as command
from nas.models.network import CARD_FILE
from nas.runs.alone import TrainedAlone, write_alone
from nas.runs.compare import check_order, check_ranking, compare
from nas.runs.run_folder import FULL, HISTORY_FILE, read_experiment
from tests.made_up_runs import describe_run, end, run_of_points, start, train_in_full, write

POINTS = [(80.0, 10.0), (85.0, 20.0), (85.0, 30.0), (90.0, 40.0)]


@pytest.fixture
def run(tmp_path):
    return run_of_points(tmp_path / "runs", POINTS)


def test_hypervolumes_count_from_one_point_beyond_all_that_was_found(tmp_path):
    better = run_of_points(tmp_path, [(90.0, 10.0), (95.0, 20.0)], "better")
    worse = run_of_points(tmp_path, [(80.0, 20.0), (85.0, 40.0)], "worse")
    found = compare(better, worse)
    assert found.reference == pytest.approx({"val_top1_pct": 78.5, "macs_m": 43.0})
    box = (95 - 78.5) * (43 - 10)
    assert found.one == pytest.approx((((90 - 78.5) * (43 - 10) + (95 - 90) * (43 - 20)) / box,))
    assert found.other == pytest.approx((((80 - 78.5) * (43 - 20) + (85 - 80) * (43 - 40)) / box,))
    assert "with a single run on a side" in found.verdict


def test_a_difference_is_told_from_noise_over_seeds(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for seed in range(5):
        for name, gain in (("same", 0.0), ("again", 0.0), ("better", 5.0)):
            points = [(80 + gain + generator.normal(), 10.0), (85 + gain + generator.normal(), 20.0)]
            run_of_points(tmp_path / name, points, f"seed{seed}")
    assert "within the noise" in compare(tmp_path / "same", tmp_path / "again").verdict
    assert command(["compare", str(tmp_path / "better"), str(tmp_path / "same")]) == 0
    assert "the first is better by hypervolume: +" in capsys.readouterr().out


def test_the_order_of_objectives_and_baselines_change_no_comparison(run, tmp_path):
    turned = run_of_points(tmp_path, [point[::-1] for point in POINTS], "turned", objectives=("macs_m", "val_top1_pct"))
    with pytest.raises(nas.NasError, match="has objectives macs_m"):
        compare(run, run_of_points(tmp_path, [(1.0,)], "other", objectives=("macs_m",)))
    found = compare(run, turned)
    assert found.one == pytest.approx(found.other)
    before = compare(run, run_of_points(tmp_path, POINTS[:2], "without"))
    with_baseline = run_of_points(tmp_path, POINTS[:2], "with")
    values = {"val_top1_pct": 99.0, "macs_m": 1.0}
    write(with_baseline, [start(9, values, source="reference", baseline=True), end(9, values)])
    assert nas.results(with_baseline)["is_baseline"].tolist() == [False, False, True]
    assert compare(run, with_baseline).other == before.other


@pytest.mark.parametrize("number", [0, 1])
def test_runs_that_cannot_be_compared_are_said_to(run, tmp_path, number, capsys):
    other = run_of_points(tmp_path, [], "none")
    sentence = "has no finished network yet, so there is nothing to compare"
    if number == 1:
        other = run_of_points(tmp_path, [(80.0, 1.0)], "c", objectives=("val_top1_pct", "params_m"))
        sentence = f"{other.name} has objectives val_top1_pct (maximize), params_m (minimize), and {run.name} has val_top1_pct"
    assert command(["compare", str(run), str(other)]) == 2
    assert sentence in capsys.readouterr().err


def test_full_trainings_are_columns_and_tell_how_far_to_trust(run):
    assert check_ranking(run) is None
    for trial, tests in {0: (70.0, 72.0), 1: (80.0, 82.0), 3: (90.0, 94.0)}.items():
        for seed, test in enumerate(tests):
            train_in_full(run, trial, seed, test)
    train_in_full(run, 0, 0, 10.0, epochs=5)  # of a shorter training: it is left out
    df = nas.results(run).set_index("trial")
    assert df.loc[3, ["full_test_top1_pct", "full_val_top1_pct", "full_seeds", "full_epochs"]].tolist() == [92, 93, 2, 100]
    assert df.loc[3, "full_test_sd_pct"] == pytest.approx(math.sqrt(8))
    assert df.loc[2, ["full_test_top1_pct", "full_seeds"]].isna().all()
    found = check_ranking(run)
    assert (found.networks, found.seeds, found.agreement.kendall, found.agreement.interval) == (3, 2, 1.0, None)
    assert "1.00, too few for an interval (3 networks, 100 epochs, 2 seeds or more of each)" in str(found)
    train_in_full(run, 0, 0, 10.0, epochs=300)  # one network alone has that many epochs
    train_in_full(run, 77, 0, 10.0)  # of a trial that is not there
    assert check_ranking(run).epochs == 100
    assert check_ranking(run).agreement.kendall == 1.0
    (run / FULL / "trial1-seed0-epochs100" / CARD_FILE).write_text("{")
    with pytest.raises(nas.NasError, match="is damaged; remove its folder"):
        nas.results(run)


def test_runs_on_other_images_are_not_compared(run, tmp_path):
    """Those that rank on the same images but train on others are, and the verdict says so."""
    again = run_of_points(tmp_path / "runs", POINTS, "again")
    dataset = read_experiment(run)["dataset"]
    known = {"counts": {"train": {"0": 40}, "val": {"0": 9}}, "keys": {"train": {}, "val": {}}}
    describe_run(run, dataset=dataset | {"fingerprint": known})
    assert "images" not in compare(run, again).verdict  # nothing is known of those of the second
    describe_run(again, dataset=dataset | {"fingerprint": known | {"counts": {"train": {"0": 41}, "val": {"0": 9}}}})
    assert compare(run, again).verdict.endswith(f"; {again.name} trains on other images than {run.name}: train/0 has 41, had 40")
    describe_run(again, dataset=dataset | {"fingerprint": known | {"keys": {"train": {}, "val": {"0": "other"}}}})
    with pytest.raises(nas.NasError, match=f"{again.name} ranks on other images than {run.name}: other contents in val/0; give"):
        compare(run, again)


def test_the_order_after_some_epochs_is_compared_with_that_at_the_end(tmp_path):
    run = run_of_points(tmp_path, [(80.0 + i, 10.0) for i in range(8)])
    epochs = read_experiment(run)["train"]["epochs"]
    assert check_order(nas.results(run), nas.history(run), epochs) == []
    checked = [math.ceil(epochs / 9), math.ceil(epochs / 3), math.ceil(2 * epochs / 3)]
    line = {"train_loss": 1.0, "val_images": 9, "seconds": 2}
    lines = []
    for trial in range(8):
        curve = dict.fromkeys(range(1, epochs + 1), 50.0 + trial) | dict.fromkeys(range(1, checked[0] + 1), 20.0 - trial)
        lines += [line | {"trial": trial, "epoch": epoch, "val_top1_pct": top1} for epoch, top1 in curve.items()]
    write(run, lines, HISTORY_FILE)
    stopped = {"status": "stopped", "epochs": checked[1], "fingerprint": None}
    write(run, [start(9, {"macs_m": 1.0}), end(9, {"macs_m": 1.0}, **stopped)])
    write(run, [start(10, {"macs_m": 1.0}), end(10, {"macs_m": 1.0}, **stopped, reason="limit")])  # not by early stopping
    found = check_order(nas.results(run), nas.history(run), epochs)
    assert [(one.epoch, one.networks, one.kendall, one.stopped) for one in found] == [
        (checked[0], 8, -1.0, 0),
        (checked[1], 8, 1.0, 1),
        (checked[2], 8, 1.0, 1),
    ]
    assert str(found[0]).endswith("agrees with that at the end by Kendall's tau -1.00, and no trials had been stopped")
    assert str(found[1]).endswith("and 1 trial had been stopped")


def test_a_ranking_stands_beside_the_agreement_of_two_seeds(run):
    for trial, test in {0: 70.0, 1: 80.0, 3: 90.0}.items():
        train_in_full(run, trial, 0, test)
    assert check_ranking(run).two_seeds is None
    record = {"seed": 1, "epochs": 10, "val_loss": 1.0, "seconds": 2.0, "device": "cpu", "precision": "float32"}
    for trial, top1 in {0: 81.0, 1: 84.0, 3: 83.0}.items():
        write_alone(run, TrainedAlone(trial=trial, val_top1_pct=top1, **record))
    found = check_ranking(run)
    assert found.two_seeds.kendall == pytest.approx(1 / 3)
    assert str(found).endswith("between two seeds of the search's own trainings: 0.33, too few for an interval")
    train_in_full(run, 2, 0, 75.0)  # a network without a second seed
    assert check_ranking(run).two_seeds is None
