"""The `nas` command: lists, help, and every mistake as one sentence that leaves nothing half written."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli.app import COMMANDS, GROUPS
from nas.models.network import CARD_FILE
from tests.conftest import DATA, files, type_command
from tests.data.pictures import save

NINE = DATA / "nine.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the user works: a folder with two files of their own."""
    here = tmp_path_factory.mktemp("user")
    for name in ("my_images.py", "named_seconds.py"):
        (here / name).write_text((DATA / name).read_text())
    return here


MISTAKES = [
    (["search", "digits_mobilenet"], "experiment 'digits_mobilenet' does not exist; did you mean 'digits_mobilenetv3'?"),
    (["search", "./nowhere.py"], "nowhere.py is not a file"),
    (["search", DATA / "shades.py"], "shades.py exports no EXPERIMENT"),
    (["search", NINE, "--space", "mnasnett"], "space 'mnasnett' does not exist; did you mean 'mnasnet'?"),
    (["search", NINE, "--dataset", "digit"], "dataset 'digit' does not exist; did you mean 'digits'?"),
    (["search", NINE, "--objectives", "val_top1"], "objective 'val_top1' does not exist; did you mean 'val_top1_pct'?"),
    (["search", NINE, "--log", "mlfow"], "tracker 'mlfow' does not exist; did you mean 'mlflow'?"),
    (["search", NINE, "--log", "mlflow", "--log=mlflow"], "log: mlflow is there twice; give it once"),
    (["search", NINE, "--limit", "macs_m<9", "params_m<0.00001"], "no network of space nine meets"),
    (["search", "--trials", "2", NINE], "nas search takes an experiment first, and --trials after it"),
    (["search", NINE, "--limit=params_m<0.00001", "--limit", "macs_m<9"], "no network of space nine meets"),
    (["search", NINE, "--trials", "3", "--trials", "4"], "--trials is given twice"),
    (["search", NINE, "--tune", "train.lr=1..2", "--tune=train.lr=2..3"], "names one setting twice"),
    (["search", NINE, "--objectives"], "objectives: none given"),
    (["search", NINE, "--limit", "macs_m"], "limit 'macs_m' is not of the form"),
    (["search", NINE, "--limit", "confidence_nat>0"], "its value needs training"),
    (["search", NINE, "--limit", "kernel_px<1"], "kernel_px goes from 3 to 7"),
    (["search", NINE, "--limit", "macs_m<0.0001"], "no network of space nine meets macs_m<=0.0001"),
    (["search", NINE, "--sampler", "tpee"], "sampler 'tpee' does not exist; did you mean 'tpe'?"),
    (["search", NINE, "--dataset.root="], "the value of --dataset.root is empty"),
    (["search", NINE, "--runs", ""], "the value of --runs is empty"),
    (["search", NINE, "--trials", "0"], "trials: 0 is not 1 or more"),
    (["search", NINE, "--trials", "auto", "--min-gain", "0.2"], "min-gain: '0.2' is not a percentage above 0 % and up to 100 %"),
    (["search", NINE, "--min-gain", "0.2%"], "--min-gain has no effect with --trials 9; give --trials auto too, or leave it out"),
    (
        ["search", "digits_mobilenetv3", "--shared-weights", "train", "--trials", "auto"],
        "trials: auto ends a search by trainings, and a search by shared weights scores as many networks as --shared-trials says",
    ),
    (["search", NINE, "--train.optimizer", "adamx"], "optimizer 'adamx' does not exist"),
    (["search", NINE, "--train.precision", "half"], "train.precision: 'half' is not one of"),
    (["search", NINE, "--shared-trials=4"], "--shared-trials has no effect without shared weights; give --shared-weights too"),
    (
        ["search", "digits_mobilenetv3", "--shared-weights", "run", "--shared-epochs", "4"],
        "--shared-epochs has no effect on the shared weights of",
    ),
    (["search", NINE, "--gpus-per-trial", "1.5"], "gpus-per-trial: 1.5 is not a share from 0 to 1 or a whole number"),
    (["search", NINE, "--trial-timeout", "0"], "trial-timeout: 0.0 is not more than 0 seconds"),
    (["search", NINE, "--start", "nowhere"], "network 'nowhere' does not exist"),
    (["search", NINE, "--reuse", "."], "is not a run folder"),
    (["search", NINE, "--storage", "nothing://x"], "storage 'nothing://x', which must be a folder or a URI that fsspec supports"),
    (["search", NINE, "--storage", "/proc/x"], "storage '/proc/x', which must be a folder"),
    (["search", NINE, "--objectives", "./named_seconds.py"], "objective seconds: the table has a column of this name"),
    (["search", "digits_mobilenetv3", "--space.skeletons", "huge"], "space.skeletons: 'huge' is not among large, small"),
    (["search", "digits_mobilenetv3", "--space.resolutions", "8"], "space.resolutions: 8 is not from 16 to 1024"),
    (["resume", "."], "is not a run folder"),
    (["resume", "nowhere", "--trials", "3"], "nowhere is not a run folder"),
    (["space", "mobilenet_v3"], "space 'mobilenet_v3' does not exist; did you mean 'mobilenetv3'?"),
    (["table", "."], "is not a run folder"),
    (["export", "."], "is not a run folder"),
    (["runs", "nowhere"], "nowhere is not a folder"),
    (["clean", "."], "is not a run folder"),
    (["tabel"], "command 'tabel' does not exist; did you mean 'table'?"),
]
OPTIONS = [
    (["search", NINE, "--space"], ["--space"]),
    (["search", NINE, "--trials", "many"], ["--trials", "many"]),
    (["search", NINE, "--trails", "3"], ["--trails", "--trials"]),
    (
        ["train", "mobilenetv2_035", "--dataset", "digits", "--weights", "best"],
        ["--weights", "'own', 'new', 'pretrained'"],
    ),
    (["space", "mnasnet", "--width", "3"], ["--width", "nas space --help"]),
    (["table", ".", "--format", "excel"], ["--format", "nas table --help"]),
    (["scale", "efficientnet_b0", "--phi", "x"], ["--phi", "'x'", "nas scale --help"]),
    (["scale"], ["NETWORK"]),
    (["measure", "mobilenetv3_small_100", "--threads", "two"], ["--threads", "two"]),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(Path(a).name for a in m[0]) for m in MISTAKES])
