"""The benchmark of shared weights continues where it was killed, and compares fronts as it says."""

import json

import pandas as pd
import pytest

from experiments.benchmarks.shared_weights import __main__ as benchmark
from experiments.benchmarks.shared_weights import equal_time, glue, looking, means
from experiments.benchmarks.shared_weights.measurements import Bench, Journal, Measurement, read_journal
from experiments.benchmarks.shared_weights.pace import Pace
from experiments.benchmarks.shared_weights.searches import Point, ever_on_front, front_at, seconds_until, share_pct

BENCH = Bench(experiments=["digits_mobilenetv3"], root=None, minutes=[2], seeds=[0], quick=True)
ROWS = pd.DataFrame({"at": [10.0, 20.0, 30.0], "val_top1_pct": [55.0, 50.0, 100.0], "macs_m": [1.0, 1.5, 0.5]})


def test_a_killed_benchmark_measures_only_what_is_left(tmp_path, monkeypatch, capsys):
    file, measured = tmp_path / "figures.jsonl", []

    def run(number, journal):
        measured.append(number)
        if number == 1 and len(measured) == 2:
            raise KeyboardInterrupt
        return {"seconds": number}

    def measurements(bench):
        for number in range(2):
            yield Measurement(key=bench.key("a", "x", number=number), seconds=60, run=lambda done, n=number: run(n, done))

    section = benchmark.Section(measurements, lambda bench, journal: (str(line["figures"]) for line in journal.lines))
    monkeypatch.setitem(benchmark.SECTIONS, "a", section)
    with pytest.raises(KeyboardInterrupt):
        benchmark.measure(["a"], BENCH, read_journal(file))
    with file.open("a") as lines:
        lines.write('{"key": {"section": "a", "exp')  # of a kill while it was written
    capsys.readouterr()
    benchmark.measure(["a", "a"], BENCH, read_journal(file))
    printed = capsys.readouterr().out.splitlines()
    assert measured == [0, 1, 1]
    assert printed[0] == "1 of 2 measurements, about 1 min"
    assert printed[-2:] == ["{'seconds': 0}", "{'seconds': 1}"]
    assert [json.loads(line)["figures"]["seconds"] for line in file.read_text().splitlines()] == [0, 1]


def test_a_quick_measurement_never_stands_for_a_full_one():
    full = Bench(experiments=[], root=None, minutes=[], seeds=[], quick=False)
    assert BENCH.key("a", "x", seed=0) != full.key("a", "x", seed=0)


def test_a_front_is_chosen_by_validation_and_judged_by_the_test_part():
    points = [Point(10.0, 55.0, 1.0, 40.0), Point(20.0, 60.0, 1.5, 30.0), Point(30.0, 99.0, 0.5, 55.0)]
    assert front_at(points, 25) == points[:2]
    assert front_at(points, 30) == points[2:]
    tuned = points[2]._replace(seconds=31.0, test_top1_pct=60.0)  # as accurate on the validation part as its slice
    assert front_at([*points, tuned], 31) == [tuned]
    assert share_pct([(55.0, 1.0), (40.0, 0.5)], chance_pct=10.0, macs_m=2.0) == pytest.approx(
        100 * (45 * 1 + 30 * 0.5) / (90 * 2)
    )


def test_seconds_until_counts_to_the_row_that_makes_the_front_good_enough():
    assert list(ever_on_front(ROWS)["at"]) == [10, 30]
    assert seconds_until(ROWS, 25.0, chance_pct=10.0, macs_m=2.0) == 10
    assert seconds_until(ROWS, 25.1, chance_pct=10.0, macs_m=2.0) == 30
    assert seconds_until(ROWS, 75.1, chance_pct=10.0, macs_m=2.0) is None


@pytest.mark.parametrize("seconds", [120, 900])
def test_a_search_is_sized_for_its_budget(seconds):
    pace = Pace(start=20, epoch=1.5, score=0.1, fine_tuning=0.4)
    sizes = pace.options(seconds, max_fine_tune=10)
    predicted = 20 + 1.5 * sizes["shared_epochs"] + 0.1 * sizes["shared_trials"] + 16 * 0.4 * sizes["fine_tune"]
    assert predicted == pytest.approx(seconds, abs=1.5)
    assert sizes["shared_trials"] <= 1000
    assert sizes["fine_tune"] <= 10


def test_every_summary_reads_what_its_section_measures():
    figures = {
        equal_time: {"seconds": 100.0, "max_macs_m": 2.0, "chance_pct": 10.0, "points": [[90.0, 55.0, 1.0, 55.0]]},
        looking: {"seconds": 400.0, "scored": 500, "scoring_seconds": 50.0, "macs_m_limit": 1.0, "second_seconds": 100.0}
        | {"second_scored": 50, "reused": 250, "mean_seconds": 10.0, "networks": 8},
        means: {"seconds": [15.0, 15.0], "top1_pct": [40.0, 50.0]},
        glue: {"networks": 24, "share_pct": 25.0, "seconds": 200.0, "seconds_until": 50.0},
    }
    lines = {}
    for section, of_each in figures.items():
        journal = Journal(file=None)
        for one in section.measurements(BENCH):
            scores = {"seconds": 120.0, "top1_pct": [30.0, 20.0] * 2, "macs_m": [1.0, 2.0] * 2}
            shared = scores if one.key.get("part") == "shared" else {}
            late = {"points": [[110.0, 55.0, 1.0, 55.0]]} if one.key.get("method") == "random search, alone" else {}
            journal.add(one.key, of_each | shared | late)
        lines[section] = "\n".join(section.summary(BENCH, journal))
    assert "FrontierSampler, alone  25.00 (25.00 to 25.00); shared weights have 1.000" in lines[equal_time]
    assert "random search, alone    0.00" in lines[equal_time]
    assert "1,000 networks: 100 s; trained alone, two at a time, 5,000 s (10.0 s each, mean of 8); ratio 0.0200" in lines[looking]
    assert "100 s; the first took 400 s; ratio 0.250" in lines[looking]
    assert "each alone for 15.0 s: mean 45.00 %, best 50.00 %\n  ratio of the means 0.556" in lines[means]
    assert "tau of scores with the trainings alone: -1.00" in lines[means]
    assert "tau of MACs with the trainings alone: 1.00" in lines[means]
    assert "nas search: as much in 1 of 1 searches; at its end 25.00 (25.00 to 25.00)\n    there after 50" in lines[glue]


def test_photographs_need_their_folder(capsys):
    assert benchmark.main(["--experiments", "imagenette_cpu"]) == 2
    out, error = capsys.readouterr()
    assert (out, error) == ("", "imagenette_cpu needs --root, a folder with Imagenette's train/ and val/\n")
