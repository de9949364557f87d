"""One network trained to the end, from the command line: killed and gone on with, exported and loaded, on several workers."""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import nas
from nas.checkpoints import Checkpoints, save_last
from nas.cli import run
from nas.exports import FILES
from nas.networks import find_network
from nas.predict import Preprocess, num_correct, predict
from nas.recipe import TrainSettings
from nas.train import _identity, _set_up, train
from nas.trainer import Training, train_network
from tests.data.stripes import Stripes, architecture, weights

pytestmark = pytest.mark.slow
SETTINGS = TrainSettings(epochs=3, batch_size=32, lr=3e-3, min_crop=0.8, ema_decay=0.9, augment="trivial")
DIGITS = ["--dataset", "digits"]
SIZES = ["--resolution", "32", "--train.epochs", "4", "--train.batch-size", "64"]
LINE = ["train", "mobilenetv2_035", "--dataset", "digits", *SIZES, "--train.augment", "none", "--train.ema-decay", "0.9"]


def start(*arguments, cwd):
    line = [sys.executable, "-m", "nas.cli", *map(str, arguments)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=variables)


def command(*arguments, cwd):
    with start(*arguments, cwd=cwd) as process:
        printed, errors = process.communicate(timeout=900)
    return process.returncode, printed, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing happened to: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    code, printed, errors = command(*LINE, cwd=folder)
    assert code == 0, errors
    return folder / "exports" / "mobilenetv2_035-digits", printed


def test_a_training_prints_every_epoch_and_leaves_a_folder_that_loads(whole):
    folder, printed = whole
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [f"epoch {i}/4" for i in (1, 2, 3, 4)]
    assert all("val_top1_pct" in line and "images/s" in line and line.endswith("left") for line in lines[:4])
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
    assert card["train"]["epochs"] == 4


def test_in_a_terminal_a_bar_shows_the_speed_and_the_time_left(tmp_path):
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "nas.cli", *LINE, "--train.epochs", "2"]
    with subprocess.Popen(line, stdout=theirs, stderr=theirs, cwd=tmp_path, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal tells its end
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    assert re.search(r"epoch 1/2 .*━.* [1-9][0-9,]* images/s, val_top1_pct -, left", text)
    assert re.search(r"epoch 2/2 .*━.* images/s, val_top1_pct [0-9.]+, left .*0:00:0", text)
    assert len(re.findall(r"epoch [12]/2: loss", text)) == 2


def test_killed_at_any_moment_and_called_again_it_ends_with_the_same_bits(whole, tmp_path):
    folder = tmp_path / "exports" / "mobilenetv2_035-digits"
    checkpoint, generator = folder.with_name(f"{folder.name}.training") / "last.pt", random.Random(0)
    for _ in range(3):  # after each of the first three epochs, some way into the next
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(*LINE, cwd=tmp_path)
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.3 * generator.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, printed, errors = command(*LINE, cwd=tmp_path)
    assert code == 0, errors
    assert printed.startswith("going on after epoch ")
    theirs, mine = load_file(whole[0] / "model.safetensors"), load_file(folder / "model.safetensors")
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)
    assert [path.name for path in (tmp_path / "exports").iterdir()] == [folder.name]


