"""The whole flow with Ray, from the command line as a user types it: a file of one's own, failures, export, reloading."""

import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.latency.build import reachable
from nas.latency.table import read_table, table_folder
from nas.networks import ARCHITECTURE_FILE, CARD_FILE
from nas.plugins import load_plugin
from nas.predict import Preprocess, fingerprint, predict
from nas.weights import WEIGHTS_FILE
from tests.conftest import files
from tests.data.pictures import save
from tests.nas.test_latency import made_up

README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.slow

# A dataset and objectives of one's own in one file, the experiment with a space of its own in another.
PARTS = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from nas import ImageData, Objective

@dataclass(frozen=True)
class Shades:
    """Dark and bright images."""
    num_images: int = 64
    name = "shades"
    classes = ("dark", "bright")
    mean = std = (0.5, 0.5, 0.5)
    mirrors = True

    def load(self, part):
        if part == "test":
            Path("test_was_read").touch()
        generator = np.random.default_rng(["train", "val", "test"].index(part))
        labels = np.arange(self.num_images, dtype=np.int64) % 2
        images = generator.integers(0, 100, (self.num_images, 16, 16, 3), dtype=np.uint8)
        images[labels == 1] += 150
        return ImageData(images=images, labels=labels)

def measure_confidence(candidate):
    kernel = candidate.architecture.stages[1][0].kernel
    width = candidate.architecture.stages[1][0].width
    if (kernel, width) == (7, 8):
        os.kill(os.getpid(), signal.SIGKILL)
    if (kernel, width) == (7, 16):
        raise MemoryError("no room")
    if (kernel, width) == (7, 24):
        return float("nan")
    return 1.0 - candidate.report.history[-1].train_loss

def measure_kernel(candidate):
    return candidate.architecture.stages[1][0].kernel

CONFIDENCE = Objective(name="confidence_nat", direction="maximize", needs_training=True, measure=measure_confidence)
KERNEL = Objective(name="kernel_px", direction="minimize", needs_training=False, measure=measure_kernel)
'''
EXPERIMENT = '''
"""An experiment of one's own."""
from dataclasses import dataclass, replace
from optuna.distributions import CategoricalDistribution
from my_parts import CONFIDENCE, KERNEL, Shades
from nas import Experiment, TrainSettings, objective, reference

@dataclass(frozen=True, kw_only=True)
class Nine:
    """Nine networks: a kernel and a width."""
    resolution: int = 16
    """Side of the input, pixels."""
    name = "nine"
    references = {}
    parameters = {"kernel": CategoricalDistribution((3, 5, 7)), "width": CategoricalDistribution((8, 16, 24))}

    def decode(self, params):
        base = reference("mobilenetv2_035")
        (block,) = base.stages[0]
        second = replace(base.stages[1][0], kernel=params["kernel"], width=params["width"])
        third = replace(base.stages[2][0], hidden=params["width"] * 6)
        return replace(base, resolution=self.resolution, stages=((block,), (second,), (third,)))

    def encode(self, architecture):
        block = architecture.stages[1][0]
        return {"kernel": block.kernel, "width": block.width}

