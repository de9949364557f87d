"""A search with --trials auto ends once a further trial is hardly worth it, not before, and says so."""

import logging
import math
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from ray.tune.search import Searcher
from rich.console import Console

import nas
from nas.cli.progress import _SearchProgress
from nas.runs.experiment import share_of
from nas.runs.listing import summarize
from nas.runs.run_folder import read_experiment, write_experiment
from nas.runs.trial import Outcome, Reason, Status
from nas.runs.trial_log import read_trials
from nas.searching.ending import MIN_CHECKED, NUM_ADDED, NUM_RECENT, Growth, added_share
from nas.searching.plan import FinishedError, check_unfinished, next_experiment, record_session, was_over
from tests.simulated_search import EXPERIMENT, Played, new_run, next_session


def grown(trials):
    """The growth after trials, each with what was expected of it, what it added and its surprise, or None."""
    growth = Growth()
    for expected, added, surprise in trials:
        growth.expected += [] if expected is None else [expected]
        growth.end(added, surprise)
    return growth


def saturating(played, name):
    """A top-1 that grows with the multiply-adds."""
    return 97 - 10 * math.exp(-played.cost(name) / 0.4)


def play(played, *, most=150, workers=1, accuracy=saturating):
    """Play a search, with trials that end in the order in which they began, until it ends: the number of its trials."""
    number, running = 0, []
    while number < most:
        name = f"s{played.state.session.number}-{number}"
        text = played.ask(name)
        if text == Searcher.FINISHED:
            break
        if text is not None:
            number += 1
            running.append((name, accuracy(played, name)))
        if text is None or len(running) == workers:
            played.finish(*running.pop(0))
    return number


