"""What trackers have of a search and of a training is read back from their own files; one that fails fails nothing."""

import re
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import type_command

ALL = ("tensorboard", "mlflow", "wandb", "trackio")
SEARCH = ("search", "digits_mobilenetv3", "--train.epochs", 1, "--workers", 1)
COSTLY = "digits_mobilenetv3"
BROKEN = """
from nas.trackers import Tracker

class Broken(Tracker):
    def begin(self, trial, facts):
        if trial is not None:
            raise SystemExit("no room on the server")
    def epoch(self, trial, epoch, values): ...
    def end(self, trial, status, values, **more): ...

TRACKER = Broken
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("running_ray")]


@pytest.fixture(scope="module")
def offline():
    """Trackers that reach no server, as on a machine without an account, and write to the working folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_TRACKING_URI")
        yield patch


@pytest.fixture(scope="module")
def folder(offline, tmp_path_factory):
    """Where a search of two networks was logged to every tracker, and resumed for a third."""
    here = tmp_path_factory.mktemp("tracked")
    offline.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    offline.setenv("WANDB_DIR", str(here))
    offline.setenv("TRACKIO_DIR", str(here / "trackio"))  # read when it is imported, which nothing has done before
    answer = type_command(*SEARCH, "--trials", 2, "--log", "tensorboard", "mlflow", "--log", "wandb", "--log=trackio", cwd=here)
    assert answer.code == 0, answer.printed + answer.errors
    assert "rackio" not in answer.printed
    (run,) = (here / "runs").iterdir()
    resumed = type_command("resume", run, "--trials", 3, cwd=here)
    assert resumed.code == 0, resumed.printed + resumed.errors
    return here


@pytest.fixture(scope="module")
def run(folder):
    return next((folder / "runs").iterdir())


def test_tensorboard_has_a_folder_for_each_trial(folder, run):
    names = sorted(path.name for path in (run / "tensorboard").iterdir())
    assert [name for name in names if name.startswith("trial")] == ["trial0000", "trial0001", "trial0002"]
    trial = EventAccumulator(str(run / "tensorboard" / "trial0002")).Reload()
    assert [event.step for event in trial.Scalars("val_top1_pct")] == [1]
    assert "final_macs_m" in trial.Tags()["scalars"]
    assert "_hparams_/session_start_info" in trial.summary_metadata
    whole = EventAccumulator(str(run / "tensorboard" / (run / "tracked").read_text().strip())).Reload()
    assert {"settings/text_summary", "front/text_summary"} <= set(whole.Tags()["tensors"])


def test_mlflow_has_a_nested_run_for_each_trial(folder, run):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("frontier-nas").experiment_id])
    (whole,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    trials = {one.data.tags["frontier-nas.trial"]: one for one in runs if one is not whole}
    assert sorted(trials) == ["0", "1", "2"]
    assert {one.data.tags["mlflow.parentRunId"] for one in trials.values()} == {whole.info.run_id}
    assert {one.info.status for one in runs} == {"FINISHED"}
    assert whole.data.metrics["final_trials_done"] == 3
    assert whole.data.params["train.epochs"] == "1"
    assert trials["2"].data.metrics["val_top1_pct"] == pytest.approx(trials["2"].data.metrics["final_val_top1_pct"])
    assert float(trials["2"].data.params["macs_m"]) == pytest.approx(trials["2"].data.metrics["final_macs_m"])
    assert [file.path for file in client.list_artifacts(whole.info.run_id)] == ["front.csv", "report.html"]


def wandb_records(file):
    """The records of a file that W&B has written: a log as LevelDB's, whose blocks of 32 KiB have fragments of 7 bytes more."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, begun = file.read_bytes(), 7, b""
    while at + 7 < len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if 32768 - at % 32768 < 7 or not kind:
            at += 32768 - at % 32768
            continue
        begun, at = begun + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # the whole of a record, or its last fragment
            record = Record()
            record.ParseFromString(begun)
            begun = b""
            yield record


def test_wandb_has_a_group_with_a_run_for_each_trial(folder, run):
    key, records = (run / "tracked").read_text().strip(), {}
    for file in (folder / "wandb").glob("offline-run-*/*.wandb"):
        records.setdefault(file.stem.removeprefix(f"run-{key}"), []).extend(wandb_records(file))
    assert sorted(records) == ["", "-0", "-1", "-2"]
    begun = [one.run for one in records["-2"] if one.WhichOneof("record_type") == "run"][-1]
    assert (begun.run_group, begun.job_type) == (key, "trial")
    assert {"network", "macs_m"} <= {item.key for item in begun.config.update}
    metrics = [item for one in records["-2"] for item in one.history.item]
    assert "val_top1_pct" in {item.key or item.nested_key[0] for item in metrics}
    assert any(one.WhichOneof("record_type") == "artifact" or "artifact" in str(one)[:200] for one in records[""])


def test_trackio_has_a_run_for_each_trial(folder, run):
    from trackio.sqlite_storage import SQLiteStorage

    key = (run / "tracked").read_text().strip()
    assert sorted(SQLiteStorage.get_runs("frontier-nas")) == [key, f"{key}-0", f"{key}-1", f"{key}-2"]
    logs = SQLiteStorage.get_logs("frontier-nas", f"{key}-2")
    assert [line["step"] for line in logs if "val_top1_pct" in line] == [1]
    assert logs[-1]["status"] == "done"


def test_trackers_that_fail_are_off_after_one_warning(offline, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        answer = type_command(*SEARCH, "--trials", 2, "--log", "mlflow", "./broken.py", cwd=tmp_path)
    assert answer.code == 0, answer.printed + answer.errors
    assert "2 done, 0 failed" in answer.printed
    assert answer.printed.count("mlflow cannot log, and is off from now on") == 1
    assert len(re.findall(r"broken\.py cannot log, .*: SystemExit: no room on the server", answer.printed)) == 1


def test_a_server_that_does_not_answer_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.trackers.LAST_SECONDS", 0.2)
    (tmp_path / "slow.py").write_text(BROKEN.replace('raise SystemExit("no room on the server")', "__import__('time').sleep(60)"))
    answer = type_command(*SEARCH, "--trials", 1, "--log", "./slow.py", cwd=tmp_path)
    assert answer.code == 0, answer.printed + answer.errors
    assert "slow.py does not answer" in answer.printed


@pytest.mark.parametrize("name", ALL)
def test_a_missing_package_is_named_before_anything_is_written(name, tmp_path, mistaken, monkeypatch):
    package = "torch.utils.tensorboard" if name == "tensorboard" else name
    for module in [one for one in sys.modules if one == f"nas.trackers.{name}" or f"{one}.".startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install 'frontier-nas[{name}]'" in mistaken(*SEARCH, "--log", name, cwd=tmp_path)


def test_a_training_is_logged(offline, tmp_path, typed):
    offline.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    options = (
        "--dataset",
        "digits",
        "--resolution",
        24,
        "--train.epochs",
        2,
        "--log",
        "mlflow",
        "tensorboard",
        "--output",
        "net",
    )
    typed("train", "mobilenetv2_035", *options, cwd=tmp_path)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (training,) = client.search_runs([client.get_experiment_by_name("frontier-nas").experiment_id])
    assert [point.step for point in client.get_metric_history(training.info.run_id, "train_loss")] == [1, 2]
    assert [file.path for file in client.list_artifacts(training.info.run_id)] == ["card.json"]
    (written,) = (tmp_path / "tensorboard").iterdir()
    assert len(EventAccumulator(str(written)).Reload().Scalars("val_top1_pct")) == 2
    assert not Path(tmp_path, "net.training").exists()
