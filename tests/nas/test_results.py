"""What is read of runs: conditions, several runs at once, formats, comparisons, and how far to trust a ranking."""

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas.cli import run as command
from nas.columns import HISTORY_TYPES, TYPES, documentation
from nas.comparison import compare, of_difference
from nas.conditions import where
from nas.files import append_line
from nas.pareto import hypervolume
from nas.plugins import load_plugin
from nas.runs import CARD_FILE, FULL, HISTORY_FILE, TRIALS_FILE, create_run
from nas.table import results
from nas.trust import agreement, trust

README = Path(__file__).parents[2]
TEXT = nas.reference("mobilenetv3_small_100").to_json()


def made(folder, points, name="trial", objectives=("val_top1_pct", "macs_m")):
    """A run of done trials with these values."""
    asked = tuple(map(nas.objective, objectives))
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), objectives=asked, runs=str(folder))
    run = create_run(experiment, name)
    for trial, point in enumerate(points):
        values = dict(zip(objectives, point, strict=True))
        start = {"id": f"id{trial}", "params": {"depth": trial}, "source": "search", "architecture": TEXT, "values": values}
        append_line(run / TRIALS_FILE, {"event": "start", "time": f"2026-01-01T00:00:{trial:02}+00:00", "trial": trial} | start)
        end = {"status": "done", "epochs": 1, "seconds": 2.5, "device": "cpu, 1 thread(s)", "values": values}
        append_line(run / TRIALS_FILE, {"event": "end", "time": f"2026-01-01T00:01:{trial:02}+00:00", "trial": trial} | end)
        append_line(
            run / HISTORY_FILE,
            {"trial": trial, "epoch": 1, "train_loss": 1.0, "val_top1_pct": 50.0, "val_images": 9, "seconds": 2},
        )
    return run


def card(run, trial, seed, test, epochs=100):
    folder = run / FULL / f"trial{trial}-seed{seed}-epochs{epochs}"
    folder.mkdir(parents=True)
    accuracy = {"test_top1_pct": test, "val_top1_pct": test + 1}
    (folder / CARD_FILE).write_text(json.dumps({"accuracy": accuracy, "train": {"epochs": epochs}}))


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "runs", [(80.0, 10.0), (85.0, 20.0), (85.0, 30.0), (90.0, 40.0)])


@pytest.mark.parametrize(
    ("conditions", "trials"),
    [
        ("macs_m<30", [0, 1]),
        ("macs_m<=30, val_top1_pct>80", [1, 2]),
        ("val_top1_pct=85,macs_m!=20", [2]),
        ("status=done", [0, 1, 2, 3]),
        ('device="cpu, 1 thread(s)", is_front=false', [2]),
        ("params.depth>=3", [3]),
        ("ended>=2026-01-01T00:01:02", [2, 3]),
        ("reason=oom", []),
        ("reason!=oom", []),  # a row without a reason meets no condition on it
        ("macs_m > 1e1 , macs_m < 4e+1", [1, 2]),
    ],
)
def test_conditions_choose_rows(run, conditions, trials):
    assert where(nas.results(run), conditions)["trial"].tolist() == trials


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ("macs<60", "column 'macs' does not exist; did you mean 'macs_m'"),
        ("macs_m<sixty", "macs_m is a number, and 'sixty' is none"),
        ("macs_m", "'macs_m' does not begin with COLUMN<VALUE"),
        ("macs_m<60 val_top1_pct>3", "'macs_m<60 val_top1_pct>3' does not begin"),
        ("__import__('os').system('true')", "does not begin with COLUMN<VALUE"),
        ("status<done", "status is a text; compare it with = or !=, not <"),
        ("is_front>0", "is_front is true or false"),
        ("ended<soon", "ended is a time"),
        ("", "'' does not begin"),
        ("macs_m<<3", "does not begin"),
    ],
)
def test_a_wrong_condition_is_one_sentence(run, conditions, sentence, capsys):
    with pytest.raises(nas.NasError, match=r"^[^\n]*$") as caught:
        where(nas.results(run), conditions)
    assert sentence in str(caught.value)


PARTS = st.one_of(
    st.sampled_from(
        ["macs_m", "status", "front", "<", "<=", "=", "!=", ">", ",", '"', "1", "-1e3", "done", "true", " ", "nan", "="]
    ),
    st.text(max_size=3),
)


