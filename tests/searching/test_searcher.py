"""What Ray asks and tells a searcher ends as rows of the table. No Ray is started here."""

import pickle
import threading
import time
from dataclasses import replace

import optuna
import pytest

import nas
from nas.objectives import Objective, objective
from nas.runs.run_folder import locked
from nas.runs.trial import Outcome, Reason, Status
from nas.runs.trial_log import read_history
from nas.training.settings import Epoch
from tests.simulated_search import EXPERIMENT, Twelve, new_run, next_session

NAN = Outcome(status=Status.FAILED, reason=Reason.DIVERGED, error="the loss was nan")


def test_a_failed_trial_is_a_row_and_is_told_to_optuna_as_failed(tmp_path):
    played = new_run(tmp_path)
    for name in "abc":
        played.ask(name)
    played.end("a", NAN)
    played.searcher.on_trial_complete("b", None, error=True)
    played.searcher.fail("b", "ImportError: no module")
    with locked(played.run):
        df = played.results
    assert list(df["status"]) == ["failed", "failed", "running"]
    assert list(df["reason"][:2]) == ["diverged", "crash"]
    assert [trial.state.name for trial in played.study.trials] == ["FAIL", "FAIL", "RUNNING"]


def test_trials_under_way_when_a_search_is_interrupted_end_as_that(tmp_path):
    played = new_run(tmp_path)
    played.play(1)
    played.ask("x")
    assert played.searcher.close()
    assert list(played.results["status"]) == ["done", "interrupted"]
    whole = new_run(tmp_path, trials=1)
    whole.play(1)
    assert not whole.searcher.close()


