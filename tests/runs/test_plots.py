"""A figure of results shows every done trial once, and its line goes through the front, in order."""

import pytest

import nas
from nas.runs.beliefs import Belief, write_beliefs
from tests.made_up_runs import begin_run, end, run_of_points, skip, start, write

POINTS = [(70.0, 30.0), (60.0, 10.0), (80.0, 40.0), (65.0, 20.0), (60.0, 25.0), (75.0, 45.0)]  # top-1, MACs


def points(trace):
    return list(zip(trace.x, trace.y, strict=True))


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_the_line_goes_through_the_front_from_left_to_right(tmp_path):
    df = nas.results(run_of_points(tmp_path, POINTS))
    drawn = traces(nas.plot_front(df))
    assert points(drawn["front"]) == [(10.0, 60.0), (20.0, 65.0), (30.0, 70.0), (40.0, 80.0)]
    assert sorted(points(drawn["front"])) == sorted(zip(nas.front(df)["macs_m"], nas.front(df)["val_top1_pct"], strict=True))
    assert points(drawn["trials"]) == [(25.0, 60.0), (45.0, 75.0)]
    assert drawn["front"].line.shape == "hv"


def test_axes_can_be_turned_and_their_titles_are_words(tmp_path):
    df = nas.results(run_of_points(tmp_path, POINTS))
    figure = nas.plot_front(df)
    titles = figure.layout.xaxis.title.text, figure.layout.yaxis.title.text
    assert titles == ("multiply-adds, millions", "top-1 on validation images, %")
    turned = nas.plot_front(df, x="val_top1_pct")
    assert (turned.layout.xaxis.title.text, turned.layout.yaxis.title.text) == titles[::-1]
    assert points(traces(turned)["front"]) == [(60.0, 10.0), (65.0, 20.0), (70.0, 30.0), (80.0, 40.0)]
    assert traces(turned)["front"].line.shape == "vh"
    assert nas.plot_front(df, y="macs_m").to_json() == turned.to_json()


def test_the_believed_top1_is_drawn_and_named(tmp_path):
    run = run_of_points(tmp_path, POINTS[:2])
    write_beliefs(run, {"id0": Belief(71.0, 1.0)})
    figure = nas.plot_front(nas.results(run))
    assert points(traces(figure)["front"]) == [(10.0, 60.0), (30.0, 71.0)]
    assert figure.layout.yaxis.title.text == "believed top-1 on validation images, %"
    assert "<br>believed top-1 on validation images, %: " in figure.data[1].hovertemplate


def test_what_is_not_done_is_left_out_and_the_hover_names_trial_id_and_objectives(tmp_path):
    run = begin_run(tmp_path)
    write(run, [start(0, {"macs_m": 5.0}), end(0, {"macs_m": 5.0, "val_top1_pct": 50.0})])
    write(run, [start(1, {"macs_m": 4.0}), end(1, {"macs_m": 4.0}, status="failed", reason="crash", error="e")])
    write(run, [start(2, {"macs_m": 3.0}), skip("infeasible", {"macs_m": 9.0})])
    figure = nas.plot_front(nas.results(run))
    assert [points(trace) for trace in figure.data if trace.x] == [[(5.0, 50.0)]]
    (trace,) = (trace for trace in figure.data if trace.x)
    assert trace.customdata.tolist() == [[0, "id0", 50.0, 5.0]]
    assert trace.hovertemplate.startswith("%{text}<br>%{customdata[1]}<br>top-1 on validation images, %: ")
    assert list(trace.text) == ["trial 0, trained"]


def test_scores_fine_tunings_and_trainings_have_symbols_of_their_own(tmp_path):
    df = nas.results(run_of_points(tmp_path, [(60.0, 10.0), (65.0, 20.0), (70.0, 30.0)]))
    df["weights"] = ["shared", "fine-tuned", "trained"]
    line = traces(nas.plot_front(df))["front"]
    assert list(line.marker.symbol) == ["circle-open", "diamond", "circle"]
    assert list(line.text) == ["trial 0, shared", "trial 1, fine-tuned", "trial 2, trained"]


def test_the_front_is_that_of_the_objectives_drawn(tmp_path):
    names = ("val_top1_pct", "macs_m", "params_m")
    df = nas.results(run_of_points(tmp_path, [(80.0, 20.0, 5.0), (70.0, 30.0, 1.0), (60.0, 10.0, 9.0)], objectives=names))
    assert df["is_front"].all()
    assert points(traces(nas.plot_front(df))["front"]) == [(10.0, 60.0), (20.0, 80.0)]
    assert points(traces(nas.plot_front(df, x="params_m"))["front"]) == [(1.0, 70.0), (5.0, 80.0)]


def test_several_runs_have_a_colour_each(tmp_path):
    runs = [run_of_points(tmp_path, POINTS[i:], name) for i, name in enumerate(["first", "second"])]
    drawn = traces(nas.plot_front(nas.results(*runs)))
    assert len(drawn) == 4
    fronts = [trace for name, trace in drawn.items() if name.endswith(": front")]
    assert len({trace.line.color for trace in fronts}) == 2
    assert all(drawn[trace.name.replace("front", "trials")].marker.color == trace.line.color for trace in fronts)
    assert points(fronts[1]) == [(10.0, 60.0), (20.0, 65.0), (40.0, 80.0)]


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [("val_top1_pct", [50.0, 40.0, 60.0, 60.0, 70.0], [0, 2, 4]), ("macs_m", [50.0, 60.0, 40.0, 45.0, 30.0], [0, 2, 4])],
)
def test_one_objective_is_drawn_over_the_trials_with_its_best_so_far(tmp_path, name, values, best):
    df = nas.results(run_of_points(tmp_path, [(value,) for value in values], objectives=(name,)))
    figure = nas.plot_front(df)
    assert figure.layout.xaxis.title.text == "trial"
    assert points(traces(figure)["best so far"]) == [(trial, values[trial]) for trial in best]
    assert sorted(point for trace in figure.data for point in points(trace)) == list(enumerate(values))


def test_a_run_without_a_done_trial_is_an_empty_figure(tmp_path):
    assert not any(trace.x for trace in nas.plot_front(nas.results(begin_run(tmp_path))).data)


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"x": "macs"}, "objective 'macs' does not exist; did you mean 'macs_m'"),
        ({"y": "seconds"}, "objective 'seconds' does not exist; known: macs_m, val_top1_pct"),
        ({"x": "macs_m", "y": "macs_m"}, "x and y are both 'macs_m'; draw two objectives out of val_top1_pct, macs_m"),
    ],
)
def test_a_wrong_axis_is_one_sentence(tmp_path, axes, sentence):
    df = nas.results(run_of_points(tmp_path, POINTS))
    with pytest.raises(nas.NasError, match=sentence):
        nas.plot_front(df, **axes)
