"""Objectives that are only to look at are columns and axes of a run, and take no part in its search."""

import pytest

import nas
from nas.cli.app import run as command
from nas.runs.compare import predictors
from nas.runs.listing import summarize
from nas.runs.optuna_study import RunStudy
from nas.runs.report import gather
from tests.made_up_runs import begin_run, end, run_of_points, start, write

OBJECTIVES = ("naswot", "val_top1_pct", "macs_m", "zico")
POINTS = [(100.0 + i, 50.0 + i, 30.0 - i, 7.0 * (i % 2)) for i in range(8)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which NASWOT ranks as top-1 does, MACs the other way round, and a trial has no ZiCo."""
    run = run_of_points(tmp_path_factory.mktemp("proxies"), POINTS, objectives=OBJECTIVES)
    done = {"val_top1_pct": 1.0, "macs_m": 99.0, "naswot": 999.0}
    write(run, [start(8, done, weights="shared"), end(8, done | {"val_top1_pct": 2.0}), start(9, done), end(9, done)])
    return run


def test_they_are_columns_but_steer_nothing(run):
    df = nas.results(run)
    assert df.attrs["directions"] == {"val_top1_pct": "maximize", "macs_m": "minimize"}
    assert df.attrs["proxies"] == ["naswot", "zico"]
    assert df["trial"][df["status"] == "done"].tolist() == list(range(10))
    assert df["zico"].isna().tolist() == [False] * 8 + [True] * 2
    assert nas.front(df)["trial"].tolist() == [7]  # the most accurate and cheapest
    assert [len(trial.values) for trial in RunStudy(run).study.trials] == [2] * 10
    assert summarize(run).best == "val_top1_pct 57"
    with pytest.raises(nas.NasError, match="objective 'naswot' does not exist"):
        nas.best(df, "naswot")


def test_their_ranking_is_compared_with_that_by_top1_beside_the_costs(run, capsys):
    naswot, zico, macs = predictors(nas.results(run))
    assert [one.name for one in (naswot, zico, macs)] == ["naswot", "zico", "macs_m"]
    assert [one.networks for one in (naswot, zico, macs)] == [9, 8, 9]  # not the network scored with shared weights
    assert naswot.agreement.kendall == pytest.approx((28 - 8) / 36)
    assert macs.agreement.kendall == pytest.approx(-1)
    assert command(["table", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"macs_m         9  {macs.agreement}"


def test_few_networks_have_no_such_ranking(tmp_path, capsys):
    run = run_of_points(tmp_path, POINTS[:7], objectives=OBJECTIVES)
    assert [str(one) for one in predictors(nas.results(run))] == ["too few networks"] * 3
    assert predictors(nas.results(run_of_points(tmp_path, [(1.0, 2.0)], "none"))) == []


def test_they_are_axes_of_the_page(run):
    data = gather(run)
    assert data["objectives"] == [["val_top1_pct", "maximize"], ["macs_m", "minimize"]]
    assert data["groups"]["only to look at"] == ["naswot", "zico"]
    assert "limits" not in data["groups"]
    assert data["columns"]["naswot"][:2] == [100.0, 101.0]
    assert [row[:2] for row in data["predictors"]] == [["naswot", "9"], ["zico", "8"], ["macs_m", "9"]]


@pytest.mark.parametrize("objectives", [("naswot",), ("naswot", "macs_m")])
def test_they_need_an_objective_that_is_trained(tmp_path, objectives):
    sentence = (
        "objectives: naswot can only be looked at beside an objective to search by that needs training, such as val_top1_pct"
    )
    with pytest.raises(nas.NasError, match=sentence):
        begin_run(tmp_path, objectives=objectives)
