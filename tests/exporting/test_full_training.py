"""One network trained to the end, from the command line: killed and gone on with, exported and loaded, on several workers."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import nas
from nas.cli.progress import ShownTraining
from nas.exporting.full_training import FirstWeights, FullTraining, run_training, train_network
from nas.models.export_folder import FILES
from nas.models.network import find_network
from nas.training.checkpoint import best_file
from nas.training.predict import Preprocess, num_correct, predict
from nas.training.settings import TrainSettings
from tests.conftest import DATA, type_command
from tests.data.stripes import Stripes, architecture

pytestmark = pytest.mark.slow
DIGITS = ["--dataset", "digits"]
SIZES = ["--resolution", "32", "--train.batch-size", "64"]
LINE = ["train", "mobilenetv2_035", *DIGITS, *SIZES, "--train.augment", "none", "--train.ema-decay", "0.9"]
THREE = [*LINE, "--train.epochs", "3"]
SETTINGS = TrainSettings(epochs=1, batch_size=32, lr=3e-3, min_crop=0.8, augment="trivial")


@contextlib.contextmanager
def started(*arguments, cwd):
    """A command in a process of its own, which is killed in the end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in a shell's background ignores, with its children
    line = [sys.executable, "-m", "nas", *arguments]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=variables) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process, file, than=0):
    """Until a file is there that is newer than a time; gives its own time."""
    while not file.exists() or file.stat().st_mtime_ns == than:
        assert process.poll() is None
        time.sleep(0.001)
    return file.stat().st_mtime_ns


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing happened to: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    answer = type_command(*THREE, cwd=folder)
    assert answer.code == 0, answer.errors
    return folder / "exports" / "mobilenetv2_035-digits", answer.printed


def test_a_training_prints_every_epoch_and_leaves_a_folder_that_loads(whole):
    folder, printed = whole
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [f"epoch {i}/3" for i in (1, 2, 3)]
    assert all("val_top1_pct" in line and "images/s" in line and line.endswith("left") for line in lines[:3])
    assert {path.name for path in folder.iterdir()} == FILES - {"model_int8.onnx"}
    assert not folder.with_name(f"{folder.name}.training").exists()
    card = json.loads((folder / "card.json").read_text())
    digits, model = nas.dataset("digits"), nas.load(folder)
    data, preprocess = digits.load("test"), Preprocess(resolution=32, mean=digits.mean, std=digits.std)
    assert 100 * num_correct(predict(model, data, preprocess), data) / len(data) == pytest.approx(
        card["accuracy"]["test_top1_pct"]
    )
    assert card["accuracy"]["val_top1_pct"] == card["accuracy"]["trained_val_top1_pct"]
    assert card["cost"]["macs"] == nas.cost(replace(nas.reference("mobilenetv2_035"), resolution=32), 10).macs
    assert card["train"]["epochs"] == 3


def test_interrupted_and_killed_it_keeps_others_out_and_ends_with_the_same_bits(whole, tmp_path):
    folder = tmp_path / "exports" / "mobilenetv2_035-digits"
    checkpoint = folder.with_name(f"{folder.name}.training") / "last.pt"
    with started(*THREE, cwd=tmp_path) as process:
        saved = wait_for(process, checkpoint)
        process.send_signal(signal.SIGSTOP)  # so that it is not done before others come
        answer = type_command(*THREE, cwd=tmp_path)
        assert answer.code == 2
        assert "is in use by another training; wait for it, or give another folder with --output" in answer.errors
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 130
        assert errors.strip() == "nas: interrupted; finished work is kept"
    answer = type_command(*LINE, "--train.epochs", "4", cwd=tmp_path)
    assert answer.code == 2
    assert "holds the checkpoint of another training: its train.epochs was 3, and now it is 4; begin" in answer.errors
    with started(*THREE, cwd=tmp_path) as process:
        wait_for(process, checkpoint, than=saved)
        time.sleep(0.3 * random.Random(0).random())  # some way into the next epoch
        process.kill()
    answer = type_command(*THREE, cwd=tmp_path)
    assert answer.code == 0, answer.errors
    assert answer.printed.startswith("going on after epoch ")
    theirs, mine = load_file(whole[0] / "model.safetensors"), load_file(folder / "model.safetensors")
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)
    assert [path.name for path in (tmp_path / "exports").iterdir()] == [folder.name]