def test_a_mistake_is_one_sentence_and_nothing_half_written(folder, mistaken, arguments, sentence):
    assert sentence in mistaken(*arguments, cwd=folder)


@pytest.mark.parametrize(("arguments", "words"), OPTIONS, ids=[" ".join(Path(a).name for a in m[0]) for m in OPTIONS])
def test_a_wrong_option_is_named_with_what_is_allowed(folder, arguments, words):
    before = files(folder)
    answer = type_command(*arguments, cwd=folder)
    assert (answer.code, answer.printed) == (2, "")
    assert not [word for word in words if word not in answer.errors], answer.errors
    assert "Traceback" not in answer.errors
    assert files(folder) == before


def test_the_help_lists_every_command_by_group(tmp_path, typed):
    printed = typed("--help", cwd=tmp_path)
    assert printed == typed(cwd=tmp_path)
    for title, (example, commands) in GROUPS.items():
        assert f"\n{title}\n" in printed
        assert f"for example: {example}\n" in printed
        assert all(re.search(rf"^  nas {name} +\S", printed, re.MULTILINE) for name in commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, tmp_path, typed):
    assert typed(*command.split(), "--help", cwd=tmp_path).count("\n") > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", NINE, "--gpus-per-trial", "64"], "gpus-per-trial: 64 is more than the"),
        (["search", NINE, "--runs", "/proc/nas"], "runs folder '/proc/nas' cannot be written"),
        (
            ["search", "digits_mobilenetv3", "--dataset", "./my_images.py"],
            "dataset my_images: the train part raised FileNotFoundError: [Errno 2] No such file or directory: 'images.npz'",
        ),
    ],
    ids=["gpus", "runs", "images"],
)
def test_a_mistake_that_shows_when_ray_runs_is_one_sentence_too(running_ray, folder, mistaken, arguments, sentence):
    assert sentence in mistaken(*arguments, cwd=folder)


def test_a_shell_sees_one_sentence_and_exit_code_2_and_nothing_half_written(folder):
    """Of a cluster that is not there, which Ray itself would say much about."""
    before = files(folder)
    line = [sys.executable, "-m", "nas", "search", NINE, "--address", "127.0.0.1:1"]
    answer = subprocess.run(line, capture_output=True, text=True, cwd=folder, check=False, timeout=900)
    assert (answer.returncode, len(answer.stderr.strip().splitlines())) == (2, 1), answer.stderr
    assert "address '127.0.0.1:1': no Ray cluster answers there" in answer.stderr
    assert "Traceback" not in answer.stdout
    assert files(folder) == before


def test_experiments_and_spaces_are_listed_one_line_each(tmp_path, typed):
    assert "  digits_mobilenetv3 " in typed("search", cwd=tmp_path)
    listed = typed("space", cwd=tmp_path)
    assert all(f"  {name} " in listed for name in ("mnasnet", "mobilenetv3", "mobilenetv4", "efficientnet", "compound"))