EXPERIMENT = Experiment(
    space=Nine(),
    dataset=Shades(),
    objectives=(objective("val_top1_pct"), CONFIDENCE, KERNEL),
    train=TrainSettings(epochs=2, batch_size=16),
    trials=9,
    workers=2,
)
'''


SECONDS = 'name="seconds", direction="minimize", needs_training=False, measure=len'


def readme_dataset():
    """The dataset file that the README shows."""
    (source,) = re.findall(r"```python\n(\"{3}Images that lie.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return source


def command(*arguments, cwd, **environment):
    """`nas` with some arguments, as a shell would run it."""
    line = [sys.executable, "-m", "nas.cli", *map(str, arguments)]
    variables = os.environ | {"COLUMNS": "200"} | environment
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=variables, check=False, timeout=900)


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the user works: a folder with two files of their own."""
    here = tmp_path_factory.mktemp("user")
    (here / "my_parts.py").write_text(PARTS)
    (here / "my_experiment.py").write_text(EXPERIMENT)
    (here / "my_images.py").write_text(readme_dataset())
    (here / "named_seconds.py").write_text("import nas\nOBJECTIVE = nas.Objective(\n    " + SECONDS + ")\n")
    return here


@pytest.fixture(scope="module")
def searched(folder):
    """One search over all nine networks, and what it printed."""
    answer = command("search", "./my_experiment.py", "--train.epochs", 3, "--dataset.num-images", 48, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert not (folder / "test_was_read").exists()  # a search never reads the test part
    (run,) = (folder / "runs").iterdir()
    return run, answer.stdout


def test_a_search_over_files_of_ones_own_ends_with_every_trial_a_row(searched):
    run, _ = searched
    df = nas.results(run)
    df = df[df["status"] != "repeated"]
    assert len(df) == 9
    assert df["id"].is_unique
    rows = df.set_index(["params.kernel", "params.width"])
    assert rows.loc[(7, 8), ["status", "reason", "retries"]].tolist() == ["failed", "crash", 1]  # the worker was killed, twice
    assert rows.loc[(7, 16), ["status", "reason", "error"]].tolist() == ["failed", "oom", "MemoryError: no room"]
    assert rows.loc[(7, 24), ["status", "reason"]].tolist() == ["failed", "nan"]
    done = df[df["status"] == "done"]
    assert len(done) == 6
    assert done[["val_top1_pct", "confidence_nat", "kernel_px", "seconds"]].notna().all(axis=None)
    assert (done["epochs"] == 3).all()
    assert set(done["device"]) == {next(iter(done["device"]))}
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert sorted((line["trial"], line["epoch"]) for line in lines) == [
        (trial, epoch) for trial in range(9) for epoch in (1, 2, 3)
    ]
    assert sorted(int(path.stem) for path in (run / "checkpoints").iterdir()) == sorted(done["trial"][done["is_front"]])


def test_a_search_says_what_it_did(searched):
    run, printed = searched
    assert f"run folder {run}" in printed
    assert "6 done, 3 failed" in printed
    assert "begins again: the worker process died" in printed
    assert "failed: oom, MemoryError: no room" in printed
    assert f"nas table runs/{run.name} --front" in printed
    assert "Traceback" not in printed


def test_the_table_of_a_run(searched, folder):
    run, _ = searched
    answer = command("table", run, cwd=folder)
    assert answer.returncode == 0
    assert len(answer.stdout.splitlines()) == 11  # a header, nine trials, the counts
    assert answer.stdout.splitlines()[-1].startswith("6 done, 0 stopped, 3 failed, 0 running")
    front = command("table", run, "--front", cwd=folder)
    assert len(front.stdout.splitlines()) == 2 + len(nas.front(nas.results(run)))


@pytest.fixture(scope="module")
def exported(searched, folder):
    run, _ = searched
    answer = command("export", run, "--best", "val_top1_pct", "--output", "net", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert "of shades" in answer.stdout
    assert (folder / "test_was_read").exists()
    (folder / "test_was_read").unlink()
    return folder / "net"


def test_an_exported_network_classifies_as_in_its_trial_to_the_last_image(searched, exported, folder):
    run, _ = searched
    card = json.loads((exported / CARD_FILE).read_text())
    row = nas.results(run).set_index("trial").loc[card["trial"]]
    assert card["id"] == row["id"]
    assert card["accuracy"]["val_top1_pct"] == row["val_top1_pct"]
    assert card["accuracy"]["test_images"] == 48
    assert card["accuracy"]["identical_to_trial"]
    model = nas.load(exported)
    assert not model.training
    dataset = replace(load_plugin("experiment", str(folder / "my_experiment.py")).dataset, num_images=48)
    data, preprocess = dataset.load("val"), Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.set_num_threads(1)
    assert fingerprint(predict(model, data, preprocess)) == row["fingerprint"]
    with torch.no_grad():
        model.classifier.bias += torch.tensor([100.0, 0.0])
    assert fingerprint(predict(model, data, preprocess)) != row["fingerprint"]


def test_an_export_can_be_made_again_and_never_over_something_else(searched, exported, folder):
    run, _ = searched
    same = (ARCHITECTURE_FILE, WEIGHTS_FILE, "config.json", "model.py", "model.onnx")
    before = [(exported / name).read_bytes() for name in same]
    assert command("export", run, "--best", "val_top1_pct", "--output", "net", cwd=folder).returncode == 0
    assert [(exported / name).read_bytes() for name in same] == before
    answer = command("export", run, "--best", "val_top1_pct", "--output", ".", cwd=folder)
    assert answer.returncode == 2
    assert (folder / "my_parts.py").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / WEIGHTS_FILE).unlink(), "has no model.safetensors"),
        (lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes()[:-100]), "its SHA-256 is another"),
        (lambda f: (f / ARCHITECTURE_FILE).write_text(nas.reference("mobilenetv2_050").to_json()), "the card is of architecture"),
        (lambda f: edit(f / ARCHITECTURE_FILE, "relu6", "silu"), "the card is of architecture"),
        (lambda f: (f / ARCHITECTURE_FILE).write_bytes(b"\xff\xfe"), "is damaged: it is not a text"),
        (lambda f: (f / CARD_FILE).write_text("[" * 5000), "is damaged"),
        (lambda f: (f / ARCHITECTURE_FILE).write_text("{}"), "architecture.resolution: missing"),
        (lambda f: (f / CARD_FILE).write_text("[1"), "is damaged"),
        (lambda f: edit(f / CARD_FILE, '"dark",', ""), "does not hold the weights"),
    ],
)
def test_a_damaged_export_is_refused_in_one_sentence(exported, tmp_path, damage, sentence):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    damage(copy)
    with pytest.raises(nas.NasError, match=sentence) as caught:
        nas.load(copy)
    assert "\n" not in str(caught.value)


def test_weights_that_classify_otherwise_are_not_exported(searched, folder, tmp_path, monkeypatch):
    """The right names and shapes, but the classes changed places."""
    monkeypatch.chdir(tmp_path)  # the dataset leaves a file where its test part is read
    run, _ = searched
    trial = int(nas.results(run).query("is_front")["trial"].iloc[0])
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    for name in ("experiment.json", "trials.jsonl"):
        (copy / name).write_bytes((run / name).read_bytes())
    state = load_file(run / "checkpoints" / f"{trial}.safetensors")
    state |= {f"classifier.{name}": state[f"classifier.{name}"].flip(0).contiguous() for name in ("weight", "bias")}
    save_file(state, copy / "checkpoints" / f"{trial}.safetensors")
    with pytest.raises(nas.NasError, match="do not classify the search validation part as in the trial"):
        nas.export(copy, trial=trial)
    assert not (copy / "exports").exists()


def test_an_export_with_something_else_in_it_is_never_replaced(searched, folder):
    run, _ = searched
    for place, names in (("mixed", ["card.json", "notes.txt"]), ("file", None)):
        target = folder / place
        if names is None:
            target.write_text("mine")
        else:
            target.mkdir()
            for name in names:
                (target / name).write_text("mine")
        answer = command("export", run, "--best", "kernel_px", "--output", place, cwd=folder)
        assert answer.returncode == 2
        assert "is there already and is not an export" in answer.stderr
        left = [target] if names is None else sorted(target.iterdir())
        assert [path.read_text() for path in left] == ["mine"] * len(left)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", "digits_mobilenet"], "experiment 'digits_mobilenet' does not exist; did you mean 'digits_mobilenetv3'?"),
        (["search", "./nowhere.py"], "nowhere.py is not a file"),
        (["search", "./my_parts.py"], "my_parts.py exports no EXPERIMENT"),
        (["search", "./my_experiment.py", "--space", "mnasnett"], "space 'mnasnett' does not exist; did you mean 'mnasnet'?"),
        (["search", "./my_experiment.py", "--space"], "--space needs a name"),
        (["search", "./my_experiment.py", "--dataset", "digit"], "dataset 'digit' does not exist; did you mean 'digits'?"),
        (
            ["search", "./my_experiment.py", "--objectives", "val_top1"],
            "objective 'val_top1' does not exist; did you mean 'val_top1_pct'?",
        ),
        (["search", "./my_experiment.py", "--objectives"], "objectives: none given"),
        (["search", "./my_experiment.py", "--limit", "macs_m"], "limit 'macs_m' is not of the form"),
        (["search", "./my_experiment.py", "--limit", "confidence_nat>0"], "known only after training"),
        (["search", "./my_experiment.py", "--limit", "kernel_px<1"], "kernel_px goes from 3 to 7"),
        (["search", "./my_experiment.py", "--limit", "macs_m<0.0001"], "no network of space nine meets macs_m<=0.0001"),
        (["search", "./my_experiment.py", "--sampler", "tpee"], "sampler 'tpee' does not exist; did you mean 'tpe'?"),
        (["search", "./my_experiment.py", "--trials", "0"], "trials: 0 is not 1 or more"),
        (["search", "./my_experiment.py", "--train.optimizer", "adamx"], "optimizer 'adamx' does not exist"),
        (["search", "./my_experiment.py", "--train.precision", "half"], "train.precision: 'half' is not one of"),
        (
            ["search", "./my_experiment.py", "--gpus-per-trial", "1.5"],
            "gpus-per-trial: 1.5 is not a share from 0 to 1 or a whole number",
        ),
        (
            ["search", "./my_experiment.py", "--objectives", "./named_seconds.py"],
            "objective seconds: the table has a column of this name",
        ),
        (
            ["search", "digits_mobilenetv3", "--dataset", "./my_images.py"],
            "dataset my_images: the train part raised FileNotFoundError: [Errno 2] No such file or directory: 'images.npz'",
        ),
        (["space", "mnasnet", "--width", "3"], "nas space takes one name and nothing else"),
        (["search", "digits_mobilenetv3", "--space.skeletons", "huge"], "space.skeletons: 'huge' is not among large, small"),
        (["search", "digits_mobilenetv3", "--space.resolutions", "8"], "space.resolutions: 8 is not from 16 to 1024"),
        (["table", "."], "is not a run folder"),
        (["export", "."], "is not a run folder"),
        (["space", "mobilenet"], "space 'mobilenet' does not exist; did you mean 'mobilenetv3'?"),
        (["tabel"], "command 'tabel' does not exist; did you mean 'table'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_nothing_half_written(folder, mistaken, arguments, sentence):
    assert sentence in mistaken(*arguments, cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", "./my_experiment.py", "--sampler", "tpee"], "sampler 'tpee' does not exist; did you mean 'tpe'?"),
        (["search", "./my_experiment.py", "--gpus-per-trial", "64"], "gpus-per-trial: 64 is more than the"),
        (["search", "./my_experiment.py", "--runs", "/proc/nas"], "runs folder '/proc/nas' cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_shell_sees_one_sentence_and_exit_code_2_and_nothing_half_written(folder, arguments, sentence):
    before = files(folder)
    answer = command(*arguments, cwd=folder)
    assert (answer.returncode, len(answer.stderr.strip().splitlines())) == (2, 1), answer.stderr
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stdout
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trial", "99"], "trial 99 is not in this run; done:"),
        (["--trial", "1", "--best", "kernel_px"], "give --trial or --best"),
        ([], "give --trial or --best"),
        (["--best", "top1"], "objective 'top1' does not exist"),
        (["--best", "kernel_px", "--output", "/proc/sys/net1"], "/proc/sys/net1 cannot be written"),
    ],
)
def test_a_wrong_export_is_one_sentence(folder, searched, mistaken, arguments, sentence):
    (folder / "test_was_read").touch()  # as the user's own file does when an export is measured
    assert sentence in mistaken("export", searched[0], *arguments, cwd=folder)


def test_a_failed_trial_is_not_exported(searched):
    run, _ = searched
    failed = nas.results(run).query("status == 'failed'")["trial"].iloc[0]
    with pytest.raises(nas.NasError, match=f"trial {failed} is failed, and only a done one has a network"):
        nas.export(run, trial=int(failed))


def test_experiments_and_spaces_are_listed_one_line_each(folder):
    listed = command("search", cwd=folder).stdout
    assert "  digits_mobilenetv3 " in listed
    listed = command("space", cwd=folder).stdout
    assert all(f"  {name} " in listed for name in ("mnasnet", "mobilenetv3", "efficientnet", "compound"))


def test_a_space_is_described(folder):
    described = command("space", "mobilenetv3", cwd=folder).stdout
    assert "66 parameters, 1.13e+37 points" in described
    assert "mobilenetv3_large_100                 5.483    216.590" in described


def test_every_field_is_in_the_help_with_its_docstring(folder):
    shown = command("search", "./my_experiment.py", "--help", cwd=folder).stdout
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


def test_another_space_and_dataset_by_name(folder):
    shown = command("search", "./my_experiment.py", "--space", "compound", "--dataset=digits", "--help", cwd=folder).stdout
    assert "--space.max-phi" in shown
    assert "--dataset.num-images" not in shown


def readme_searches():
    """The searches by name that the README shows, as lists of words, without those that a file of one's own is needed for."""
    (block,) = re.findall(r"```\n(nas search  .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    return [words for words in lines if len(words) > 1 and not words[1].endswith(".py")]


@pytest.mark.parametrize("words", readme_searches(), ids=" ".join)
def test_the_readmes_searches_run(words, tmp_path):
    """With one trial of one epoch, since how many the README asks for does not matter."""
    for option in ("--trials", "--train.epochs"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    answer = command(*words, "--trials", 1, "--train.epochs", 1, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "1 done, 0 failed" in answer.stdout or "--help" in words


def test_the_readmes_dataset_file_searches_arrays(tmp_path):
    (tmp_path / "my_images.py").write_text(readme_dataset())
    labels = np.arange(200) // 10 % 2
    noise = np.random.default_rng(0).integers(0, 100, (200, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=noise + (150 * labels).astype(np.uint8)[:, None, None, None], labels=labels)
    options = ["--dataset", "./my_images.py", "--dataset.file", "./images.npz", "--trials", 1, "--train.epochs", 3]
    answer = command("search", "digits_mobilenetv3", *options, cwd=tmp_path)
    assert "1 done, 0 failed" in answer.stdout, answer.stdout + answer.stderr


def test_a_folder_of_photographs_is_searched_exported_and_trained_to_the_end(tmp_path):
    for part, number in (("train", 40), ("val", 10)):
        for label, name in enumerate(("dunkel", "明るい")):
            for i in range(number):
                save(tmp_path / "photos" / part / name / f"{i}.png", (150 * label + 2 * i, 40, 60), (30, 20))
    options = ["--dataset", "image_folder", "--dataset.root", "./photos", "--dataset.side", 32]
    recipe = ["--train.epochs", 1, "--train.batch-size", 16]
    answer = command("search", "digits_mobilenetv3", *options, *recipe, "--space.resolutions", 32, "--trials", 1, cwd=tmp_path)
    assert "1 done, 0 failed" in answer.stdout, answer.stdout + answer.stderr
    assert "decoding 100 images of photos to 32 px, once" in answer.stdout
    (run,) = (tmp_path / "runs").iterdir()
    answer = command("export", run, "--trial", 0, "--output", "net", cwd=tmp_path)
    assert "over 8 images of image_folder" in answer.stdout
    assert "over 20 images of image_folder" in answer.stdout
    card = json.loads((tmp_path / "net" / CARD_FILE).read_text(encoding="utf-8"))
    assert card["classes"] == ["dunkel", "明るい"]
    answer = command("train", "./net", *options, *recipe, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    final = json.loads((tmp_path / "exports" / "net-image_folder" / CARD_FILE).read_text(encoding="utf-8"))
    assert (final["id"], final["classes"]) == (card["id"], card["classes"])


def test_a_search_that_trains_nothing_reads_no_images(tmp_path):
    """MNIST is not here, and nobody asks for it."""
    options = ["--dataset", "mnist", "--objectives", "params_m", "macs_m", "--trials", 2]
    answer = command("search", "digits_mobilenetv3", *options, cwd=tmp_path)
    assert "2 done, 0 failed" in answer.stdout, answer.stdout + answer.stderr
    assert not (tmp_path / "data").exists()


def test_a_search_by_predicted_latency(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    experiment = load_plugin("experiment", "digits_mobilenetv3")
    networks = reachable(experiment.space, points=1_000)
    table = made_up(experiment.space.name, networks, 10)
    table.write(table_folder() / "phone.json")
    limit = statistics.median(table.predict(network, 10) for network in networks)
    options = ["--objectives", "val_top1_pct", "latency_ms", "--limit", f"latency_ms<{limit}", "--trials", 2, "--train.epochs", 1]
    answer = command("search", "digits_mobilenetv3", *options, cwd=tmp_path)
    assert "2 done, 0 failed" in answer.stdout, answer.stdout + answer.stderr
    assert (
        "latency/phone.json: Phone, onnxruntime 1, 1 thread(s), batch 1; not checked against measured networks" in answer.stdout
    )
    (run,) = (tmp_path / "runs").iterdir()
    assert read_table(run / "latency.json") == table
    done = nas.results(run).query("status == 'done'")
    for row in done.itertuples():
        assert row.latency_ms == table.predict(nas.Architecture.from_json(row.architecture), 10) <= limit


def test_from_python_without_the_command_line(tmp_path):
    """`nas.search` gives the run folder of an experiment that was made in code."""
    script = tmp_path / "script.py"
    script.write_text(
        """
from dataclasses import replace
import nas
from experiments.digits_mobilenetv3 import EXPERIMENT

if __name__ == "__main__":
    small = replace(EXPERIMENT, train=nas.TrainSettings(epochs=1), trials=2, runs="made", limits=(
        nas.Limit(objective=nas.objective("macs_m"), high=0.8),))
    run = nas.search(small)
    print(len(nas.results(run).query("status == 'done'")), nas.results(run)["macs_m"].min() < 0.8)
"""
    )
    answer = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=900)
    assert answer.stdout == "2 True\n", answer.stderr
    assert len(list((tmp_path / "made").iterdir())) == 1
    assert Path(tmp_path / "made").is_dir()
