"""What trackers get of a search and of a full training, and that none of them ends or delays one. No Ray starts."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

import nas
from nas.exporting.full_training import FullTraining, train_network
from nas.runs.run_folder import create_run
from nas.runs.trial import Outcome, Reason, Status
from nas.runs.trial_log import read_history, read_trials
from nas.searching.plan import Session, make_plan
from nas.searching.tracked import tracked
from nas.trackers import Job, Tracking, open_trackers
from nas.training.settings import TrainSettings
from tests.conftest import DATA
from tests.data.recording_tracker import calls_of
from tests.data.stripes import Stripes, architecture
from tests.simulated_search import EXPERIMENT, Played, Twelve

RECORDER = str(DATA / "recording_tracker.py")
SETTINGS = TrainSettings(epochs=2, batch_size=32, lr=3e-3, min_crop=0.8)


class StoppedError(Exception):
    """What the tests end a session with."""


def session_of(experiment, run=None):
    """The session of a new run, or the next one of a run, with its trackers opened."""
    plan, log = make_plan(experiment), experiment.log
    if run is None:
        run = create_run(experiment, "test")
        return Session(experiment=experiment, run=run, plan=plan, tracking=Tracking(open_trackers(log), run))
    past, history, tracking = read_trials(run), read_history(run), Tracking(open_trackers(log), run)
    return Session(experiment=experiment, run=run, plan=plan, number=1, past=past, history=history, tracking=tracking)


def experiment_in(folder, *log, **fields):
    return replace(EXPERIMENT, runs=str(folder), log=tuple(log) or (RECORDER,), space=Twelve(), **fields)


def calls(run, method, key=None):
    return [call[1:] for call in calls_of(run) if call[0] == method and key in (None, call[1])]


def test_a_search_is_a_job_and_so_is_each_training(tmp_path, caplog):
    session = session_of(experiment_in(tmp_path, trials=2))
    with tracked(session):
        played = Played(session, workers=2)
        played.ask("a")
        played.ask("b")
        played.epoch("a", 1, 40.0)
        played.epoch("a", 1, 40.0)  # a worker process that starts again reports an epoch twice
        played.finish("a", 50.0)
        played.end("b", Outcome(status=Status.FAILED, reason=Reason.OOM, error="no room"))
        assert played.searcher.close() is False
    begun = calls(session.run, "begin")
    assert [call[:3] for call in begun] == [["search", "search", None], ["trial0", "trial", None], ["trial1", "trial", None]]
    params, values = begun[1][3:]
    assert params["params.which"] in nas.references()
    assert params["id"] == played.results["id"][0]
    assert values == {"macs_m": played.results["macs_m"][0]}
    assert begun[0][3]["objectives"] == "val_top1_pct, macs_m"
    assert begun[0][3]["train.epochs"] == EXPERIMENT.train.epochs
    assert calls(session.run, "log", "trial0") == [
        ["trial0", 1, {"val_top1_pct": 40.0, "train_loss": 1.0, "epoch_seconds": 1.0}],
    ]
    progress = calls(session.run, "log", "search")
    assert [(step, values["done"], values["failed"]) for _, step, values in progress] == [(1, 1, 0), (2, 1, 1)]
    assert progress[0][2]["best_val_top1_pct"] == 50.0
    ((_, done, last),) = calls(session.run, "end", "trial0")
    assert (done, last["macs_m"], last["seconds"]) == ("done", values["macs_m"], 1.0)
    ((_, failed, last),) = calls(session.run, "end", "trial1")
    assert (failed, last["reason"], last["error"]) == ("failed", "oom", "no room")
    assert [call[1] for call in calls(session.run, "attach", "search")] == ["front.csv", "report.html"]
    assert calls(session.run, "end", "search") == [["search", "done", {}]]
    assert "no more" not in caplog.text


def test_a_session_that_was_interrupted_or_failed_continues_the_same_jobs(tmp_path):
    experiment = experiment_in(tmp_path, trials=2)
    session = session_of(experiment)

    def first():
        with tracked(session):
            played = Played(session, workers=2)
            played.ask("a")
            played.ask("b")
            played.epoch("a", 1, 40.0)
            played.finish("b", 50.0)
            assert played.searcher.close()
            raise KeyboardInterrupt

    def next_one():
        with tracked(second):
            played = Played(second, workers=2)
            played.ask("a")
            played.epoch("a", 2, 45.0)
            raise nas.NasError("the disk is full")

    with pytest.raises(KeyboardInterrupt):
        first()
    run = session.run
    assert calls(run, "end", "trial0")[0][1] == "interrupted"
    assert calls(run, "end", "search") == [["search", "interrupted", {}]]
    second = session_of(experiment, run)
    with pytest.raises(nas.NasError, match="the disk is full"):
        next_one()
    begun = calls(run, "begin")[3:]
    assert [call[:3] for call in begun] == [["search", "search", "id of search"], ["trial0", "trial", "id of trial0"]]
    assert [step for _, step, _ in calls(run, "log", "trial0")] == [1, 2]
    assert calls(run, "end", "search")[1] == ["search", "failed", {"error": "the disk is full"}]


def test_what_a_killed_session_has_not_logged_is_logged_by_the_next_one(tmp_path):
    experiment = experiment_in(tmp_path, trials=3)
    session = session_of(experiment)
    session.tracking.begin(Job(key="search", group=session.run.name, kind="search", folder=session.run, params={}))
    played = Played(session, workers=2)
    played.ask("a")
    played.ask("b")
    for epoch in (1, 2, 3):
        played.epoch("a", epoch, 40.0 + epoch)
    session.tracking.close()
    played.state.log.tracked.tracking = Tracking()  # from here on, trackers get nothing
    played.epoch("a", 4, 44.0)
    played.finish("a", 50.0)
    played.epoch("b", 1, 30.0)
    run = session.run
    second = session_of(experiment, run)
    with tracked(second):
        played = Played(second, workers=2)
        played.ask("b")
        played.epoch("b", 3, 35.0)
        played.epoch("b", 2, 32.0)  # of the killed session, which its worker reports late
    (end,) = calls(run, "end", "trial0")
    assert end[1] == "done"
    assert [step for _, step, _ in calls(run, "log", "trial0")] == [1, 2, 3, 3, 4]  # the last one before the kill again
    assert [step for _, step, _ in calls(run, "log", "trial1")] == [1, 3, 2]
    third = session_of(experiment, run)
    with tracked(third):
        pass
    assert len(calls(run, "begin", "trial0")) == 2


def test_scores_are_values_of_the_search_and_no_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.searching.feasibility.NUM_SAMPLES", 200)
    shared = {"shared_weights": "train", "shared_trials": 3, "sampler": "random", "fine_tune": 1}
    session = session_of(experiment_in(tmp_path, **shared))
    with tracked(session):
        played = Played(session, workers=1)
        names = iter("abcdefgh")
        while sum(trial.counts_as_score for trial in played.state.trials.values()) < 3:
            name = next(names)
            played.ask(name)
            while name in played.searcher.pending:
                played.finish(name, 50.0)
        played.ask("last")
        played.finish("last", 60.0)
    jobs = [call[0] for call in calls(session.run, "begin")]
    assert jobs == ["search", "trial3"]
    scores = [values for _, _, values in calls(session.run, "log", "search") if "score_val_top1_pct" in values]
    assert [values["score_val_top1_pct"] for values in scores] == [50.0] * 3
    assert scores[0]["score_macs_m"] > 0


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("number", "tracker {name}: begin returned 7; it must return a text, the id of the job; it logs no more"),
        ("ends", "tracker {name} raised SystemExit: no licence; it logs no more, and all else continues"),
        ("hangs", "tracker {name} still had to log after 0.3 s; what it had left is lost"),
    ],
)
def test_a_tracker_that_ends_or_hangs_costs_one_warning(fault, sentence, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RECORDER", fault)
    monkeypatch.setattr("nas.trackers.WAIT_SECONDS", 0.3)
    session = session_of(experiment_in(tmp_path, RECORDER, "tensorboard", trials=3))
    began = time.monotonic()
    with tracked(session):
        played = Played(session, workers=1)
        played.play(3)
    assert time.monotonic() - began < 30
    assert (played.results["status"] == "done").sum() == 3
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith(sentence.format(name=RECORDER))
    assert {path.name for path in (session.run / "tensorboard").iterdir()} == {"search", "trial0", "trial1", "trial2"}


def test_a_server_that_is_not_there_costs_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    session = session_of(experiment_in(tmp_path, "mlflow", trials=2))
    with tracked(session):
        played = Played(session, workers=1)
        played.play(2)
    assert (played.results["status"] == "done").sum() == 2
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING" and one.name.startswith("nas")]
    assert warning.startswith("tracker mlflow raised MlflowException: API request to http://127.0.0.1:9/")
    assert "\n" not in warning


BEGIN = """
import logging, pathlib, sys
from nas.runs.trial import Status
from nas.trackers import Job, Tracking, open_trackers
logging.basicConfig(format="%(message)s", stream=sys.stdout)
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
tracking = Tracking(open_trackers(["mlflow"]), folder)
tracking.begin(Job(key="search", group=folder.name, kind="search", folder=folder, params={}))
tracking.end("search", Status.DONE, {})
tracking.close()
"""


def test_two_searches_at_once_make_one_mlflow_store(tmp_path):
    line = [sys.executable, "-c", BEGIN]
    variables = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    two = [subprocess.Popen([*line, name], cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True) for name in ("a", "b")]
    assert [one.communicate(timeout=300)[0] for one in two] == ["", ""]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert sorted(store.execute("SELECT name, status FROM runs")) == [("a", "FINISHED"), ("b", "FINISHED")]


def test_a_store_that_cannot_be_written_costs_one_warning_at_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "mlflow.db").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    session = session_of(experiment_in(tmp_path, "mlflow", trials=1))
    began = time.monotonic()
    with tracked(session):
        Played(session, workers=1).play(1)
    assert time.monotonic() - began < 20
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"tracker mlflow: {tmp_path}/mlflow.db cannot be written: unable to open database file; it logs")


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    session = session_of(experiment_in(tmp_path, "tensorboard", trials=2))
    (session.run / "tensorboard").write_text("a file where the folder should be")
    with tracked(session):
        played = Played(session, workers=1)
        played.play(2)
    assert (played.results["status"] == "done").sum() == 2
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("tracker tensorboard raised ")


def test_trackios_own_folder_that_cannot_be_written_costs_one_warning(tmp_path):
    """In a process of its own, as Trackio reads the variable when it is imported."""
    program = """
