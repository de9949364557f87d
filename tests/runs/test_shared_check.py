"""Scores by shared weights beside accuracies of the same networks trained alone, and what the page and the table say of both."""

from dataclasses import replace

import numpy as np
import pytest

import nas
from nas.runs.alone import TrainedAlone, alone_file, write_alone
from nas.runs.shared_check import CEILING, SCORES, check_shared, scored_networks
from tests.made_up_runs import end, run_of_networks, start, write

SCORED = (30.0, 50.0, 40.0, 60.0, 70.0, 80.0)
RECORD = TrainedAlone(
    trial=0, seed=0, epochs=3, val_top1_pct=0.0, val_loss=1.0, seconds=2.0, device="cpu, 1 thread(s)", precision="float32"
)


def alone(run, trial, *top1s):
    for seed, top1 in enumerate(top1s):
        write_alone(run, replace(RECORD, trial=trial, seed=seed, val_top1_pct=top1))


@pytest.fixture
def run(tmp_path):
    """Six scored networks, the first of them twice, then one that was trained."""
    rows = [{"status": "done", "top1": top1, "val_loss": 3 - top1 / 100, "start": {"weights": "shared"}} for top1 in SCORED]
    folder = run_of_networks(tmp_path, [*rows, {"status": "done", "top1": 99.0}])
    values = {"macs_m": 1.0, "val_top1_pct": 30.0}
    network = nas.results(folder).iloc[0]
    proposal = {"id": network["id"], "architecture": network["architecture"], "weights": "shared"}
    write(folder, [start(7, values, **proposal), end(7, values)])
    return folder


def test_scores_are_compared_with_the_mean_over_seeds_of_each_network(run):
    for trial, score in enumerate(SCORED):
        alone(run, trial, score + 9, score + 11 + trial)
    alone(run, 6, 0.0)  # no scored network
    check = check_shared(run)
    assert (check.networks, check.seeds, check.epochs) == (6, 2, 3)
    assert check.difference_pct == pytest.approx(-10 - 2.5 / 2)
    half_width = 2.5706 * np.std([trial / 2 for trial in range(6)], ddof=1) / 6**0.5  # Student's t of 5 degrees of freedom
    assert check.interval == pytest.approx((check.difference_pct - half_width, check.difference_pct + half_width), abs=1e-3)
    rankings = dict(check.rankings)
    assert list(rankings) == [SCORES, "its loss", "multiply-adds", "parameters", CEILING]
    assert [rankings[name].kendall for name in (SCORES, "its loss", CEILING)] == pytest.approx([1.0, 1.0, 1.0])
    assert "-11.2 points on average, 95 % from -12.2 to -10.3 (6 networks, trained alone for 3 epochs" in str(check)


def test_a_wrong_order_and_costs_that_rank_better_show(run):
    macs = scored_networks(nas.results(run), 10)["macs_m"]
    assert len(macs) == len(SCORED)  # each network once
    for trial in macs.index.tolist():
        alone(run, trial, float(macs[trial]))
    rankings = dict(check_shared(run).rankings)
    assert rankings["multiply-adds"].kendall == pytest.approx(1.0)
    assert rankings[SCORES].kendall < 1
    assert CEILING not in rankings  # one seed alone


def test_one_network_has_no_ranking_and_its_accuracy_alone_is_a_column(run):
    assert check_shared(run) is None
    alone(run, 2, 50.0, 53.0)
    assert check_shared(run) is None
    df = nas.results(run).set_index("trial")
    assert df["alone_val_top1_pct"].dropna().to_dict() == {2: 51.5}
    assert df["alone_seeds"].dropna().to_dict() == {2: 2}
    alone_file(run, 2, 1).write_text("{")
    with pytest.raises(nas.NasError, match=r"trial2-seed1\.json is damaged"):
        nas.results(run)