@given(st.lists(PARTS, max_size=8).map("".join))
def test_no_text_does_anything_but_choose_or_fail(text):
    df = pd.DataFrame({"macs_m": [1.0, None], "status": ["done", None], "front": [True, False]})
    with contextlib.suppress(nas.NasError):
        assert len(where(df, text)) <= 2


def test_several_runs_are_one_table(run, tmp_path, capsys):
    other = made(tmp_path / "runs", [(70.0, 5.0, 1.0)], "other", ("val_top1_pct", "macs_m", "params_m"))
    df = nas.results(run, other)
    assert df["run"].tolist() == [run.name] * 4 + [other.name]
    assert list(df.attrs["directions"]) == ["val_top1_pct", "macs_m", "params_m"]
    assert {name: str(df[name].dtype) for name in TYPES} == TYPES
    assert df["is_front"].tolist() == [True, True, False, True, True]  # each of its own run
    assert nas.results(tmp_path / "runs")["run"].tolist() == sorted(df["run"])
    assert len(nas.results(run, run)) == 4
    assert nas.history(tmp_path / "runs").groupby("run").size().to_dict() == {run.name: 4, other.name: 1}
    assert command(["table", str(tmp_path / "runs"), "--where", "macs_m<15"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_every_column_is_described_and_typed(run):
    assert (README / "RESULTS.md").read_text() == documentation() + "\n"
    df, epochs = nas.results(run), nas.history(run)
    params = [column for column in df.columns if column.startswith("params.")]
    assert set(df.columns) == {*TYPES, *df.attrs["directions"], *params}
    assert {name: str(epochs[name].dtype) for name in epochs.columns} == HISTORY_TYPES
    assert (df["ended"] - df["started"]).dt.total_seconds().tolist() == [60.0] * 4


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "markdown"])
def test_each_format_can_be_read_again(run, tmp_path, form, capsys):
    file = tmp_path / "out"
    assert command(["table", str(run), "--format", form, "--output", str(file), "--columns", "trial,macs_m,status"]) == 0
    if form == "markdown":
        assert file.read_text().splitlines()[:3] == ["| trial | macs_m | status |", "| --- | --- | --- |", "| 0 | 10 | done |"]
        return
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form](file)
    assert read["macs_m"].tolist() == [10.0, 20.0, 30.0, 40.0]
    assert list(read.columns) == ["trial", "macs_m", "status"]


