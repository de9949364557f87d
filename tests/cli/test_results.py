"""What the commands print of runs, and how they answer a mistake."""

import io

import pandas as pd
import pytest

import nas
from nas.cli.app import run as command
from tests.made_up_runs import end, run_of_points, start, write


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of two runs, and the larger one of them."""
    folder = tmp_path_factory.mktemp("commands") / "runs"
    run = run_of_points(folder, [(80.0, 10.0), (85.0, 20.0), (85.0, 30.0), (90.0, 40.0)])
    error = "[/data/x.png] is gone"
    write(run, [start(9, {}), end(9, {}, status="failed", reason="crash", error=error)])
    run_of_points(folder, [(70.0, 5.0, 1.0)], "other", objectives=("val_top1_pct", "macs_m", "params_m"))
    return folder, run


@pytest.fixture
def printed(capsys):
    """The words of each line that a command prints."""

    def lines(*arguments):
        assert command([str(argument) for argument in arguments]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return lines


def test_a_table_has_every_trial_and_counts_them(runs, printed):
    head, *rows, counts = printed("table", runs[1])
    assert head == ["trial", "id", "status", "val_top1_pct", "macs_m", "seconds", "source", "name", "reason", "error"]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "9"]
    assert " ".join(counts) == "4 done, 0 stopped, 1 failed, 0 running"


def test_a_front_is_printed_the_best_first(runs, printed):
    rows = printed("table", runs[1], "--front")
    assert [row[0] for row in rows[1:-1]] == ["3", "1", "0"]
    assert rows[-1] == ["front:", "3", "of", "4", "done"]


def test_conditions_hold_for_fronts_and_the_best_and_for_several_runs(runs, printed):
    folder, run = runs
    assert [row[0] for row in printed("table", run, "--front", "--where", "macs_m < 30")[1:]] == ["1", "0"]
    (best,) = printed("table", run, "--best", "val_top1_pct", "--where", "macs_m < 35")[1:]
    assert best[0] == "1"  # of equals the one of fewer multiply-adds
    assert [row[:2] for row in printed("table", folder, "--where", "macs_m < 15")[1:]] == [
        [file.name, "0"] for file in sorted(folder.iterdir())
    ]
    assert printed("table", run, "--where", "macs_m < 1") == [["no", "row"]]


def test_the_whole_table_is_written_and_piped(runs, tmp_path, capfd):
    assert command(["table", str(runs[1]), "--output", str(tmp_path / "table.csv")]) == 0
    df = nas.results(runs[1])
    assert list(pd.read_csv(tmp_path / "table.csv").columns) == list(df.columns)
    assert command(["table", str(runs[1]), "--front", "--output", str(tmp_path / "table.parquet")]) == 0
    assert nas.front(pd.read_parquet(tmp_path / "table.parquet"))["trial"].tolist() == [3, 1, 0]
    capfd.readouterr()
    assert command(["table", str(runs[1]), "--front", "--output", "/dev/stdout"]) == 0
    assert pd.read_csv(io.StringIO(capfd.readouterr().out))["trial"].tolist() == [3, 1, 0]


def test_brackets_in_a_cell_are_no_markup(runs, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    assert command(["table", str(runs[1])]) == 0
    assert "[/data/x.png] is gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table", "RUN", "--where", "mac_m < 1"], "column 'mac_m' does not exist; did you mean 'macs_m'"),
        (["table", "RUN", "--output", "/nowhere/at/all"], "/nowhere/at/all cannot be written: No such file or directory"),
        (["table", "RUN", "--output", "table.tsv"], "table.tsv ends in .tsv, and tables are written as .csv, .xlsx, .parquet"),
        (["table", "RUN", "--best", "macs"], "objective 'macs' does not exist"),
        (["table", "RUN", "--best", "macs_m", "--where", "macs_m < 1"], "no trial here is done, so none is best on macs_m"),
        (["table"], "no run can be read"),
        (["report", "RUN", "--output", "nowhere/page.html"], "nowhere/page.html cannot be written: No such file or directory"),
        (["verify", "nothing"], "nothing is not a run folder"),
        (["verify", "RUN", "--top", 0], "top: 0 is not 1 or more"),
        (["dashboard", "nothing"], "nothing is not a run folder"),
        (["dashboard", "RUN", "--port", 0], "port: 0 is not from 1 to 65535"),
        (["compare", "RUN", "nothing"], "nothing is not a run folder"),
    ],
)
def test_a_mistake_is_one_sentence(runs, tmp_path, mistaken, arguments, sentence):
    assert sentence in mistaken(*(runs[1] if argument == "RUN" else argument for argument in arguments), cwd=tmp_path)