def test_it_goes_on_from_the_last_whole_epoch(tmp_path):
    long = [*LINE, "--train.epochs", "60"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in a shell's background ignores, with its children
    process = start(*long, cwd=tmp_path)
    checkpoint = tmp_path / "exports" / "mobilenetv2_035-digits.training" / "last.pt"
    deadline = time.monotonic() + 600
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 130, printed + errors
    assert errors.strip() == "nas: interrupted; what had ended is kept"
    process = start(*long, cwd=tmp_path)
    assert process.stdout.readline().startswith("going on after epoch")
    assert int(process.stdout.readline().split()[1].split("/")[0]) > 1
    process.kill()
    process.communicate()
    code, _, errors = command(*LINE, cwd=tmp_path)
    assert code == 2
    assert "holds the checkpoint of another training: its train.epochs was 60, and now it is 4; give another --output" in errors


def test_a_network_that_is_there_is_never_replaced(whole):
    left = whole[0].with_name(f"{whole[0].name}.training")
    left.mkdir()
    (left / "last.pt").write_text("of another training")
    code, _, errors = command(*LINE, cwd=whole[0].parents[1])
    assert (code, left.exists()) == (2, True)
    shutil.copy(whole[0] / "model.safetensors", left / "best-4.safetensors")  # as a kill right after the export leaves it
    code, _, errors = command(*LINE, cwd=whole[0].parents[1])
    assert code == 2
    assert "is there already; give another folder with --output" in errors
    assert not left.exists()


def test_a_second_training_in_the_same_folder_is_refused_at_once(tmp_path):
    first = start(*LINE, "--train.epochs", "500", cwd=tmp_path)
    try:
        while not list(tmp_path.glob("exports/*.training/last.pt")):
            assert first.poll() is None
            time.sleep(0.01)
        code, _, errors = command(*LINE, "--train.epochs", "500", cwd=tmp_path)
        assert code == 2
        assert "is in use by another training; wait for it, or give another folder with --output" in errors
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenetv2_035"], "--dataset is missing; give a name or a path of a file; known: cifar10, digits,"),
        (["mobilenetv2_35", *DIGITS], "network 'mobilenetv2_35' does not exist; did you mean 'mobilenetv2_035'?"),
        (["timm:resnet5", *DIGITS], "timm network 'resnet5' does not exist; did you mean 'resnet50'? near it: "),
        (["./nowhere", *DIGITS], "network './nowhere' is not there; give an export's folder, or the file of"),
        (["..", *DIGITS], "network '..' has no architecture.json; give an export's folder"),
        (['{"timm":"resnet18","resolution":"x"}', *DIGITS], "resolution: 'x' is not a whole number of 8 pixels or more"),
        (["timm:vit_tiny_patch16_224", *DIGITS, "--train.start-resolution", "0.5"], "cannot read images of 112 px"),
        (["mobilenetv2_035", *DIGITS, "--resolution", "4"], "resolution: 4 is not 8 pixels or more"),
        (["timm:vit_tiny_patch16_224", *DIGITS, "--resolution", "100"], "cannot read images of 100 px"),
        (["timm:vgg16", *DIGITS, "--train.drop-path-rate", "0.1"], "timm:vgg16 cannot be built with"),
        (["mobilenetv2_035", *DIGITS, "--workers", "640"], "workers: 640 is more than the"),
        (["mobilenetv2_035", *DIGITS, "--workers", "0"], "workers: 0 is not 1 or more"),
        (["mobilenetv2_035", *DIGITS, "--train.optimizer", "adamx"], "optimizer 'adamx' does not exist"),
        (["mobilenetv2_035", *DIGITS, "--train.augment", "auto"], "train.augment: 'auto' is not one of none, rand"),
        (["mobilenetv2_035", *DIGITS, "--train.erasing", "2"], "train.erasing: 2.0 is not in [0, 1]"),
        (["mobilenetv2_035", *DIGITS, "--output", "/proc/x"], "/proc/x.training cannot be written"),
        (["mobilenetv2_035", "--dataset", "image_folder"], "images is not a folder; it must have train/ and val/"),
        (
            ["mobilenetv2_035", *DIGITS, *SIZES, "--train.lr", "1e30", "--train.optimizer", "sgd"],
            "the loss was nan in epoch 1, step",
        ),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = run(["train", *arguments])
    printed, errors = capsys.readouterr()
    assert code == 2, printed
    assert sentence in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "exports").exists() or not list((tmp_path / "exports").iterdir())


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:legacy_seresnet18"])
def test_a_network_of_timms_goes_through_the_same_recipe(name, tmp_path):
    settings = replace(SETTINGS, epochs=1, augment="none")
    folder = train_network(Training(network=name, dataset=Stripes(), train=settings, resolution=32, output=str(tmp_path / "net")))
    card = json.loads((folder / "card.json").read_text())
    assert (card["id"], card["preprocess"]["resolution"]) == (name, 32)
    model = nas.load(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == card["cost"]["params"]
    data, preprocess = Stripes().load("val"), Preprocess(resolution=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert num_correct(predict(model, data, preprocess), data) * 100 / 96 == card["accuracy"]["val_top1_pct"]


def test_a_network_is_found_by_name_text_file_and_export(whole, tmp_path):
    text = architecture().to_json()
    (tmp_path / "mine.json").write_text(text)
    assert find_network(text).architecture == find_network(str(tmp_path / "mine.json")).architecture == architecture()
    assert find_network(str(whole[0])).architecture == replace(nas.reference("mobilenetv2_035"), resolution=32)
    assert find_network(text, resolution=48).resolution == 48
    assert find_network("timm:resnet34").resolution == 224


def test_costs_of_timms_networks_are_counted_as_ours_are():
    ours = find_network("mobilenetv3_small_100").costs(10)
    theirs = find_network("timm:mobilenetv3_small_100").costs(10)
    assert (ours["params"], ours["macs"]) == (theirs["params"], theirs["macs"])


def test_two_workers_do_what_one_does_with_half_of_each_batch_at_a_time(tmp_path):
    """Equal to rounding: two processes add up the gradients in another order than one does."""
    settings = TrainSettings(epochs=2, batch_size=32, lr=1e-3, min_crop=0.8, optimizer="sgd", augment="trivial")
    common = {"network": architecture().to_json(), "dataset": Stripes(), "train": settings, "seed": 3}
    told = []
    two = train_network(Training(**common, workers=2, output=str(tmp_path / "two")), on_epoch=told.append)
    assert [epoch.epoch for epoch in told] == [1, 2]

    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = nas.build(architecture(), num_classes=2)
    halves = _train_by_halves(model, settings, seed=3, folder=tmp_path / "one")
    there, here = nas.load(two), model
    for (name, theirs), ours in zip(there.named_parameters(), here.parameters(), strict=True):
        assert torch.allclose(theirs, ours, atol=2e-5, rtol=1e-3), name
    assert told[-1].train_loss == pytest.approx(halves.history[-1].train_loss, rel=1e-3)
    assert json.loads((two / "card.json").read_text())["train"]["workers"] == 2
    assert halves.micro_batch == 16


def _train_by_halves(model, settings, *, seed, folder):
    """One process that lets half a batch through at a time, as one does that went on after memory was short."""
    options = {"resolution": 16, "device": torch.device("cpu"), "seed": seed}
    begun = _set_up(model, Stripes(), settings, **options)
    checkpoints = Checkpoints(folder=folder)
    save_last(folder, begun.state, {"identity": _identity(begun, checkpoints), "history": [], "micro": 16})
    return train(model, Stripes(), settings, **options, checkpoints=checkpoints)


def test_the_weights_that_two_trainings_begin_with_depend_on_the_seed_alone(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    folders = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + i)
        random.seed(i)
        training = Training(
            network=architecture().to_json(), dataset=Stripes(), train=settings, seed=seed, output=str(tmp_path / str(i))
        )
        folders.append(train_network(training))
    first, second, third = (weights(nas.load(folder)) for folder in folders)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
