"""The table has a row for every trial and tells the front honestly."""

import io
import json
import resource
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

import nas
from nas.cli.output import print_front
from nas.plugins import load_plugin
from nas.records import append_record
from nas.runs.columns import HISTORY_TYPES, TYPES, documentation
from nas.runs.front import best, close_pairs
from nas.runs.results import select
from nas.runs.run_folder import TRIALS_FILE, read_experiment
from nas.runs.serialization import dataset_of
from nas.runs.table_file import write_table
from nas.runs.trial_log import read_history
from tests.made_up_runs import begin_run, describe_run, end, run_of_points, skip, start, write

DATA = Path(__file__).parents[1] / "data"
POINTS = [(80.0, 10.0), (85.0, 20.0), (85.0, 30.0), (90.0, 40.0)]


@pytest.fixture
def run(tmp_path):
    """Trials of every kind: done, of equal value, failed and under way when the search was killed."""
    run = begin_run(tmp_path)

    def line(trial, macs, top1):
        return end(trial, {"macs_m": macs, "val_top1_pct": top1})

    events = [start(trial, {"macs_m": macs}) for trial, macs in enumerate((10, 20, 20, 30, 5, 7))]
    skips = [skip("infeasible", {"macs_m": 90}), skip("infeasible", {"macs_m": 91})]
    failed = end(4, {"macs_m": 5}, status="failed", reason="oom", error="out of memory")
    write(run, [*events[:2], line(0, 10, 80.0), skips[0], events[2], line(2, 20, 85.0), line(1, 20, 85.0), events[3]])
    write(run, [line(3, 30, 84.0), events[4], failed, skips[1], events[5]])
    return run


@pytest.fixture
def points(tmp_path):
    """A run of done trials alone."""
    return run_of_points(tmp_path / "runs", POINTS)


def test_every_trial_is_a_row_with_typed_columns(run):
    df = nas.results(run)
    assert list(df["trial"].fillna(-1)) == [0, 1, -1, 2, 3, 4, -1, 5]
    assert list(df["status"]) == ["done", "done", "infeasible", "done", "done", "failed", "infeasible", "interrupted"]
    assert df.set_index("trial").loc[4, "reason"] == "oom"
    assert {column: str(df[column].dtype) for column in TYPES} == TYPES
    assert list(df["params.depth"].dropna()) == [0, 1, 2, 3, 4, 5]
    assert df["macs_m"].notna().all()
    assert df.attrs["directions"] == {"val_top1_pct": "maximize", "macs_m": "minimize"}
    assert nas.Architecture.from_json(df["architecture"][0]) == nas.reference("mobilenetv3_small_100")


def test_the_front_keeps_ties_and_leaves_out_what_is_not_done(run):
    df = nas.results(run)
    assert list(nas.front(df)["trial"]) == [1, 2, 0]  # best first objective first
    assert list(df["trial"][df["is_front"]]) == [0, 1, 2]
    assert list(nas.front(df, {"macs_m": "minimize"})["trial"]) == [0]


def test_best_breaks_ties_by_the_other_objectives_then_by_time(run):
    df = nas.results(run)
    assert best(df, "val_top1_pct")["trial"] == 1
    assert best(df, "macs_m")["trial"] == 0
    with pytest.raises(nas.NasError, match="objective 'macs' does not exist; did you mean 'macs_m'"):
        best(df, "macs")


def test_latencies_within_the_tables_error_are_not_ranked_unless_one_is_told_to(tmp_path, capsys):
    run = run_of_points(tmp_path, [(70.0, 4.0), (72.0, 4.1), (80.0, 5.0)], objectives=("val_top1_pct", "latency_ms"))
    df = nas.results(run)
    assert best(df, "latency_ms")["trial"] == 0  # of a table that nobody checked
    assert close_pairs(df) == {}
    describe_run(run, latency_error_pct=3.0)
    df = nas.results(run)
    assert df.attrs["table_error_pct"] == {"latency_ms": 3.0}
    with pytest.raises(
        nas.NasError, match=r"trial 0 \(4\) and trial 1 \(4.1\) differ on latency_ms by less than the 3.0 % error of"
    ):
        best(df, "latency_ms")
    assert best(df, "latency_ms", within_error=True)["trial"] == 0
    assert best(df, "val_top1_pct")["trial"] == 2
    print_front(df)
    assert "error, 3.0 %, is larger than the difference in latency_ms of trials 0 and 1\n" in capsys.readouterr().out


