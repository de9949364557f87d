"""The shared weights of a run: trained in Ray's processes through kills, or copied from another run; removed at last."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.objectives import parse_limit
from nas.plugins import load_plugin
from nas.runs.listing import clean, removable
from nas.runs.run_folder import SHARED, create_run, read_experiment, shared_weights_file, write_experiment
from nas.runs.serialization import experiment_of
from nas.runs.shared_weights import RECORD_FILE, SharedRecord, read_shared_record, write_shared_record
from nas.searching.plan import Session, make_plan
from nas.searching.shared_source import check_shared_weights, check_source_images, copy_shared_weights
from nas.searching.shared_training import MIN_STEPS, Progress, processes_for, train_shared_weights
from nas.training.settings import LAST_FILE, Epoch
from tests.conftest import DATA
from tests.simulated_search import EXPERIMENT, Twelve

WIDTHS = DATA / "widths.py"
EPOCHS = 12
RECORD = SharedRecord(train_loss=(2.0, 1.5), seconds=3.0, processes=1, device="cpu", precision="float32", seed=0)


def killed_while_training(folder):
    """The run of a search whose processes are all killed once its shared weights have a checkpoint."""
    options = ["--shared-weights", "train", "--shared-epochs", EPOCHS, "--train.batch-size", 4, "--workers", 2, "--seed", 3]
    line = [sys.executable, "-m", "nas", "search", WIDTHS, *options]
    process = subprocess.Popen(list(map(str, line)), cwd=folder, start_new_session=True, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (checkpoints := list(folder.glob(f"runs/*/{SHARED}/{LAST_FILE}"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return checkpoints[0].parents[1]


def session_of(run):
    """A session that goes on with a run."""
    experiment = experiment_of(read_experiment(run), run.parent)
    return Session(experiment=experiment, run=run, plan=make_plan(experiment, run))


def kill_worker():
    """Kill the process of Ray that trains."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent, _ in (line.split(None, 2) for line in listed.splitlines())}
    for pid, _, command in (line.split(None, 2) for line in listed.splitlines()):
        above = int(pid)
        while above in parents and above != os.getpid():
            above = parents[above]
        if "RayTrainWorker" in command and above == os.getpid():
            os.kill(int(pid), signal.SIGKILL)


@contextmanager
def shown(at_first):
    """Displays nothing, but calls a function at the first epoch."""
    calls = iter([at_first])
    yield lambda done, total: next(calls, lambda: None)()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_ray")