import logging, pathlib, sys, time
from nas.runs.trial import Status
from nas.trackers import Job, Tracking, open_trackers
logging.basicConfig(format="%(message)s", stream=sys.stdout)
tracking = Tracking(open_trackers(["trackio"]), pathlib.Path())
for key in ("search", "trial0", "trial1"):
    tracking.begin(Job(key=key, group="g", kind="trial", folder=pathlib.Path(), params={}))
    tracking.log(key, 1, {"x": 1.0})
    tracking.end(key, Status.DONE, {})
tracking.close()
"""
    variables = os.environ | {"TRACKIO_DIR": "/proc/nowhere", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-c", program]
    answer = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=variables, check=True, timeout=300)
    assert answer.stderr == ""
    (warning,) = answer.stdout.splitlines()
    assert warning.startswith("tracker trackio raised OSError: trackio failed to ")
    assert warning.endswith("; it logs no more, and all else continues")


def test_an_experiment_has_the_absolute_path_of_a_users_tracker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment_in(tmp_path, "./mine.py", "mlflow").resolved().log == (str(tmp_path / "mine.py"), "mlflow")
    with pytest.raises(nas.NasError, match="log: 'mlflow' is a str; it must be a tuple of names"):
        replace(EXPERIMENT, log="mlflow")
    with pytest.raises(nas.NasError, match="is a ABCMeta; give a tracker's name, or the path of a file with one"):
        replace(EXPERIMENT, log=(nas.Tracker,))


@pytest.mark.slow
def test_a_full_training_is_a_job_that_continues_after_a_kill(tmp_path):
    training = FullTraining(
        network=architecture(), dataset=Stripes(), train=SETTINGS, output=str(tmp_path / "net"), log=(RECORDER, "tensorboard")
    )

    def stop(epoch):
        raise StoppedError

    with pytest.raises(StoppedError):
        train_network(training, on_epoch=stop)
    assert (tmp_path / "net.training" / "trackers.jsonl").is_file()
    train_network(training)
    one, other = calls(tmp_path, "begin")
    assert (one[:3], other[:3]) == (["net", "train", None], ["net", "train", "id of net"])
    assert one[3]["epochs"] == 2
    assert one[3]["dataset"] == "stripes"
    assert one[4]["macs_m"] == nas.cost(architecture(), 2).macs / 1e6
    assert {step for _, step, _ in calls(tmp_path, "log", "net")} == {1, 2}
    (_, failed, _), (_, done, last) = calls(tmp_path, "end", "net")
    assert (failed, done) == ("failed", "done")
    assert 0 <= last["test_top1_pct"] <= 100
    assert last["best_epoch"] in (1, 2)
    (attached,) = calls(tmp_path, "attach", "net")
    assert attached[1] == "README.md"
    assert list((tmp_path / "tensorboard" / "net").iterdir())
    assert not (tmp_path / "net.training").exists()
