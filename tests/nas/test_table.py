"""The table has a row for every trial and tells the front honestly."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas.columns import TYPES
from nas.description import dataset_of
from nas.files import append_line, read_lines
from nas.pareto import non_dominated
from nas.plugins import load_plugin
from nas.printing import print_front
from nas.runs import HISTORY_FILE, TRIALS_FILE, create_run, read_experiment
from nas.table import best

TEXT = nas.reference("mobilenetv3_small_100").to_json()


def start(trial, macs, event="start"):
    known = {"event": event, "id": f"id{trial}", "values": {"macs_m": macs}}
    if event == "infeasible":
        return known
    return known | {"trial": trial, "params": {"depth": trial}, "source": "search", "architecture": TEXT}


def end(trial, macs, top1, status="done", reason=None):
    values = {"macs_m": macs} | ({"val_top1_pct": top1} if status == "done" else {})
    return {
        "event": "end",
        "trial": trial,
        "epochs": 2,
        "status": status,
        "reason": reason,
        "error": reason,
        "values": values,
    } | {
        "seconds": 1.5,
        "fingerprint": "f",
        "device": "cpu",
        "precision": "float32",
        "peak_memory_mb": None,
    }


@pytest.fixture
def run(tmp_path):
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), runs=str(tmp_path))
    folder = create_run(experiment, "trial")
    events = [start(0, 10), start(1, 20), end(0, 10, 80.0), start("x", 90, "infeasible")]
    events += [start(2, 20), end(2, 20, 85.0), end(1, 20, 85.0), start(3, 30), end(3, 30, 84.0)]
    events += [start(4, 5), end(4, 5, 0, "failed", "oom"), start("y", 91, "infeasible"), start(5, 7)]
    for event in events:
        append_line(folder / TRIALS_FILE, event)
    return folder


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
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), runs=str(tmp_path))
    names = (nas.objective("val_top1_pct"), nas.objective("latency_ms"))
    run = create_run(replace(experiment, objectives=names), "trial")
    file = run / "experiment.json"
    for trial, (ms, top1) in enumerate([(4.0, 70.0), (4.1, 72.0), (5.0, 80.0)]):
        event = end(trial, 0, top1)
        append_line(run / TRIALS_FILE, start(trial, 0) | {"values": {"latency_ms": ms}})
        append_line(run / TRIALS_FILE, event | {"values": {"latency_ms": ms, "val_top1_pct": top1}})
    assert best(nas.results(run), "latency_ms")["trial"] == 0  # of a table that nobody checked
    file.write_text(file.read_text().replace('"latency_error_pct": null', '"latency_error_pct": 3.0'))
    df = nas.results(run)
    with pytest.raises(nas.NasError, match=r"trial 0 \(4 ms\) and trial 1 \(4.1 ms\) are nearer than the 3.0 % by which"):
        best(df, "latency_ms")
    assert best(df, "latency_ms", within_error=True)["trial"] == 0
    assert best(df, "val_top1_pct")["trial"] == 2
    print_front(df)
    assert "errs by 3.0 %, and does not tell apart, by latency_ms, trials 0 and 1\n" in capsys.readouterr().out


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)).map(lambda t: tuple(map(float, t))), max_size=40)
)
def test_non_dominated_is_the_definition(points):
    def beaten(point):
        return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)

    assert non_dominated(points) == [not beaten(point) for point in points]


def test_a_torn_last_line_is_survived_and_a_damaged_one_named(run):
    with (run / TRIALS_FILE).open("a") as file:
        file.write('{"event": "end", "tri')
    assert len(nas.results(run)) == 8
    with (run / TRIALS_FILE).open("a") as file:
        file.write("al\n" + json.dumps(start(7, 1)) + "\n")
    with pytest.raises(nas.NasError, match=r"trials\.jsonl: line 14 is damaged"):
        nas.results(run)


def test_a_run_without_trials_is_an_empty_table_with_its_columns(tmp_path):
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), runs=str(tmp_path))
    df = nas.results(create_run(experiment, "empty"))
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
        file.write(line + "\n" + json.dumps(start(9, 1)) + "\n")
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
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), runs=str(tmp_path))
    assert len({create_run(experiment, "same") for _ in range(5)}) == 5


def test_a_run_says_what_it_was_and_where(run):
    described = read_experiment(run)
    assert described["space"]["fields"]["width_multiple"] == 0.35
    assert described["dataset"]["classes"] == list("0123456789")
    assert described["sessions"][0]["versions"]["torch"]
    assert described["sessions"][0]["machine"]["cpus"] > 0
    assert described["sessions"][0]["machine"]["processor"]
    assert dataset_of(described) == nas.dataset("digits")
    assert list(read_lines(run / HISTORY_FILE)) == []


def test_a_datasets_fields_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_dataset.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n@dataclass(frozen=True)\nclass Own:\n"
        "    root: Path = Path('a/b')\n    sizes: tuple = (1, 2)\n    name = 'own'\n    classes = ('x',)\n"
        "    mean = std = (0.5, 0.5, 0.5)\n    mirrors = False\n    def load(self, part): ...\nDATASET = Own()\n"
    )
    own = load_plugin("dataset", str(tmp_path / "own_dataset.py"))
    experiment = replace(load_plugin("experiment", "digits_mobilenetv3"), runs=str(tmp_path), dataset=own)
    again = dataset_of(read_experiment(create_run(experiment, "fields")))
    assert (type(again).__name__, again.root, again.sizes) == ("Own", Path("a/b"), (1, 2))


def test_ten_thousand_points_find_their_front():
    generator = random.Random(0)
    points = [(generator.random(), generator.random()) for _ in range(10_000)]
    assert 2 <= sum(non_dominated(points)) < 40


def test_a_disk_that_fills_up_leaves_no_torn_line(run):
    """A limit on the size of files stands in for the disk: the line that does not fit is not begun."""
    script = f"""
import resource
from pathlib import Path
import nas
from nas.runs import append
log = Path({str(run / TRIALS_FILE)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20, resource.RLIM_INFINITY))
try:
    append_line(log, {{"event": "a line of more than twenty characters"}})
except nas.NasError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "trials.jsonl cannot be written: " in answer.stdout
    assert (run / TRIALS_FILE).read_bytes().endswith(b"}\n")
    append_line(run / TRIALS_FILE, start(7, 1))
    assert len(nas.results(run)) == 9


def test_a_direction_that_does_not_exist_is_refused(run):
    with pytest.raises(nas.NasError, match="macs_m: 'up' is not one of minimize, maximize"):
        nas.front(nas.results(run), {"macs_m": "up"})