def test_the_whole_table_is_piped_plainly(run, capsys):
    assert command(["table", str(run), "--format", "csv"]) == 0
    read = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(read.columns) == list(nas.results(run).columns)
    assert command(["table", str(run), "--best", "val_top1_pct", "--where", "macs_m<35", "--columns", "trial"]) == 0
    assert capsys.readouterr().out.split() == ["trial", "1"]  # of equals the one of fewer multiply-adds
    assert command(["table", str(run), "--sort", "macs_m", "--reverse", "--columns", "trial"]) == 0
    assert capsys.readouterr().out.split() == ["trial", "3", "2", "1", "0"]
    assert command(["table", str(run), "--sort", "val_top1_pct", "--columns", "trial"]) == 0
    assert capsys.readouterr().out.split() == ["trial", "3", "1", "2", "0"]  # the best first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sort", "mac_m"], "column 'mac_m' does not exist; did you mean 'macs_m'"),
        (["--columns", "trial,nothing"], "column 'nothing' does not exist"),
        (["--format", "parquet"], "format parquet is not text; give the file to write with --output"),
        (["--format", "csv", "--output", "/nowhere/at/all"], "/nowhere/at/all cannot be written"),
        (["--best", "macs"], "objective 'macs' does not exist"),
        (["--best", "macs_m", "--where", "macs_m<1"], "no trial here is done, so none is best on macs_m"),
    ],
)
def test_a_mistake_in_a_table_is_one_sentence(run, options, sentence, capsys):
    assert command(["table", str(run), *options]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1


def test_a_front_whose_networks_are_all_beaten_is_covered(tmp_path):
    better = made(tmp_path, [(90.0, 10.0), (95.0, 20.0)], "better")
    worse = made(tmp_path, [(80.0, 20.0), (85.0, 40.0)], "worse")
    found = compare(better, worse)
    assert (found.one.coverage, found.other.coverage) == (1.0, 0.0)
    # in the box from (95, 10) to (80, 40), scaled to a side of 1
    assert found.one.hypervolumes == pytest.approx((hypervolume([(1 / 3, 0.0), (0.0, 1 / 3)], (1.1, 1.1)) / 1.21,))
    assert found.other.hypervolumes == pytest.approx((hypervolume([(1.0, 1 / 3), (2 / 3, 1.0)], (1.1, 1.1)) / 1.21,))
    assert found.reference == pytest.approx((78.5, 43.0))
    assert found.one.attained[0] == 90.0
    assert math.isnan(found.other.attained[0])
    assert found.one.attained[-1] == 95.0
    assert "a side has one run alone" in found.verdict


def test_a_difference_is_told_from_noise_over_seeds(tmp_path):
    generator = np.random.default_rng(0)
    for seed in range(5):
        for name, gain in (("same", 0.0), ("again", 0.0), ("better", 5.0)):
            points = [(80 + gain + generator.normal(), 10.0), (85 + gain + generator.normal(), 20.0)]
            made(tmp_path / name, points, f"seed{seed}")
    assert "within the noise" in compare(tmp_path / "same", tmp_path / "again").verdict
    assert compare(tmp_path / "same", tmp_path / "better").verdict.startswith("the second is better by hypervolume: -")
    assert command(["compare", str(tmp_path / "better"), str(tmp_path / "same")]) == 0


@pytest.mark.parametrize("runs", [2, 3, 5, 8, 20])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(runs):
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        one, other = generator.normal(1.0, 1, runs), generator.normal(0.5, 1, runs)
        low, high = of_difference(one, other)
        held += low <= 0.5 <= high
    assert held / 300 > 0.91
    assert of_difference([0.5] * runs, [0.25] * runs) == (0.25, 0.25)


def test_the_order_of_objectives_and_baselines_change_no_comparison(run, tmp_path):
    points = [(80.0, 10.0), (85.0, 20.0), (85.0, 30.0), (90.0, 40.0)]
    turned = made(tmp_path / "turned", [point[::-1] for point in points], "turned", ("macs_m", "val_top1_pct"))
    found = compare(run, turned)
    assert found.one.hypervolumes == found.other.hypervolumes
    assert (found.one.coverage, found.other.coverage) == (0.0, 0.0)
    before = compare(run, made(tmp_path / "b", points[:2], "b"))
    with_baseline = made(tmp_path / "c", points[:2], "c")
    start = {"id": "best", "params": {"depth": 9}, "source": "reference", "architecture": TEXT, "baseline": True}
    values = {"values": {"val_top1_pct": 99.0, "macs_m": 1.0}}
    append_line(with_baseline / TRIALS_FILE, {"event": "start", "trial": 9} | start | values)
    append_line(with_baseline / TRIALS_FILE, {"event": "end", "trial": 9, "status": "done"} | values)
    assert nas.results(with_baseline)["is_baseline"].tolist() == [False, False, True]
    assert compare(run, with_baseline).other.hypervolumes == before.other.hypervolumes


def test_what_lacks_an_objective_is_on_no_front(run):
    start = {"id": "known in part", "params": {"depth": 9}, "source": "reference", "architecture": TEXT, "baseline": True}
    append_line(run / TRIALS_FILE, {"event": "start", "trial": 9, "values": {"val_top1_pct": 30.0}} | start)
    append_line(run / TRIALS_FILE, {"event": "end", "trial": 9, "status": "done", "values": {"val_top1_pct": 30.0}})
    df = nas.results(run)
    assert not df["is_front"].iloc[-1]
    assert nas.best(df, "macs_m")["trial"] == 0


def test_parameters_keep_their_types_where_a_baseline_has_none(tmp_path):
    run = made(tmp_path, [(80.0, 10.0), (85.0, 20.0)])
    for trial, params in {5: {"squeeze": True, "depth": 3}, 6: {"squeeze": False, "depth": 4}, 7: {}}.items():
        start = {"id": f"p{trial}", "params": params, "source": "search", "architecture": TEXT, "values": {"macs_m": 50.0}}
        append_line(run / TRIALS_FILE, {"event": "start", "trial": trial} | start)
    df = nas.results(run)
    assert where(df, "params.squeeze=true")["trial"].tolist() == [5]
    assert where(df, "params.squeeze!=true")["trial"].tolist() == [6]
    assert where(df, "params.depth=3")["trial"].tolist() == [5]
    assert str(df["params.depth"].dtype) == "Int64"
    both = nas.results(run, made(tmp_path, [(1.0, 1.0)], "other"))
    assert where(both, "params.squeeze=true")["trial"].tolist() == [5]


def test_the_best_of_several_runs_is_within_the_limits_of_its_own(tmp_path):
    one, other = (made(tmp_path, [(80.0, 10.0), (95.0, 40.0)], name) for name in ("one", "other"))
    for run in (one, other):
        file = run / "experiment.json"
        limit = {"objective": {"name": "macs_m"}, "low": "-inf", "high": 15.0}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"limits": [limit]}))
    assert nas.best(nas.results(one), "val_top1_pct")["macs_m"] == 10.0
    assert nas.best(nas.results(one, other), "val_top1_pct")["macs_m"] == 10.0