def test_a_torn_last_line_is_survived_and_a_damaged_one_named(run):
    with (run / TRIALS_FILE).open("a") as file:
        file.write('{"event": "end", "tri')
    assert len(nas.results(run)) == 8
    with (run / TRIALS_FILE).open("a") as file:
        file.write("al\n" + json.dumps(start(7, {})) + "\n")
    with pytest.raises(nas.NasError, match=r"trials\.jsonl: line 14 is damaged"):
        nas.results(run)


def test_a_run_without_trials_is_an_empty_table_with_its_columns(tmp_path):
    df = nas.results(begin_run(tmp_path))
    assert len(df) == 0
    assert {"val_top1_pct", "macs_m", *TYPES} <= set(df.columns)
    assert len(nas.front(df)) == 0
    with pytest.raises(nas.NasError, match="no trial here is done"):
        best(df, "macs_m")


def test_a_copy_elsewhere_reads_the_same(run, tmp_path):
    copy = run.rename(tmp_path / "elsewhere")
    assert len(nas.results(copy)) == 8
    assert len(nas.results(str(copy))) == 8


@pytest.mark.parametrize("line", ["1", "[]", "{}", '{"event": "end"}', '{"event": "end", "trial": 0, "values": 3}'])
def test_a_line_that_is_no_event_is_one_sentence(run, line):
    with (run / TRIALS_FILE).open("a") as file:
        file.write(line + "\n" + json.dumps(start(9, {})) + "\n")
    with pytest.raises(nas.NasError, match=r"trials\.jsonl"):
        nas.results(run)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', "null", '{"schema": 1}', "[" * 5000])
def test_a_damaged_or_newer_experiment_file_is_one_sentence(run, text):
    (run / "experiment.json").write_text(text)
    with pytest.raises(nas.NasError):
        nas.results(run)