def test_the_estimate_is_the_mean_of_the_latest_expectations():
    growth = grown([(0.5, 0.1, 0.0), *[(0.001, 0.0, 0.0), (0.003, 0.0, 0.0)] * (NUM_RECENT // 2)])
    assert (growth.gain.mean, growth.gain.deviation) == pytest.approx((0.002, 0.002))
    assert str(growth.gain) == "0.20 % (± 0.20 %)"


def test_a_surrogate_that_errs_is_trusted_less():
    right, wrong = grown([(0.0005, 0.0, 0.5)] * 12), grown([(0.0005, 0.0, 2.0), (0.0005, 0.0, -2.0)] * 6)
    assert (right.gain.mean, right.gain.deviation) == pytest.approx((0.0005, 0.0005))
    assert (wrong.gain.mean, wrong.gain.deviation) == pytest.approx((0.0005, 0.001))
    assert right.is_over(0.002, 1)
    assert not wrong.is_over(0.002, 1)


def test_a_search_is_over_only_where_twice_the_deviation_does_not_reach_the_gain():
    growth = grown([(0.001, 0.0, 0.0)] * 20)
    assert not growth.is_over(0.00299, 1)
    assert growth.is_over(0.00301, 1)


def test_a_search_is_not_over_before_eight_predicted_outcomes_are_known():
    trials = [(0.0, 0.0, 0.0)] * MIN_CHECKED
    assert not grown(trials[:-1]).is_over(0.002, 1)
    assert grown(trials).is_over(0.002, 1)
    assert not grown([(None, 0.0, None)] * NUM_ADDED + trials[:-1]).is_over(0.002, 1)
    assert not grown([(0.0, 0.0, None)] * NUM_ADDED).is_over(0.002, 1)  # all failed or stopped


def test_the_growth_must_stay_low_for_as_many_trials_as_there_are_workers():
    growth = grown([(0.0001, 0.0, 0.0)] * (MIN_CHECKED + 2))
    assert growth.is_over(0.002, 3)
    assert not growth.is_over(0.002, 4)
    growth.expected.append(0.5)
    growth.end(0.0, 0.0)
    assert not growth.is_over(0.002, 1)


def test_without_expectations_what_the_latest_trials_added_counts():
    assert grown([(None, None, None)] * 50).gain is None
    assert not grown([(None, None, None)] * 50).is_over(0.5, 1)
    growth = grown([(None, 0.5, None)] + [(None, 0.0, None)] * (NUM_ADDED - 1))
    assert (growth.gain.mean, growth.gain.deviation) == pytest.approx((0.5 / 48, 0.5 * math.sqrt(47) / 48))
    assert not growth.is_over(0.002, 1)
    growth.end(0.0, None)
    assert growth.is_over(0.002, 1)


def test_a_surrogate_that_expects_growth_for_ever_is_not_believed():
    growth = grown([(0.014, 0.04, 0.0)] + [(0.014, 0.0, 0.0)] * (NUM_ADDED - 1))
    assert not growth.is_over(0.002, 1)
    growth.end(0.0, 0.0)
    assert growth.is_over(0.002, 1)
    assert str(growth.gain) == "0.00 % (± 0.00 %)"


def test_what_a_trial_adds_is_a_share_of_the_hypervolume_before():
    before, after = [(0.0, 1.0)], [(0.0, 1.0), (1.0, 0.0)]
    assert added_share([], before, before) is None
    assert added_share(before, before, after) == 0.0
    assert added_share(before, after, after) == pytest.approx((0.1 * 1.1 + 1.0 * 0.1) / (1.1 * 0.1) - 1)
    assert added_share([(1.0,)], [(0.5,)], [(2.0,), (1.0,), (0.5,)]) == pytest.approx(1.65 / 1.15 - 1)


@pytest.mark.parametrize(("sampler", "workers", "least"), [("frontier", 1, 14), ("frontier", 3, 14), ("random", 2, 49)])
def test_a_search_ends_by_itself_and_says_why(tmp_path, caplog, sampler, workers, least):
    caplog.set_level(logging.INFO, "nas")
    played = new_run(tmp_path, trials="auto", min_gain="1 %", sampler=sampler, workers=workers)
    assert played.searcher.phases()[0].total is None
    number = play(played, workers=workers)
    assert least <= number < 100
    assert not played.searcher.close()
    assert played.searcher.phases() == [("trainings", number, number)]
    (line,) = [text for text in caplog.messages if text.startswith("the search is over")]
    assert f"is over after {number - workers + 1} trials: a further one is expected to add 0." in line
    assert line.endswith("to the hypervolume, hardly as much as --min-gain 1 %")
    ends = [text for text in caplog.messages if "/auto trial" in text]
    assert ends[-1].startswith(f"{number}/auto trial ")
    assert "; growth 0." in ends[-1]
    assert "growth" not in ends[0]


def test_a_surprise_is_what_the_training_measured_against_the_prediction(tmp_path):
    played = new_run(tmp_path, trials=20, workers=1)
    assert play(played) == 20
    predicted = [trial for trial in played.study.trials if "frontier:predicted" in trial.system_attrs]
    surprises = []
    for trial in predicted:
        mean, deviation = trial.system_attrs["frontier:predicted"]
        surprises.append((trial.values[0] - mean) / deviation)
    assert len(surprises) >= 4
    assert played.state.growth.surprises == pytest.approx(surprises)
    assert played.state.growth.expected == [trial.system_attrs["frontier:growth"] for trial in predicted]


def test_a_smaller_gain_takes_more_trials(tmp_path):
    numbers = [play(new_run(tmp_path / text, trials="auto", min_gain=text, workers=1)) for text in ("5%", "0.6%")]
    assert numbers[0] < numbers[1] < 150


def test_an_objective_alone(tmp_path):
    played = new_run(tmp_path, trials="auto", min_gain="1%", workers=1, objectives=EXPERIMENT.objectives[:1])
    number = play(played, accuracy=lambda played, name: 90 - 5 / (1 + len(played.state.trials)))
    assert 14 <= number < 100


def test_trials_that_fail_or_are_reused_are_no_reason_to_end(tmp_path):
    played = new_run(tmp_path, trials="auto", min_gain="1%", sampler="random", workers=1)
    for i in range(19):
        played.ask(f"t{i}")
        played.end(f"t{i}", Outcome(status=Status.FAILED, reason=Reason.DIVERGED, error="the loss was nan"))
    assert not played.searcher.over
    assert played.searcher.failure is None
    assert played.state.growth.added == []
    source = new_run(tmp_path / "source", trials=8, workers=1)
    source.play(8)
    again = new_run(tmp_path, trials="auto", reuse=(str(source.run),), sampler="random", workers=1)
    again.ask("x")
    assert again.tally.reused == 8
    assert again.state.growth.added == []


def test_twenty_failures_in_a_row_end_a_search_without_a_number(tmp_path):
    failed = Outcome(status=Status.FAILED, reason=Reason.OOM, error="out of memory")
    for trials, ends in (("auto", True), (30, False)):
        played = new_run(tmp_path, trials=trials, sampler="random", workers=1)
        for i in range(20):
            assert played.searcher.failure is None
            played.ask(f"t{i}")
            played.end(f"t{i}", failed)
        assert (played.searcher.failure is not None) == ends
        if ends:
            assert str(played.searcher.failure) == "the last 20 trials failed, the last one with: out of memory"


def test_a_search_with_a_number_goes_on_to_it_and_shows_its_growth(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nas")
    played = new_run(tmp_path, trials=30, min_gain="100%", workers=1)
    assert play(played) == 30
    assert any(text.startswith("30/30 trial 29 done") and text.endswith(" %) a trial") for text in caplog.messages)


def test_the_display_shows_the_growth_and_no_total(tmp_path):
    played = new_run(tmp_path, trials="auto", workers=1)
    assert "no network yet" in shown(played)
    played.play(1)
    assert "growth" not in shown(played)
    played.play(3)
    assert " 4/? " in shown(played)
    assert "growth" not in shown(played)  # what the first trials add says little of the next
    played.play(16)
    assert f"growth {played.state.growth.gain} a trial" in shown(played)


def test_the_display_goes_by_what_is_believed_as_the_table_does(tmp_path):
    played = new_run(tmp_path, trials="auto", workers=1)
    played.play(7)
    assert re.search(r"hypervolume [01]\.\d{3}$", shown(played).strip())
    played.play(5)
    played.state.update_beliefs(at_once=True)
    front = nas.front(played.results)
    best = f"best val_top1_pct {front['val_top1_pct_believed'].max():.4g}, macs_m {front['macs_m'].min():.4g}"
    text = " ".join(shown(played).split())
    assert f"{best}; front {len(front)}, hypervolume " in text
    assert text.endswith(", as believed")


def test_the_display_of_a_search_that_is_over_counts_what_still_runs(tmp_path):
    played = new_run(tmp_path, trials="auto", min_gain="3%", workers=2)
    names = [f"t{i}" for i in range(100)]
    played.ask("t0")
    for ended, following in pairwise(names):
        played.ask(following)
        played.finish(ended, saturating(played, ended))
        if played.searcher.over:
            break
    assert f" {played.tally.ended}/{played.tally.ended + 1} " in shown(played)
    played.finish(following, saturating(played, following))
    assert f" {played.tally.ended}/{played.tally.ended} " in shown(played)


def shown(played):
    """What the display of a search shows."""
    progress, console = _SearchProgress(played.searcher), Console(width=200)
    with console.capture() as capture:
        for part in progress.get_renderables():
            console.print(part)
    return capture.get()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that ended by itself."""
    played = new_run(tmp_path_factory.mktemp("auto"), trials="auto", min_gain="3%", workers=1)
    assert play(played) < 60
    assert not played.searcher.close()
    write_experiment(played.run, read_experiment(played.run) | {"finished": True})
    return played.run


def test_a_run_that_ended_by_itself_is_finished(ended):
    number = len(read_trials(ended))
    sentence = f"is finished: it ended by itself after {number} trials; extend it with --trials {2 * number} or a smaller --min"
    with pytest.raises(nas.NasError, match=sentence):
        nas.resume(ended)
    with pytest.raises(FinishedError):
        nas.resume(ended, min_gain="4%")
    summary = summarize(ended)
    assert (summary.state, summary.trials) == ("finished", f"{number}/auto")


@pytest.mark.parametrize("changes", [{"trials": 70}, {"min_gain": "1%"}])
def test_more_trials_or_a_smaller_gain_extend_it(ended, changes, tmp_path):
    run = tmp_path / ended.name
    shutil.copytree(ended, run)
    described, past = read_experiment(run), read_trials(run)
    after = next_experiment(described, run, None, changes)
    again = next_session(run, workers=1, **{"trials": "auto", "min_gain": "3%"} | changes)
    check_unfinished(run, after, again.state.session.plan, past, over=was_over(described, after))
    assert play(again) >= min(8, 70 - len(past))


def test_a_search_that_is_over_stays_so_however_its_last_trainings_end(tmp_path):
    played = new_run(tmp_path, trials="auto", min_gain="3%", workers=1)
    play(played)
    described = read_experiment(played.run)
    assert described["over"]
    assert not described.get("finished", False)  # Ctrl-C came before the driver wrote that
    experiment = played.state.session.experiment
    assert was_over(described, experiment)
    record_session(played.run, described, replace(experiment, baselines=("mobilenetv2_035",)), over=True)
    assert was_over(read_experiment(played.run), experiment)
    assert not was_over(read_experiment(played.run), replace(experiment, min_gain="1%"))


def test_a_resumed_search_checks_eight_more_outcomes(ended, tmp_path):
    run = tmp_path / ended.name
    shutil.copytree(ended, run)
    assert play(next_session(run, trials="auto", min_gain="100%", workers=1)) == MIN_CHECKED


def test_a_baseline_of_a_run_that_is_over_proposes_nothing_else(ended, tmp_path):
    run = tmp_path / ended.name
    shutil.copytree(ended, run)
    fields = {"trials": "auto", "min_gain": "3%", "baselines": ("mobilenetv2_035",)}
    played = Played(replace(next_session(run, **fields).state.session, over=True), workers=1)
    played.ask("x")
    assert [one.name for one in played.searcher.active] == ["mobilenetv2_035"]
    played.finish("x", 90.0)
    assert played.ask("y") == Searcher.FINISHED
    assert not played.searcher.close()


@pytest.mark.parametrize("text", ["0.2", "0%", "101%", "-1%", "a %", "", 0.002])
def test_a_gain_that_is_no_percentage_is_refused(text):
    with pytest.raises(nas.NasError, match=r"min-gain: .* is not a percentage above 0 % and up to 100 %, such as 0\.2%"):
        replace(EXPERIMENT, min_gain=text)


def test_percentages_are_read():
    assert [share_of("x", text) for text in ("0.2%", "0.2 %", " .5% ", "100%")] == pytest.approx([0.002, 0.002, 0.005, 1.0])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"trials": "many"}, "trials: 'many' is not a whole number of 1 or more, or auto"),
        ({"trials": 0}, "trials: 0 is not 1 or more, or auto"),
        (
            {"trials": "auto", "shared_weights": "train"},
            "trials: auto ends a search by trainings, and a search by shared weights",
        ),
    ],
)
def test_other_numbers_of_trials_are_refused(fields, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        replace(EXPERIMENT, **fields)