def test_a_space_is_described(tmp_path, typed):
    described = typed("space", "mobilenetv3", cwd=tmp_path)
    assert "66 parameters, 1.13e+37 points" in described
    assert "mobilenetv3_large_100                 5.483    216.590" in described


def test_every_field_is_in_the_help_with_its_docstring(tmp_path, typed):
    shown = typed("search", NINE, "--help", cwd=tmp_path)
    for field in (
        "--space.resolution",
        "--dataset.num-images",
        "--limit",
        "--trials",
        "--train.lr",
        "--gpus-per-trial",
        "--sampler",
    ):
        assert field in shown
    assert "Learning rate at the end of the warm-up" in shown
    assert "Side of the input, pixels." in shown


def test_another_space_and_dataset_by_name(tmp_path, typed):
    shown = typed("search", NINE, "--space", "compound", "--dataset=digits", "--help", cwd=tmp_path)
    assert "--space.max-phi" in shown
    assert "--dataset.num-images" not in shown


def test_a_folder_of_photographs_is_searched_exported_and_trained_to_the_end(running_ray, tmp_path, typed):
    for part, number in (("train", 40), ("val", 10)):
        for label, name in enumerate(("dunkel", "明るい")):
            for i in range(number):
                path = tmp_path / "photos" / part / name / f"{i}.png"
                save(path, (150 * label + 2 * i, 40, 60), (30, 20), below=(40, 60, 2 * i))
    options = ["--dataset", "image_folder", "--dataset.side", 32, "--train.epochs", 2, "--train.batch-size", 16]
    place = ["--dataset.root", "./photos"]
    printed = typed("search", "digits_mobilenetv3", *options, *place, "--space.resolutions", 32, "--trials", 1, cwd=tmp_path)
    assert "1 done, 0 failed" in printed
    assert f"decoding 100 images of {tmp_path}/photos to 32 px, once" in printed
    assert "read 100 images of 2 classes (dunkel 50, 明るい 50): 72 to train on, 8 to rank on, 20 to test on" in printed
    (run,) = (tmp_path / "runs").iterdir()
    _check_that_a_run_means_the_same_images(run, tmp_path)
    printed = typed("export", run, "--trial", 0, "--output", "net", cwd=tmp_path)
    assert "over 8 images of image_folder" in printed
    assert "over 20 images of image_folder" in printed
    card = json.loads((tmp_path / "net" / CARD_FILE).read_text(encoding="utf-8"))
    assert card["classes"] == ["dunkel", "明るい"]
    typed("train", "./net", *options, "--dataset.root", "./moved", cwd=tmp_path)
    final = json.loads((tmp_path / "exports" / "net-image_folder" / CARD_FILE).read_text(encoding="utf-8"))
    assert (final["id"], final["classes"]) == (card["id"], card["classes"])


def _check_that_a_run_means_the_same_images(run, folder):
    """Commands after a move to `moved`, beside others of the same names, and after a change; images and run end there."""
    photos, moved, elsewhere = folder / "photos", folder / "moved", folder / "elsewhere"
    elsewhere.mkdir()
    photos.rename(moved)
    gone = f"images are gone from {photos}; put them back, or name their new place with `nas resume {run} --dataset.root PATH`"
    table = type_command("table", run, cwd=elsewhere)
    assert (table.code, "1 done" in table.printed, table.errors) == (0, True, f"nas: {run}: its {gone}\n")
    refused = type_command("resume", run, "--trials", 2, cwd=folder)
    assert (refused.code, refused.errors) == (2, f"nas: {run}: its {gone}\n")

    shutil.copytree(moved, photos)
    save(photos / "val" / "dunkel" / "0.png", (1, 2, 3), (30, 20))
    refused = type_command("resume", run, "--trials", 2, cwd=folder)
    assert (refused.code, "began: other contents in test/dunkel; begin a new" in refused.errors) == (2, True), refused.errors
    shutil.rmtree(photos)
    resumed = type_command("resume", run, "--dataset.root", "../moved", cwd=elsewhere)
    assert (resumed.code, "its images are read from their new place" in resumed.printed) == (0, True), resumed.errors


def test_an_output_that_is_closed_ends_a_command_without_a_word(digits_run, tmp_path):
    """As `nas table RUN | head -1` closes it."""
    line = f"{shlex.quote(sys.executable)} -m nas table {shlex.quote(str(digits_run))} | head -0"
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert answer.stderr == ""