def test_what_is_no_run_folder_is_said(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", "/dev/null"):
        with pytest.raises(nas.NasError, match="is not a run folder"):
            nas.results(path)


def test_two_runs_of_the_same_second_are_two_folders(tmp_path):
    assert len({begin_run(tmp_path) for _ in range(5)}) == 5


def test_a_run_says_what_it_was_and_where(run):
    described = read_experiment(run)
    assert described["space"]["fields"]["width_multiple"] == 0.35
    assert described["dataset"]["classes"] == list("0123456789")
    assert described["sessions"][0]["versions"]["torch"]
    assert described["sessions"][0]["machine"]["cpus"] > 0
    assert described["sessions"][0]["machine"]["processor"]
    assert dataset_of(described) == nas.dataset("digits")
    assert read_history(run) == []


def test_a_datasets_fields_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = load_plugin("dataset", str(DATA / "own_dataset.py"))
    again = dataset_of(read_experiment(begin_run(tmp_path, dataset=own)))
    assert (type(again).__name__, again.root, again.sizes) == ("Own", Path("a/b"), (1, 2))


def test_a_disk_that_fills_up_leaves_no_torn_line(run):
    """A limit on the size of files stands in for the disk: the line that does not fit is not begun."""
    log, before = run / TRIALS_FILE, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(nas.NasError, match=r"trials\.jsonl cannot be written: "):
            append_record(log, {"event": "a line of more than twenty characters"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.read_bytes().endswith(b"}\n")
    append_record(log, start(7, {}))
    assert len(nas.results(run)) == 9


def test_a_direction_that_does_not_exist_is_refused(run):
    with pytest.raises(nas.NasError, match="macs_m: 'up' is not one of minimize, maximize"):
        nas.front(nas.results(run), {"macs_m": "up"})


@pytest.mark.parametrize(
    ("conditions", "trials"),
    [
        ("macs_m < 30", [0, 1]),
        ("macs_m <= 30 and val_top1_pct > 80", [1, 2]),
        ("val_top1_pct == 85 and not is_front", [2]),
        ("status == 'done'", [0, 1, 2, 3]),
        ("device == 'cpu, 1 thread(s)' and trial in (1, 2)", [1, 2]),
        ("params.depth >= 3", [3]),  # a name with dots needs no backticks
        ("`params.depth` < 1", [0]),
        ("reason == 'oom'", []),
    ],
)
def test_conditions_choose_rows(points, conditions, trials):
    assert select(nas.results(points), conditions)["trial"].tolist() == trials


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ("macs < 60", "column 'macs' does not exist; did you mean 'macs_m'"),
        ("params.dept < 60", "column 'params.dept' does not exist; did you mean 'params.depth'"),
        ("macs_m < 'sixty'", "raised TypeError: Invalid comparison"),
        ("macs_m", "is not true or false for each row"),
        ("status = 'done'", "is not true or false for each row"),
        ("macs_m < 60, val_top1_pct > 3", "'macs_m < 60, val_top1_pct > 3' "),
        ("__import__('os').system('true')", "is not a supported function"),
        ("macs_m <", "raised SyntaxError"),
        ("", "raised ValueError: expr cannot be an empty string"),
    ],
)
def test_a_wrong_condition_is_one_sentence(points, conditions, sentence):
    with pytest.raises(nas.NasError, match=r"^where [^\n]*$") as caught:
        select(nas.results(points), conditions)
    assert sentence in str(caught.value)


def test_several_runs_are_one_table(points, tmp_path):
    three = ("val_top1_pct", "macs_m", "params_m")
    other = run_of_points(tmp_path / "runs", [(70.0, 5.0, 1.0)], "other", objectives=three)
    df = nas.results(points, other)
    assert df["run"].tolist() == [points.name] * 4 + [other.name]
    assert list(df.attrs["directions"]) == list(three)
    assert df.attrs["learning_curve"] == "val_top1_pct"
    assert {name: str(df[name].dtype) for name in TYPES} == TYPES
    assert df["is_front"].tolist() == [True, True, False, True, True]  # each of its own run
    assert nas.results(tmp_path / "runs")["run"].tolist() == sorted(df["run"])
    assert len(nas.results(points, points)) == 4
    assert nas.history(tmp_path / "runs").groupby("run").size().to_dict() == {points.name: 4, other.name: 1}


LOST = pytest.mark.parametrize(
    "lose",
    [
        lambda df: df.merge(pd.DataFrame({"trial": [0, 1], "colour": ["red", "blue"]}), on="trial", how="left"),
        lambda df: pd.concat([df, df.assign(run="other")]),
        lambda df: pd.DataFrame(df.to_dict("list")),
        lambda df: pd.read_csv(io.StringIO(df.to_csv(index=False))),
        lambda df: df.groupby("run").apply(lambda rows: rows.assign(run="grouped")),
        lambda df: df.assign(is_front=df["is_front"].astype(str), within_limits=df["within_limits"].astype(str)),
    ],
    ids=["merge", "concat", "dict", "csv", "groupby", "texts"],
)


@LOST
def test_a_table_that_has_lost_its_objectives_takes_them_or_says_what_to_give(points, lose):
    df = nas.results(points)
    directions = df.attrs["directions"]
    lost = lose(df)
    lost.attrs = {}
    for use in (nas.front, nas.plot_front, lambda table: nas.best(table, "macs_m")):
        with pytest.raises(nas.NasError, match=r"merge, concat and CSV files lose attrs; give directions=\{"):
            use(lost)
    assert nas.front(lost, directions)["trial"].drop_duplicates().tolist() == [3, 1, 0]
    assert nas.best(lost, "val_top1_pct", directions)["trial"] == 3
    assert select(lost, "status == 'done' and macs_m < 15")["trial"].drop_duplicates().tolist() == [0]
    lost.attrs["directions"] = directions
    assert nas.front(lost)["trial"].drop_duplicates().tolist() == [3, 1, 0]
    assert len(nas.plot_front(lost).data) > 1


@pytest.mark.parametrize("column", ["status", "within_limits", "macs_m", "id"])
def test_a_table_without_a_column_says_which(points, column):
    df = nas.results(points).drop(columns=column)
    with pytest.raises(nas.NasError, match=f"column '{column}' does not exist"):
        nas.best(df, "val_top1_pct")
    with pytest.raises(nas.NasError, match="column 'is_front' does not exist"):
        nas.front(nas.results(points).drop(columns="is_front"))


@pytest.fixture
def full_table(run):
    """Rows of every kind, of a run with a limit."""
    describe_run(run, limits=[nas.Limit(objective=nas.objective("macs_m"), high=25.0)])
    write(run, [start(7, {}, name="A\x1b[31m"), end(7, {}, status="failed", reason="diverged", error="\x1b[31mred: ä")])
    return nas.results(run)


def test_parquet_keeps_the_whole_table_and_what_it_means(full_table, tmp_path):
    file = tmp_path / "table.parquet"
    write_table(full_table, file)
    again = pd.read_parquet(file)
    pd.testing.assert_frame_equal(again, full_table)
    assert again.attrs == full_table.attrs
    assert again.attrs["limits"] == {"macs_m": [None, 25.0]}
    json.dumps(again.attrs, allow_nan=False)
    assert nas.front(again)["trial"].tolist() == nas.front(full_table)["trial"].tolist() == [1, 2, 0]


def test_csv_keeps_every_value(full_table, tmp_path):
    write_table(full_table, tmp_path / "table.csv")
    again = pd.read_csv(tmp_path / "table.csv", parse_dates=["started", "ended"])
    types = {name: kind for name, kind in TYPES.items() if not kind.startswith("datetime")}
    filled = again.dropna(axis=1, how="all").astype({name: kind for name, kind in types.items() if again[name].notna().any()})
    for name in filled:
        assert filled[name].dropna().tolist() == full_table[name].dropna().tolist(), name


def test_excel_takes_the_table_and_what_nothing_can_write_is_one_sentence(full_table, tmp_path):
    """Excel has no time zones and no control characters."""
    assert full_table["started"].dt.tz is None
    file = tmp_path / "table.xlsx"
    if find_spec("openpyxl") is None:
        with pytest.raises(nas.NasError, match=r"output: \.xlsx needs the package openpyxl, which cannot be imported"):
            write_table(full_table, file)
    else:
        write_table(full_table, file)
        again = pd.read_excel(file)
        assert again["id"].tolist() == full_table["id"].tolist()
        assert again["started"].dropna().tolist() == full_table["started"].dropna().tolist()
        assert again["error"].dropna().iloc[-1] == "[31mred: ä"
        full_table.drop(columns=["name", "error"]).to_excel(file)
    with pytest.raises(nas.NasError, match=r"table\.tsv ends in \.tsv, and tables are written as \.csv, \.xlsx, \.parquet"):
        write_table(full_table, tmp_path / "table.tsv")


def test_every_column_is_described_and_typed(points):
    assert (Path(__file__).parents[2] / "RESULTS.md").read_text() == documentation() + "\n"
    df, epochs = nas.results(points), nas.history(points)
    params = [column for column in df.columns if column.startswith("params.")]
    assert set(df.columns) == {*TYPES, *df.attrs["directions"], *params}
    assert {name: str(epochs[name].dtype) for name in epochs.columns} == HISTORY_TYPES
    assert (df["ended"] - df["started"]).dt.total_seconds().tolist() == [3600.0] * 4


def test_what_lacks_an_objective_is_on_no_front(points):
    known = {"val_top1_pct": 30.0}
    write(points, [start(9, known, source="reference", baseline=True), end(9, known)])
    df = nas.results(points)
    assert not df["is_front"].iloc[-1]
    assert best(df, "macs_m")["trial"] == 0


def test_what_is_no_point_of_the_space_is_on_no_front(tmp_path):
    run = begin_run(tmp_path)
    values = {"val_top1_pct": 99.0, "macs_m": 1.0}
    write(run, [start(0, values, params={}, source="reference", baseline=True), end(0, values)])
    assert nas.results(run)["is_front"].tolist() == [False]


def test_parameters_keep_their_types_where_a_baseline_has_none(tmp_path):
    run = run_of_points(tmp_path, POINTS[:2])
    for trial, params in {5: {"squeeze": True, "depth": 3}, 6: {"squeeze": False, "depth": 4}, 7: {}}.items():
        write(run, [start(trial, {"macs_m": 50.0}, params=params)])
    df = nas.results(run)
    assert select(df, "params.squeeze == True")["trial"].tolist() == [5]
    assert select(df, "params.squeeze != True")["trial"].tolist() == [6]
    assert select(df, "params.depth == 3")["trial"].tolist() == [5]
    assert str(df["params.depth"].dtype) == "Int64"
    both = nas.results(run, run_of_points(tmp_path, [(1.0, 1.0)], "other"))
    assert select(both, "params.squeeze == True")["trial"].tolist() == [5]


def test_the_best_of_several_runs_is_within_the_limits_of_its_own(tmp_path):
    one, other = (run_of_points(tmp_path, [(80.0, 10.0), (95.0, 40.0)], name) for name in ("one", "other"))
    for run in (one, other):
        describe_run(run, limits=[nas.Limit(objective=nas.objective("macs_m"), high=15.0)])
    assert best(nas.results(one), "val_top1_pct")["macs_m"] == 10.0
    assert best(nas.results(one, other), "val_top1_pct")["macs_m"] == 10.0


def test_a_table_that_a_full_disk_has_no_room_for_is_one_sentence(full_table):
    with pytest.raises(nas.NasError, match="/dev/full cannot be written: No space left on device; give another file"):
        write_table(full_table, Path("/dev/full"))
