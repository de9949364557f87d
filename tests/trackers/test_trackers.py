"""A search and its trials in TensorBoard, MLflow, W&B and Trackio, read back from what each has written, without a network."""

import json
import math
import os
import subprocess
import sys

import pytest

import nas
from tests.conftest import type_command
from tests.data.wandb_files import read_runs

pytestmark = pytest.mark.slow
ALL = ("tensorboard", "mlflow", "wandb", "trackio")
TINY = ["digits_mobilenetv3", "--train.epochs", 2, "--workers", 1, "--limit", "macs_m<5"]  # two epochs of one network a session
PROJECT = "frontier-nas"


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The variables with which the tools write to a folder and need no account; gives the folder."""
    folder = tmp_path_factory.mktemp("tools")
    variables = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "TRACKIO_DIR": str(folder / "trackio"),
        "HF_HUB_OFFLINE": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def searched(offline, running_ray):
    """A search of one trial that a second session extends by one, with every tracker: the run, and what both printed."""
    first = type_command("search", *TINY, "--trials", 1, "--log", *ALL, cwd=offline)
    assert first.code == 0, first.printed + first.errors
    (run,) = (offline / "runs").iterdir()
    second = type_command("resume", run, "--trials", 2, cwd=offline)
    assert second.code == 0, second.printed + second.errors
    return run, first.printed, second.printed


@pytest.fixture(scope="module")
def trials(searched):
    """The rows of its two trials."""
    return nas.results(searched[0]).dropna(subset="trial").set_index("trial")


@pytest.fixture(scope="module")
def curves(searched):
    """(trial, epoch) → the row of the run's own history."""
    return nas.history(searched[0]).set_index(["trial", "epoch"])


def test_a_search_says_where_to_look_and_the_tools_themselves_say_nothing(searched):
    run, first, second = searched
    for printed in (first, second):
        assert f"tracker tensorboard: tensorboard --logdir {run}/tensorboard\n" in printed
        assert "tracker mlflow: run " in printed
        assert "tracker wandb: wandb sync " in printed
        assert f"tracker trackio: trackio show --project {PROJECT}\n" in printed
    known = ("100.00 %", "run folder", "tracker ", "1/1 trial 0", "1 done", "0 infeasible", "trial ", "    0", "front:", "nas ")
    assert not [line for line in first.splitlines() if line and not line.startswith(known)]


def test_experiment_json_has_the_trackers_and_each_sessions_ids_are_the_same(searched):
    run, *_ = searched
    assert json.loads((run / "experiment.json").read_text())["log"] == list(ALL)
    lines = [json.loads(line) for line in (run / "trackers.jsonl").read_text().splitlines()]
    ids = {(line["tracker"], line["job"], line["id"]) for line in lines if "id" in line}
    assert sorted(one[:2] for one in ids) == sorted((name, job) for name in ALL for job in ("search", "trial0", "trial1"))


def test_tensorboard_has_a_folder_for_each_trial(searched, trials, curves):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS

    folder = searched[0] / "tensorboard"
    assert {path.name for path in folder.iterdir()} == {"search", "trial0", "trial1"}
    for trial, row in trials.iterrows():
        events = EventAccumulator(str(folder / f"trial{trial}")).Reload()
        told = {event.step: event.value for event in events.Scalars("val_top1_pct")}
        assert told == pytest.approx({epoch: curves.loc[(trial, epoch), "val_top1_pct"] for epoch in (1, 2)})
        assert events.Scalars("macs_m")[0].value == pytest.approx(row["macs_m"])
        about = events.summary_metadata
        start = metadata.parse_session_start_info_plugin_data(about[metadata.SESSION_START_INFO_TAG].plugin_data.content)
        assert start.hparams["id"].string_value == row["id"]
        assert start.hparams["params.resolution"].number_value == row["params.resolution"]
        end = metadata.parse_session_end_info_plugin_data(about[metadata.SESSION_END_INFO_TAG].plugin_data.content)
        assert end.status == STATUS_SUCCESS
    search = EventAccumulator(str(folder / "search")).Reload()
    assert [event.step for event in search.Scalars("num_front")] == [1, 2]
    assert search.Scalars("best_val_top1_pct")[-1].value == pytest.approx(trials["val_top1_pct"].max())
    table = search.Tensors("front")[-1].tensor_proto.string_val[0].decode()
    assert table.startswith("|trial|id|val_top1_pct|macs_m|")
    assert table.count("\n") == 1 + trials["is_front"].sum()