def test_brackets_in_a_cell_are_no_markup(run, monkeypatch, capsys):
    append_line(
        run / TRIALS_FILE, {"event": "start", "trial": 9, "id": "x", "params": {"depth": 9}, "architecture": TEXT, "values": {}}
    )
    append_line(
        run / TRIALS_FILE, {"event": "end", "trial": 9, "status": "failed", "reason": "crash", "error": "[/data/x.png] is gone"}
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    assert command(["table", str(run)]) == 0
    assert "[/data/x.png] is gone" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 1])
def test_runs_that_cannot_be_compared_are_said_to(run, tmp_path, number, capsys):
    other = made(tmp_path / "a", [], "none")
    sentence = "has found no network yet, so there is nothing to compare"
    if number == 1:
        other = made(tmp_path / "c", [(80.0, 1.0)], "c", ("val_top1_pct", "params_m"))
        sentence = f"{other.name} was searched for val_top1_pct (maximize), params_m (minimize), and {run.name} for val_top1_pct"
    assert command(["compare", str(run), str(other)]) == 2
    assert sentence in capsys.readouterr().err


def test_full_trainings_are_columns_and_tell_how_far_to_trust(run):
    assert trust(run) is None
    for trial, tests in {0: (70.0, 72.0), 1: (80.0, 82.0), 3: (90.0, 94.0)}.items():
        for seed, test in enumerate(tests):
            card(run, trial, seed, test)
    card(run, 0, 0, 10.0, epochs=5)  # of a shorter training: it is left out
    df = nas.results(run).set_index("trial")
    assert df.loc[3, ["full_test_top1_pct", "full_val_top1_pct", "full_seeds", "full_epochs"]].tolist() == [92, 93, 2, 100]
    assert df.loc[3, "full_test_sd_pct"] == pytest.approx(math.sqrt(8))
    assert df.loc[2, ["full_test_top1_pct", "full_seeds"]].isna().all()
    found = trust(run)
    assert (found.networks, found.seeds, found.kendall, found.interval) == (3, 2, 1.0, None)
    assert "1.00, too few for an interval (3 networks, 100 epochs, 2 seeds or more of each)" in str(found)
    card(run, 0, 0, 10.0, epochs=300)  # one network alone has that many epochs
    card(run, 77, 0, 10.0)  # of a trial that is not there
    assert trust(run).epochs == 100
    assert trust(run).kendall == 1.0
    (run / FULL / "trial1-seed0-epochs100" / CARD_FILE).write_text("{")
    with pytest.raises(nas.NasError, match="is damaged; remove its folder"):
        nas.results(run)


def test_the_interval_of_a_ranking_is_wide_where_seeds_disagree():
    searched = dict(enumerate(range(8)))
    steady = agreement(searched, {i: [i + 0.1, i - 0.1] for i in range(8)}, epochs=9)
    noisy = agreement(searched, {i: [i + 6.0, i - 6.0] for i in range(8)}, epochs=9)
    assert steady.interval == pytest.approx((1.0, 1.0))
    assert steady.kendall == noisy.kendall == pytest.approx(1)
    assert steady.interval[0] > 0.8 > noisy.interval[0] + 0.3
    assert results is nas.results