def test_ray_pickles_nothing_of_a_searcher(tmp_path):
    """A sampler may hold what cannot be pickled, such as a lock."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    sampler.lock = threading.Lock()
    played = new_run(tmp_path, sampler=sampler)
    assert pickle.loads(pickle.dumps(played.searcher)).__dict__ == {}


@pytest.mark.parametrize("number", [7, 12])
def test_in_the_end_weights_are_kept_for_the_front_and_what_may_be_on_it(tmp_path, number):
    played = new_run(tmp_path, workers=1, trials=number)
    checkpoints = played.run / "checkpoints"
    for i in range(number):
        played.ask(f"t{i}")
        played.finish(f"t{i}", 50 + 7 * i % 30)
    assert not played.searcher.close()
    df, kept = played.results, {path.name for path in checkpoints.iterdir()}
    front = {f"{trial}.safetensors" for trial in df["trial"][df["is_front"]]}
    assert front <= kept
    assert len(kept) < number
    if number == 7:  # nothing is believed yet
        assert front == kept
        assert df["val_top1_pct_believed"].isna().all()
    else:
        assert df["val_top1_pct_believed"].notna().all()
    assert all((checkpoints / name).read_text() == name.partition(".")[0] for name in kept)


def test_an_early_stopped_trial_is_a_row_with_what_it_had_and_is_told_as_pruned(tmp_path):
    fields = {"sampler": "random", "train": replace(EXPERIMENT.train, epochs=27)}
    played = new_run(tmp_path, **fields)
    for i in range(8):
        played.ask(f"t{i}")
    costs = [played.cost(f"t{i}") for i in range(8)]
    worst = costs.index(max(costs))  # the costliest, and the least accurate
    for i in range(8):
        if i != worst:
            assert all(played.epoch(f"t{i}", epoch, 60.0 + i) for epoch in (1, 2, 3, 27))
    assert [played.epoch(f"t{worst}", epoch, 20.0) for epoch in (1, 2, 3)] == [True, True, False]
    row = played.results.set_index("trial").loc[worst]
    assert (row["status"], row["epochs"], row["val_top1_pct"], row["macs_m"]) == ("stopped", 3, 20.0, max(costs))
    assert not row["is_front"]
    assert played.study.trials[worst].state.name == "PRUNED"
    off = new_run(tmp_path / "off", early_stopping=False, **fields)
    for i in range(8):
        off.ask(f"t{i}")
    assert all(off.epoch(f"t{i}", epoch, 10.0 * i) for i in range(7, -1, -1) for epoch in (3, 27))


def test_early_stopping_is_refused_where_an_objective_is_known_at_the_end_alone():
    own = Objective(name="own_ms", direction="minimize", needs_training=True, measure=len)
    both = (objective("val_top1_pct"), own)
    assert not replace(EXPERIMENT, objectives=both).stops_early
    assert EXPERIMENT.stops_early
    with pytest.raises(nas.NasError, match=r"early-stopping: .*; given: val_top1_pct, own_ms"):
        replace(EXPERIMENT, objectives=both, early_stopping=True)


def test_a_network_that_kills_its_worker_twice_is_given_up_and_never_asked_again(tmp_path):
    fields = {"space": Twelve(), "workers": 1, "trials": 50}
    played = new_run(tmp_path, **fields)
    poisoned = played.ask("a")
    played.searcher.lost("a", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    assert played.ask("b") == poisoned  # once more, before anything new
    with locked(played.run):
        assert list(played.results["status"]) == ["running"]
    played.searcher.lost("b", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    assert poisoned not in played.play(50)
    row = played.results.iloc[0]
    assert (row["status"], row["reason"], row["retries"]) == ("failed", "crash", 1)
    assert row["error"] == "the worker process died (SIGKILL)"
    assert poisoned not in next_session(played.run, **fields).play(50)  # nor in another session


def test_a_lost_machine_is_no_fault_of_the_network(tmp_path):
    """Even if that the machine is lost is known only when the next one is lost too."""
    played = new_run(tmp_path, workers=1)
    text = played.ask("t0")
    for i in range(3):
        played.searcher.lost(f"t{i}", f"m{i}", {f"m{j}" for j in range(i, 9)}, reason=Reason.CRASH, cause="SIGKILL")
        assert played.ask(f"t{i + 1}") == text
    played.finish("t3", 77.0)
    row = played.results.iloc[0]
    assert (row["status"], row["retries"], row["val_top1_pct"]) == ("done", 3, 77.0)
    played.ask("u0")
    for i in range(4):
        played.searcher.lost(f"u{i}", f"m{i}", {f"m{j}" for j in range(i + 1, 9)}, reason=Reason.CRASH, cause="SIGKILL")
        if i < 3:
            played.ask(f"u{i + 1}")
    assert played.results["reason"].iloc[1] == "node"


def test_a_worker_that_is_killed_for_its_time_has_timed_out(tmp_path):
    played = new_run(tmp_path, trial_timeout=0.01)
    played.ask("a")
    played.searcher.started("a")
    time.sleep(0.02)
    assert not list(played.searcher.overdue())  # its process imports torch, which is not the trial's time
    played.searcher.record("a", {"begun": True})
    time.sleep(0.02)
    assert list(played.searcher.overdue()) == ["a"]
    assert not list(played.searcher.overdue())
    played.searcher.lost("a", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    row = played.results.iloc[0]
    assert row[["status", "reason", "error"]].tolist() == ["failed", "timeout", "not done after 0.01 s"]


def test_a_crash_is_no_timeout_however_short_that_is_and_however_long_the_start_took(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.searching.state.START_SECONDS", 0.01)
    played = new_run(tmp_path, trial_timeout=0.01, workers=1)
    for name in "ab":
        played.ask(name)
        played.searcher.started(name)
        time.sleep(0.02)
        if name == "b":
            assert list(played.searcher.overdue()) == ["b"]
        played.searcher.lost(name, "m", {"m"}, reason=Reason.CRASH, cause="SIGSEGV")
    row = played.results.iloc[0]
    cause = "the worker process died (it did not begin within 0.01 s)"
    assert row[["status", "reason", "error"]].tolist() == ["failed", "crash", cause]


def test_a_trial_that_does_not_report_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("nas.searching.searcher.SILENT_SECONDS", 0.01)
    played = new_run(tmp_path)
    played.ask("a")
    assert not list(played.searcher.overdue())
    played.searcher.started("a")
    time.sleep(0.02)
    assert not [*played.searcher.overdue(), *played.searcher.overdue()]
    assert caplog.text.count("trial 0 has not reported for 0 min: its worker process may hang; --trial-timeout ends") == 1


def test_trials_that_get_no_worker_process_are_told_of_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("nas.searching.searcher.IDLE_SECONDS", 0.01)
    played = new_run(tmp_path)
    played.ask("a")
    for _ in range(3):
        time.sleep(0.02)
        assert not list(played.searcher.overdue())
    assert caplog.text.count("no trial has begun for 0 s: other work may hold the cores or GPUs of this Ray") == 1
    played.searcher.started("a")
    caplog.clear()
    list(played.searcher.overdue())
    assert not caplog.text


def test_a_full_disk_is_no_fault_of_the_network(tmp_path, caplog):
    """Whatever wrapped the error; one that an earlier version logged as a crash is tried again, too."""
    played = new_run(tmp_path, workers=2)
    text = played.ask("a")
    played.ask("b")
    played.epoch("b", 1, 40.0)
    played.searcher.record("b", {"begun": True, "warnings": "no checkpoint"})
    played.searcher.record("a", {"begun": True, "warnings": "no checkpoint"})
    assert caplog.text.count("no checkpoint") == 1
    full = Outcome(status=Status.FAILED, reason=Reason.CRASH, error="SafetensorError: IoError: No space left on device")
    played.end("a", full)
    assert played.ask("c") == "FINISHED"
    assert not played.epoch("b", 2, 50.0)  # it ends after its epoch
    assert str(played.searcher.failure) == "trial 0: SafetensorError: IoError: No space left on device"
    played.state.log.end(0, full)
    played.searcher.close()
    assert played.results["status"].tolist() == ["interrupted", "interrupted"]
    again = next_session(played.run)
    assert again.ask("d") == text


def test_epochs_told_before_a_kill_are_not_logged_twice(tmp_path):
    played = new_run(tmp_path, workers=1)
    played.ask("a")
    for epoch in (1, 2):
        played.epoch("a", epoch, 20.0 * epoch)
    played.searcher.lost("a", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    played.ask("b")
    for epoch in (2, 3):  # its checkpoint was of the first
        played.epoch("b", epoch, 20.0 * epoch)
    history = tuple(Epoch(epoch=i, train_loss=1.0, val_top1_pct=20.0 * i, val_images=5, seconds=1.0) for i in (1, 2, 3, 4))
    played.end("b", Outcome(status=Status.DONE, values={"val_top1_pct": 80.0}, history=history, seconds=4.0))
    assert [epoch.epoch for _, epoch in read_history(played.run)] == [1, 2, 3, 4]
    assert played.results["epochs"].tolist() == [4]


def test_a_failed_trial_does_not_keep_the_accuracy_it_had_when_it_was_interrupted(tmp_path):
    played = new_run(tmp_path, workers=1)
    played.ask("a")
    played.epoch("a", 1, 33.0)
    played.searcher.close()
    assert played.results["val_top1_pct"].tolist() == [33.0]
    again = next_session(played.run, workers=1)
    again.ask("b")
    again.end("b", NAN)
    df = again.results
    assert df["status"].tolist() == ["failed"]
    assert df["val_top1_pct"].isna().all()