def test_a_killed_driver_and_a_killed_worker_change_no_bit(tmp_path, caplog):
    run = killed_while_training(tmp_path)
    session, options = session_of(run), {"workers": 2, "gpus": 0.0}
    with pytest.raises(nas.NasError, match="began in 2 processes, and 1 may run here; give it as many workers"):
        train_shared_weights(session, workers=1, gpus=0.0, watch=partial(shown, kill_worker))
    with caplog.at_level("INFO", "nas"):
        train_shared_weights(session, **options, watch=partial(shown, kill_worker))
    assert "one of 2 processes failed: killed from outside" in caplog.text
    assert [file.name for file in sorted((run / SHARED).iterdir())] == ["training.json", "weights.safetensors"]
    record = read_shared_record(run)
    assert (record.epochs, record.processes, record.seed, record.copied_from) == (EPOCHS, 2, 3, None)

    whole = replace(session, run=create_run(session.experiment, "whole", session.experiment.dataset.fingerprint()))
    train_shared_weights(whole, **options, watch=partial(shown, lambda: None))
    assert record.train_loss == read_shared_record(whole.run).train_loss
    ours, theirs = load_file(shared_weights_file(run)), load_file(shared_weights_file(whole.run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ctrl_c_ends_a_training_after_its_epoch_unless_that_is_the_last():
    progress = Progress(epochs=2, show=lambda done, total: None, interrupted=threading.Event())
    first, last = (Epoch(epoch=epoch, train_loss=1.0, val_top1_pct=9.0, val_images=4, seconds=0.1) for epoch in (1, 2))
    progress.on_epoch(first)
    progress.interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        progress.on_epoch(first)
    progress.on_epoch(last)


@pytest.mark.usefixtures("running_ray")
def test_each_worker_gets_a_process_while_an_epoch_has_enough_steps(tmp_path):
    fingerprint = EXPERIMENT.dataset.fingerprint()
    num_images = sum(fingerprint.counts["train"].values())
    counts = []
    for batch_size in (num_images // (2 * MIN_STEPS), num_images // (2 * MIN_STEPS) + 1):
        experiment = replace(EXPERIMENT, runs=str(tmp_path), train=replace(EXPERIMENT.train, batch_size=batch_size))
        run = create_run(experiment, str(batch_size), fingerprint)
        session = Session(experiment=experiment, run=run, plan=make_plan(experiment, run))
        counts += [processes_for(session, workers=workers, gpus=0.0).count for workers in (1, 2)]
    assert counts == [1, 2, 1, 1]


@pytest.fixture
def source(tmp_path):
    """A run with shared weights, made without training."""
    run = create_run(replace(EXPERIMENT, runs=str(tmp_path), shared_weights="train"), "source", EXPERIMENT.dataset.fingerprint())
    shared_weights_file(run).parent.mkdir()
    save_file({"weight": torch.zeros(3)}, shared_weights_file(run))
    write_shared_record(run, RECORD)
    return run


def refusal(source, run=None, **changes):
    """The sentence for a search that cannot use a run's shared weights."""
    with pytest.raises(nas.NasError) as error:
        check_shared_weights(replace(EXPERIMENT, shared_weights=str(source), **changes), run)
    return str(error.value)


def test_shared_weights_of_other_networks_or_images_are_refused(source, tmp_path):
    check_shared_weights(replace(EXPERIMENT, shared_weights=str(source), limits=(parse_limit("macs_m<5"),)), None)
    other = replace(EXPERIMENT.space, width_multiple=2 * EXPERIMENT.space.width_multiple)
    assert "its space.width_multiple is " in refusal(source, space=other)
    assert "its space's name is 'mobilenetv3', and here it is 'twelve'" in refusal(source, space=Twelve())
    shades = load_plugin("dataset", str(DATA / "shades.py"))
    assert "its dataset.name is 'digits', and here it is 'shades'" in refusal(source, dataset=shades)
    now = EXPERIMENT.dataset.fingerprint()
    fewer = {part: {name: number - 1 for name, number in counts.items()} for part, counts in now.counts.items()}
    with pytest.raises(nas.NasError, match="the images have changed"):
        check_source_images(replace(EXPERIMENT, shared_weights=str(source)), replace(now, counts=fewer))
    assert "is not a run folder; give train, none or" in refusal(tmp_path / "trian")


def test_removed_shared_weights_are_not_trained_anew_in_silence(source):
    assert removable(source) == []
    write_experiment(source, read_experiment(source) | {"finished": True})
    assert removable(source) == [shared_weights_file(source)]
    clean(source)
    assert not shared_weights_file(source).exists()
    assert read_shared_record(source) == RECORD  # for its page
    assert "were removed, as `nas clean` does; train new ones with" in refusal(source)
    assert "continue with --shared-weights none" in refusal("train", source)
    check_shared_weights(EXPERIMENT, source)  # trainings alone go on


def test_damaged_shared_weights_are_refused_before_a_search_begins(source):
    file = shared_weights_file(source)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:9], b""):
        file.write_bytes(damaged)
        assert f"{file} is damaged" in refusal(source)
        assert "continue with --shared-weights none, or begin a new run" in refusal("train", source)
    file.write_bytes(whole)
    (source / SHARED / RECORD_FILE).write_text("{")
    assert f"{RECORD_FILE} is damaged" in refusal(source)


def test_a_run_with_a_copy_needs_the_other_run_no_more(source, tmp_path):
    run = create_run(replace(EXPERIMENT, runs=str(tmp_path), shared_weights=str(source)), "copy")
    copy_shared_weights(source, run)
    assert load_file(shared_weights_file(run))["weight"].tolist() == [0, 0, 0]
    assert read_shared_record(run) == replace(RECORD, copied_from=source.name)
    shutil.rmtree(source)
    check_shared_weights(replace(EXPERIMENT, shared_weights=str(source)), run)
    assert "cannot change to those of" in refusal(tmp_path / "third", run)


def test_weights_without_a_record_are_refused_unless_their_checkpoint_is_there(source):
    (source / SHARED / RECORD_FILE).unlink()
    assert f"{SHARED}/{RECORD_FILE} is missing" in refusal(source)
    assert "restore it from a copy, or continue with --shared-weights none" in refusal("train", source)
    (source / SHARED / LAST_FILE).touch()
    check_shared_weights(replace(EXPERIMENT, shared_weights="train"), source)  # a kill before the record was written


def test_weights_that_were_trained_for_other_epochs_are_refused(source):
    check_shared_weights(replace(EXPERIMENT, shared_weights="train", shared_epochs=2), source)
    assert "were trained for 2 epochs, and cannot change to 9" in refusal("train", source, shared_epochs=9)