def test_in_a_terminal_a_bar_shows_the_speed_and_the_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes the output for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    training = FullTraining(network=architecture(), dataset=Stripes(), train=SETTINGS, output=str(tmp_path / "net"))
    with ShownTraining(1) as shown:
        network = find_network(training.network)
        run_training(training, network, FirstWeights(), on_epoch=shown.on_epoch, on_step=shown.on_step)
    printed = capsys.readouterr().out
    assert re.search(r"epoch 1/1 .*━.* images/s, val_top1_pct [0-9.]+, left .*0:00:0", printed)
    assert len(re.findall(r"epoch 1/1: loss", printed)) == 1


def test_a_network_that_is_there_is_never_replaced(whole, mistaken):
    left, cwd = whole[0].with_name(f"{whole[0].name}.training"), whole[0].parents[1]
    left.mkdir()
    (left / "last.pt").write_text("of another training")
    assert "is there already; give another folder with --output" in mistaken(*THREE, cwd=cwd)
    assert (left / "last.pt").read_text() == "of another training"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenetv2_035"], "--dataset is missing; give a name or a path of a file; known: cifar10, digits,"),
        (["mobilenetv2_35", *DIGITS], "network 'mobilenetv2_35' does not exist; did you mean 'mobilenetv2_035'?"),
        (["timm:resnet5", *DIGITS], "timm network 'resnet5' does not exist; did you mean 'resnet50'? near it: "),
        (["./nowhere", *DIGITS], "network './nowhere' does not exist; give an export's folder or"),
        (["..", *DIGITS], "network '..' has no architecture.json; give an export's folder"),
        (["./bad.json", *DIGITS], "architecture: 'timm' is not a field"),
        (["timm:vit_tiny_patch16_224", *DIGITS, "--train.start-resolution", "0.5"], "cannot read images of 112 px"),
        (["mobilenetv2_035", *DIGITS, "--resolution", "4"], "resolution: 4 is not a whole number from 16 to 1024"),
        (["timm:vit_tiny_patch16_224", *DIGITS, "--resolution", "100"], "cannot read images of 100 px"),
        (["timm:vgg16", *DIGITS, "--train.drop-path-rate", "0.1"], "timm:vgg16 cannot be built with"),
        (["mobilenetv2_035", *DIGITS, "--workers", "640"], "workers: 640 is more than the"),
        (["mobilenetv2_035", *DIGITS, "--workers", "0"], "workers: 0 is not 1 or more"),
        (["mobilenetv2_035", *DIGITS, "--train.optimizer", "adamx"], "optimizer 'adamx' does not exist"),
        (["mobilenetv2_035", *DIGITS, "--train.augment", "auto"], "train.augment: 'auto' is not one of none, "),
        (["mobilenetv2_035", *DIGITS, "--train.erasing", "2"], "train.erasing: 2.0 is not in [0, 1]"),
        (["mobilenetv2_035", *DIGITS, "--teacher", "./nowhere"], "train.teacher: there is no folder "),
        (["mobilenetv2_035", *DIGITS, "--teacher=timm:resnet18"], "lacks 0, a class of dataset digits; train it on these images"),
        (["mobilenetv2_035", *DIGITS, "--train.teacher-share", "0.1"], "do nothing without a teacher; give --train.teacher too"),
        (["mobilenetv2_035", *DIGITS, "--rounds", "2"], "do nothing without images to label; give --unlabelled too"),
        (["mobilenetv2_035", *DIGITS, "--rounds", "0"], "rounds: 0 is not 1 or more"),
        (["mobilenetv2_035", *DIGITS, "--min-confidence", "2"], "min-confidence: 2.0 is not from 0 to 1"),
        (["mobilenetv2_035", *DIGITS, "--unlabelled", "./no"], "no is not a folder; give a folder of images"),
        (["mobilenetv2_035", *DIGITS, "--output", "/proc/x"], "/proc/x.training cannot be written"),
        (["mobilenetv2_035", "--dataset", "image_folder"], "images is not a folder; it must have train/ and val/"),
        (
            ["mobilenetv2_035", *DIGITS, *SIZES, "--train.lr", "1e30", "--train.optimizer", "sgd"],
            "the loss was nan in epoch 1, step",
        ),
    ],
)
@pytest.mark.usefixtures("running_ray")
def test_a_mistake_is_one_sentence(arguments, sentence, tmp_path):
    (tmp_path / "bad.json").write_text('{"timm":"resnet18","resolution":"x"}')
    answer = type_command("train", *arguments, cwd=tmp_path)
    assert answer.code == 2, answer.printed
    assert sentence in answer.errors
    assert len(answer.errors.strip().splitlines()) == 1
    assert not (tmp_path / "exports").exists() or not list((tmp_path / "exports").iterdir())