def test_mlflow_has_a_run_with_a_nested_run_for_each_trial(searched, trials, curves, tmp_path):
    from mlflow import MlflowClient

    run, *_ = searched
    client = MlflowClient()
    experiment = client.get_experiment_by_name(PROJECT).experiment_id
    (search,) = client.search_runs([experiment], f"attributes.run_name = '{run.name}'")
    nested = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{search.info.run_id}'")
    assert search.info.status == "FINISHED"
    assert search.data.params["space"] == "mobilenetv3"
    assert search.data.params["train.epochs"] == "2"
    assert search.data.params["limits"] == "macs_m<=5"
    assert search.data.metrics["done"] == 2
    assert {one.info.run_name for one in nested} == {f"{run.name}-trial{trial}" for trial in trials.index}
    for one in nested:
        trial = int(one.info.run_name.rpartition("trial")[2])
        row, history = trials.loc[trial], client.get_metric_history(one.info.run_id, "train_loss")
        assert one.info.status == "FINISHED"
        assert one.data.params["id"] == row["id"]
        assert one.data.params["params.resolution"] == str(row["params.resolution"])
        assert one.data.metrics["macs_m"] == row["macs_m"]
        assert one.data.metrics["seconds"] == row["seconds"]
        assert {m.step: m.value for m in history} == pytest.approx(dict(curves.loc[trial, "train_loss"]))
    page = client.download_artifacts(search.info.run_id, "report.html", str(tmp_path))
    assert run.name in (tmp_path / "report.html").read_text()
    assert page.endswith("report.html")
    front = client.download_artifacts(search.info.run_id, "front.csv", str(tmp_path))
    assert front.endswith("front.csv")
    assert len((tmp_path / "front.csv").read_text().splitlines()) == 1 + trials["is_front"].sum()


def test_wandb_has_a_group_with_a_run_for_each_trial(searched, offline, trials, curves):
    run, *_ = searched
    runs = read_runs(offline)
    assert {one.group for one in runs} == {run.name}
    assert {one.project for one in runs} == {PROJECT}
    assert {one.exit_code for one in runs} == {0}
    first, second = (one for one in runs if one.job_type == "search")  # one for each session, which `wandb sync` joins
    assert first.id == second.id
    assert {artifact.type for artifact in second.artifacts} >= {"front", "report"}
    assert [row["done"] for row in first.rows + second.rows] == [1, 2]
    by_name = {one.name: one for one in runs if one.job_type == "trial"}
    assert len(by_name) == 2
    for trial, row in trials.iterrows():
        one = by_name[f"{run.name}-trial{trial}"]
        assert one.config["id"] == row["id"]
        assert one.config["params.resolution"] == row["params.resolution"]
        told = {line["_step"]: line["val_top1_pct"] for line in one.rows}
        assert told == pytest.approx(dict(curves.loc[trial, "val_top1_pct"]))
        assert one.summary["status"] == "done"
        assert one.summary["macs_m"] == pytest.approx(row["macs_m"])


