"""`nas export`: it classifies as the trial did, is never put over something else, and is refused once it is damaged."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.models.export_folder import write_digests
from nas.models.network import ARCHITECTURE_FILE, CARD_FILE, WEIGHTS_FILE
from nas.training.predict import Preprocess, fingerprint, predict
from tests.conftest import files
from tests.simulated_search import new_run

pytestmark = pytest.mark.slow


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_an_exported_network_classifies_as_in_its_trial_to_the_last_image(digits_run, digits_export):
    card = json.loads((digits_export / CARD_FILE).read_text())
    row = nas.results(digits_run).set_index("trial").loc[card["trial"]]
    assert card["id"] == row["id"]
    assert card["accuracy"]["val_top1_pct"] == row["val_top1_pct"]
    assert card["accuracy"]["test_images"] == 359
    assert card["accuracy"]["identical_to_trial"]
    model, digits = nas.load(digits_export), nas.dataset("digits")
    assert not model.training
    resolution = json.loads(row["architecture"])["resolution"]
    data, preprocess = digits.load("val"), Preprocess(resolution=resolution, mean=digits.mean, std=digits.std)
    torch.set_num_threads(1)
    assert fingerprint(predict(model, data, preprocess)) == row["fingerprint"]
    with torch.no_grad():
        model.classifier.bias[0] += 100.0
    assert fingerprint(predict(model, data, preprocess)) != row["fingerprint"]


def test_an_export_can_be_made_again(digits_run, digits_export, tmp_path, typed):
    shutil.copytree(digits_export, tmp_path / "net")
    typed("export", digits_run, "--best", "val_top1_pct", "--output", "net", cwd=tmp_path)
    for name in (ARCHITECTURE_FILE, WEIGHTS_FILE, "config.json", "model.py", "model.onnx"):
        assert (tmp_path / "net" / name).read_bytes() == (digits_export / name).read_bytes()


@pytest.mark.parametrize("names", [["card.json", "notes.txt"], None], ids=["folder", "file"])
def test_something_else_is_never_replaced(digits_run, tmp_path, mistaken, names):
    target = tmp_path / "mine"
    if names is None:
        target.write_text("mine")
    else:
        target.mkdir()
        for name in names:
            (target / name).write_text("mine")
    arguments = ("export", digits_run, "--best", "val_top1_pct", "--output", target)
    assert "is there already and is not an export" in mistaken(*arguments, cwd=tmp_path)
    assert [path.read_text() for path in files(tmp_path) if path.is_file()] == ["mine"] * len(names or [target])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / WEIGHTS_FILE).unlink(), "has no model.safetensors"),
        (
            lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes()[:-100]),
            "model.safetensors is not what was exported: its SHA-256 is another",
        ),
        (lambda f: (f / ARCHITECTURE_FILE).write_text(nas.reference("mobilenetv2_050").to_json()), "the card is of architecture"),
        (lambda f: edit(f / ARCHITECTURE_FILE, "relu", "silu"), "the card is of architecture|activation"),
        (lambda f: (f / ARCHITECTURE_FILE).write_bytes(b"\xff\xfe"), "is damaged: it is not a text"),
        (lambda f: (f / CARD_FILE).write_text("[" * 5000), "is damaged"),
        (lambda f: (f / ARCHITECTURE_FILE).write_text("{}"), "architecture.resolution: missing"),
        (lambda f: (f / CARD_FILE).write_text("[1"), "is damaged"),
        (lambda f: edit(f / CARD_FILE, '"9"', '"9", "ten"'), "does not hold the weights"),
    ],
)
def test_a_damaged_export_is_refused_in_one_sentence(digits_export, tmp_path, damage, sentence):
    copy = shutil.copytree(digits_export, tmp_path / "copy")
    damage(copy)
    if "SHA-256" not in sentence:
        write_digests(copy)  # as a stranger would
    with pytest.raises(nas.NasError, match=sentence) as caught:
        nas.load(copy)
    assert "\n" not in str(caught.value)


def test_weights_that_classify_otherwise_are_not_exported(digits_run, tmp_path):
    """The right names and shapes, but the classes changed places."""
    trial = int(nas.results(digits_run).query("is_front")["trial"].iloc[0])
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    for name in ("experiment.json", "trials.jsonl"):
        shutil.copy(digits_run / name, copy)
    state = load_file(digits_run / "checkpoints" / f"{trial}.safetensors")
    state |= {f"classifier.{name}": state[f"classifier.{name}"].flip(0).contiguous() for name in ("weight", "bias")}
    save_file(state, copy / "checkpoints" / f"{trial}.safetensors")
    with pytest.raises(nas.NasError, match="do not classify the search validation part as in the trial"):
        nas.export(copy, trial=trial)
    assert not (copy / "exports").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trial", "99"], "trial 99 is not in this run; done:"),
        (["--trial", "1", "--best", "macs_m"], "give --trial or --best"),
        ([], "give --trial or --best"),
        (["--best", "top1"], "objective 'top1' does not exist"),
        (["--best", "macs_m", "--output", "/proc/sys/net1"], "/proc/sys/net1 cannot be written"),
    ],
)
def test_a_wrong_export_is_one_sentence(digits_run, tmp_path, mistaken, arguments, sentence):
    assert sentence in mistaken("export", digits_run, *arguments, cwd=tmp_path)


def test_a_failed_trial_is_not_exported(tmp_path):
    played = new_run(tmp_path, trials=1)
    played.ask("a")
    played.searcher.fail("a", "ImportError: no module")
    with pytest.raises(nas.NasError, match="trial 0 is failed, and only a done one has a network"):
        nas.export(played.run, trial=0)