def test_a_network_is_found_by_name_file_export_and_architecture(whole, tmp_path):
    (tmp_path / "mine.json").write_text(architecture().to_json())
    assert find_network(architecture()).architecture == find_network(str(tmp_path / "mine.json")).architecture == architecture()
    assert find_network(str(whole[0])).architecture == replace(nas.reference("mobilenetv2_035"), resolution=32)
    assert find_network(architecture(), resolution=48).resolution == 48
    assert find_network("timm:resnet34").resolution == 224


def test_an_architecture_is_trained_into_a_folder_of_its_id():
    training = FullTraining(network=architecture(), dataset=Stripes())
    assert training.target.name == f"{architecture().id}-stripes"


def test_costs_of_timms_networks_are_counted_as_ours_are():
    ours = find_network("mobilenetv3_small_100").costs(10)
    theirs = find_network("timm:mobilenetv3_small_100").costs(10)
    assert (ours["params"], ours["macs"]) == (theirs["params"], theirs["macs"])


def best_weights(training):
    """Those of a training without an export, after its one epoch."""
    run_training(training, find_network(training.network, resolution=training.resolution), FirstWeights())
    return load_file(best_file(training.checkpoints, 1))


@pytest.mark.usefixtures("fresh_ray")
def test_two_workers_do_what_one_does(tmp_path, monkeypatch):
    """Equal to rounding, for plain crops and a network whose norm is of each image alone: they add up in another order."""
    common = {"network": "timm:test_convnext", "dataset": nas.dataset(str(DATA / "shades.py")), "resolution": 32, "seed": 3}
    common["train"] = replace(SETTINGS, optimizer="sgd", lr=1e-2, augment="none")
    monkeypatch.chdir(tmp_path)  # where these images leave a trace when they are tested on
    told = []
    two = train_network(FullTraining(**common, workers=2, output=str(tmp_path / "two")), on_epoch=told.append)
    assert [epoch.epoch for epoch in told] == [1]
    torch.set_num_threads(1)
    there, here = load_file(two / "model.safetensors"), best_weights(FullTraining(**common, output=str(tmp_path / "one")))
    for name, theirs in there.items():
        assert torch.allclose(theirs, here[name], atol=2e-5, rtol=1e-3), name
    assert json.loads((two / "card.json").read_text())["train"]["workers"] == 2


def test_two_processes_end_with_one_average_of_the_statistics_that_each_saw(tmp_path):
    subprocess.run([sys.executable, "-m", "tests.data.two_processes", str(tmp_path)], check=True, cwd=DATA.parent.parent)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert one["1.running_mean"].abs().sum() > 0


def test_the_weights_that_two_trainings_begin_with_depend_on_the_seed_alone(tmp_path):
    torch.set_num_threads(1)
    found = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + i)
        random.seed(i)
        options = {"dataset": Stripes(), "train": SETTINGS, "seed": seed, "output": str(tmp_path / str(i))}
        found.append(best_weights(FullTraining(network=architecture(), **options)))
    first, second, third = found
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv_stem.weight"], third["conv_stem.weight"])