def test_trackio_has_a_group_with_a_run_for_each_trial(searched, trials, curves):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    run, *_ = searched
    runs = {one.name: one for one in trackio.Api().runs(PROJECT)}
    assert set(runs) == {run.name, *(f"{run.name}-trial{trial}" for trial in trials.index)}
    assert {one.config["_Group"] for one in runs.values()} == {run.name}
    for trial, row in trials.iterrows():
        name = f"{run.name}-trial{trial}"
        assert runs[name].config["params.resolution"] == row["params.resolution"]
        lines = SQLiteStorage.get_logs(PROJECT, name)
        told = {line["step"]: line["val_top1_pct"] for line in lines if "val_top1_pct" in line}
        assert told == pytest.approx(dict(curves.loc[trial, "val_top1_pct"]))
        assert lines[-1]["status"] == "done"
    done = [line["done"] for line in SQLiteStorage.get_logs(PROJECT, run.name) if "done" in line]
    assert done == [1, 2]
    artifacts = {name: SQLiteStorage.get_artifact_manifest(PROJECT, f"{name}-{run.name}", None) for name in ("front", "report")}
    assert all(artifacts.values())


SENTENCES = [
    (
        ["--log", "tensorbord"],
        "tracker 'tensorbord' does not exist; did you mean 'tensorboard'? known: mlflow, tensorboard, trackio",
    ),
    (["--log", "mlflow", "mlflow"], "log: mlflow is there twice; give it once"),
    (["--log", "./nowhere.py"], "nowhere.py is not a file"),
    (["--log", "./mine.py"], "its TRACKER is 3; it must be a class that inherits nas.Tracker"),
]


@pytest.mark.parametrize(("options", "sentence"), SENTENCES, ids=[" ".join(one[0]) for one in SENTENCES])
@pytest.mark.parametrize("command", [["search", "digits_mobilenetv3"], ["train", "mobilenetv2_035", "--dataset", "digits"]])
def test_a_tracker_that_cannot_be_opened_is_one_sentence(tmp_path, mistaken, command, options, sentence):
    (tmp_path / "mine.py").write_text("TRACKER = 3\n")
    assert sentence in mistaken(*command, *options, cwd=tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_a_missing_library_is_one_sentence_with_the_line_to_type(name, tmp_path, mistaken, monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    for command in (["search", "digits_mobilenetv3"], ["train", "mobilenetv2_035", "--dataset", "digits"]):
        sentence = mistaken(*command, "--log", name, cwd=tmp_path)
        assert f"tracker {name}: " in sentence
        assert sentence.endswith(f"pip install 'frontier-nas[{name}]'\n")


def test_wandb_without_an_account_is_one_sentence(tmp_path):
    line = [sys.executable, "-m", "nas", "search", "digits_mobilenetv3", "--log", "wandb"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")} | {"HOME": str(tmp_path)}
    answer = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path, env=variables, check=False, timeout=300
    )
    assert answer.returncode == 2, answer.stderr
    assert "tracker wandb: " in answer.stderr
    assert "WANDB_MODE=offline" in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_a_value_that_is_no_number_is_logged_too(offline, tmp_path, caplog):
    """As of an objective that only some networks have."""
    from nas.runs.trial import Status
    from nas.trackers import Job, Tracking, open_trackers

    tracking = Tracking(open_trackers(ALL), tmp_path)
    odd = {"params.a:b(c)": 3, "params.none": None, "params.flag": True, "params.text": "x" * 9000}
    tracking.begin(Job(key="odd", group="odd", kind="train", folder=tmp_path, params=odd, values={"x": math.nan}))
    tracking.log("odd", 1, {"x": math.inf})
    tracking.end("odd", Status.FAILED, {"error": "it\nfailed"})
    tracking.close()
    assert "logs no more" not in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "trackers.jsonl").read_text().splitlines()]
    assert {(line["tracker"], line["job"]) for line in lines if line.get("status") == "failed"} == {(name, "odd") for name in ALL}
    from mlflow import MlflowClient

    (run,) = MlflowClient().search_runs(["1"], "attributes.run_name = 'odd'")
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "it\nfailed"
    assert run.data.params["params.a_b_c_"] == "3"
    assert next(one for one in read_runs(offline) if one.name == "odd").exit_code == 1
