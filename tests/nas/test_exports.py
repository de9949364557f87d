"""What leaves: a folder whose every file gives what the trial gave, in processes without this project; and what comes back."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import AverageMeter
from timm.utils import accuracy as timm_accuracy

import nas
from nas import proof
from nas.artefacts import prove
from nas.exports import FILES, is_export, read_export
from nas.networks import find_network
from nas.predict import Preprocess
from nas.pretrained import load_first
from nas.recipe import TrainSettings
from nas.trainer import Training, first_weights, train_network

pytestmark = pytest.mark.slow
RUN = ["search", "digits_mobilenetv3", "--trials", "3", "--train.epochs", "3", "--seed", "1"]
ARTEFACTS = ("config.json", "model.py", "model.pt2", "model.onnx")


def command(*arguments, cwd):
    line = [sys.executable, "-m", "nas.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    answer = command(*RUN, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    (found,) = (folder / "runs").iterdir()
    return found


@pytest.fixture(scope="module")
def exported(run):
    """The most accurate network, with int8."""
    answer = command("export", run, "--best", "val_top1_pct", "--int8", "--output", "net", cwd=run.parent)
    assert answer.returncode == 0, answer.stderr
    assert "config.json, model.py, model.pt2, model.onnx give logits within" in answer.stdout
    return run.parent / "net"


@pytest.fixture
def card(exported):
    return json.loads((exported / "card.json").read_text())


def whole_part(part, card):
    """What the network reads of every image of a part of the digits, and their labels."""
    data, how = nas.dataset("digits").load(part), card["preprocess"]
    preprocess = Preprocess(resolution=how["resolution"], mean=tuple(how["mean"]), std=tuple(how["std"]))
    return preprocess(torch.from_numpy(data.images)).contiguous(), data.labels


def test_the_folder_has_every_file_and_the_card_says_what_it_proved(exported, card):
    assert {path.name for path in exported.iterdir()} == FILES
    assert is_export(exported)
    assert tuple(card["proof"]) == (*ARTEFACTS, "model_int8.onnx")
    assert card["proof"]["model_int8.onnx"]["same_class"] > 0.8
    for found in (card["proof"][name] for name in ARTEFACTS):
        assert found["images"] == 128
        assert found["source"] == "128 of the validation part"
        assert found["same_class"] == 1
        assert found["logit_difference"] < 1e-4
    assert set(card["sha256"]) == {"model.safetensors", "model.pt2", "model.onnx", "model_int8.onnx"}
    assert set(card["latency"]) in (
        {"not_measured"},
        {"median_ms", "q25_ms", "q75_ms", "runs", "device", "runtime", "threads", "batch"},
    )


@pytest.mark.parametrize("name", ARTEFACTS)
def test_reloaded_accuracy_is_the_trials_to_the_last_image(run, exported, card, name, monkeypatch):
    """From a search on real images to each file: as many validation images are right as at the end of the trial."""
    row = nas.results(run).set_index("trial").loc[card["trial"]]
    images, labels = whole_part("val", card)
    monkeypatch.syspath_prepend(str(exported))
    with torch.inference_mode():
        logits = proof.in_batches(proof.ARTEFACTS[name](exported), images.numpy())
    monkeypatch.delitem(sys.modules, "model", raising=False)
    assert 100 * (logits.argmax(1) == labels).sum() / len(labels) == row["val_top1_pct"]


def test_int8_is_smaller_and_its_accuracy_is_what_the_card_says(exported, card):
    assert (exported / "model_int8.onnx").stat().st_size < 0.8 * (exported / "model.onnx").stat().st_size
    for part in ("val", "test"):
        assert card["accuracy"]["int8"][part] > card["accuracy"][f"{part}_top1_pct"] - 10
        images, labels = whole_part(part, card)
        classes = proof.in_batches(proof.onnx_run(exported / "model_int8.onnx"), images.numpy()).argmax(1)
        assert abs(100 * float((classes == labels).mean()) - card["accuracy"]["int8"][part]) < 100 * 3 / len(labels)


def test_the_onnx_file_takes_any_batch_and_states_its_opset(exported, card):
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [17]
    assert "opset 17" in (exported / "README.md").read_text()
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    side = card["preprocess"]["resolution"]
    for batch in (1, 3):
        assert session.run(None, {"image": np.zeros((batch, 3, side, side), np.float32)})[0].shape == (batch, 10)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_what_the_readme_of_an_export_says_runs_without_this_project(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "net")
    Image.fromarray(nas.dataset("digits").load("test").images[0]).resize((40, 30)).save(folder / "photo.jpg")
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    refuse = "import sys; sys.modules |= dict.fromkeys(('nas', 'search_spaces', 'experiments'))\n"
    for block in blocks:
        answer = subprocess.run([sys.executable, "-c", refuse + block], capture_output=True, text=True, check=False, cwd=folder)
        assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() in "0123456789"


def test_timm_takes_the_folder_as_it_is(exported, card):
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    assert timm.create_model(f"local-dir:{exported}", pretrained=True, num_classes=3).classifier.out_features == 3
    maps = timm.create_model(f"local-dir:{exported}", pretrained=True, features_only=True)
    assert maps.feature_info.channels() == [info["num_chs"] for info in model.feature_info]
    config, how = resolve_data_config({}, model=model), card["preprocess"]
    assert list(config["input_size"]) == [3, how["resolution"], how["resolution"]]
    assert (list(config["mean"]), list(config["std"]), config["crop_pct"]) == (how["mean"], how["std"], 1.0)
    assert model.pretrained_cfg["label_names"] == card["classes"]


def test_timms_dataset_loader_and_metric_give_the_accuracy_of_the_card(exported, card, tmp_path):
    """Image files, timm's dataset and loader with the transform of the config, its top-1."""
    data = nas.dataset("digits").load("test")
    for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / str(label) / f"{i}.png")
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    config = resolve_data_config({}, model=model)
    named = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    loader = create_loader(
        create_dataset("", root=str(tmp_path)),
        batch_size=64,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        **{name: config[name] for name in named},
    )
    meter = AverageMeter()
    with torch.inference_mode():
        for images, labels in loader:
            (top1,) = timm_accuracy(model(images), labels)
            meter.update(top1.item(), len(labels))
    assert meter.count == len(data)
    assert abs(meter.avg - card["accuracy"]["test_top1_pct"]) < 2  # PIL's bilinear resizing is not torch's


def test_the_front_is_exported_with_a_folder_each(run, exported, tmp_path):
    answer = command("export", run, "--front", "--output", tmp_path / "all", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    trials = sorted(nas.front(nas.results(run))["trial"])
    assert sorted(int(path.name.removeprefix("trial")) for path in (tmp_path / "all").iterdir()) == trials
    assert all(is_export(path) for path in (tmp_path / "all").iterdir())
    assert len(
        re.findall(r"^all/trial\d+: val_top1_pct [\d.]+, test_top1_pct [\d.]+, logits within", answer.stdout, re.MULTILINE)
    ) == len(trials)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--front", "--trial", 0], "front: takes every network on it; leave out --trial"),
        (["--front", "--where", "macs_m<0"], "has no network on its front that meets the conditions"),
        ([], "give --trial or --best"),
    ],
)
def test_a_mistake_is_one_sentence(run, mistaken, arguments, sentence):
    assert sentence in mistaken("export", run, *arguments, cwd=run.parent)


def test_where_the_images_are_gone_generated_ones_prove_it(run, exported, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    gone = replace(nas.dataset("image_folder"), root=str(tmp_path / "nowhere"))
    folder = nas.export(copy, best="val_top1_pct", dataset=gone)
    card = json.loads((folder / "card.json").read_text())
    assert {found["source"] for found in card["proof"].values()} == {"100 generated"}
    assert "nowhere" in card["accuracy"]["not_measured"]
    before = json.loads((exported / "card.json").read_text())["accuracy"]
    assert card["accuracy"]["val_top1_pct"] == before["val_top1_pct"]
    assert "test_top1_pct" not in card["accuracy"]
    assert "not measured again" in (folder / "README.md").read_text()
    with pytest.raises(nas.NasError, match="nowhere"):
        nas.export(copy, best="val_top1_pct", dataset=gone, int8=True)


def test_a_file_that_gives_other_logits_is_found(exported, card):
    """The folder of a network whose classes changed places."""
    side = card["preprocess"]["resolution"]
    model = nas.load(exported)
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.copy_(parameter.flip(0))
    with pytest.raises(nas.NasError, match=r"gives other logits than the network: they differ by up to .* get the same class"):
        prove(exported, model, torch.randn(8, 3, side, side), "8 drawn")


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_file_that_does_not_run_is_found(exported, card, tmp_path, name):
    folder, side = shutil.copytree(exported, tmp_path / "net"), card["preprocess"]["resolution"]
    (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    with pytest.raises(nas.NasError, match="does not run without this project: ") as caught:
        prove(folder, nas.load(exported), torch.randn(8, 3, side, side), "8 drawn")
    assert "\n" not in str(caught.value)


def test_a_failed_proof_leaves_no_folder_that_looks_good(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    monkeypatch.setattr("nas.artefacts.TOLERANCE", -1)  # which nothing meets
    with pytest.raises(nas.NasError, match="gives other logits than the network"):
        nas.export(copy, best="val_top1_pct")
    assert list((copy / "exports").iterdir()) == []


def test_one_of_timms_networks_leaves_like_ours(tmp_path):
    name = "timm:resnet18"
    options = ["--dataset", "digits", "--resolution", 32, "--train.epochs", 1, "--output", "net"]
    answer = command("train", name, *options, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    card = json.loads((tmp_path / "net" / "card.json").read_text())
    assert tuple(card["proof"]) == ARTEFACTS
    assert timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=3).num_classes == 3
    network, classes, _ = read_export(tmp_path / "net")
    assert (network.id, len(classes)) == (name, 10)


def test_an_export_goes_on_from_its_weights_without_the_classifier_where_the_classes_are_others(exported, tmp_path):
    """One pass with no step to speak of: all but the classifier stays as it was."""
    (tmp_path / "fewer.py").write_text(FEWER)
    dataset, settings = nas.dataset(str(tmp_path / "fewer.py")), TrainSettings(epochs=1, lr=1e-12, weight_decay=0)
    training = Training(network=str(exported), dataset=dataset, train=settings, output=str(tmp_path / "tuned"))
    before, after = load_file(exported / "model.safetensors"), load_file(train_network(training) / "model.safetensors")
    kept = [name for name in before if name.endswith("weight") and not name.startswith("classifier")]
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in kept)
    assert after["classifier.weight"].shape == (2, before["classifier.weight"].shape[1])
    card = json.loads((tmp_path / "tuned" / "card.json").read_text())
    assert card["train"]["first_weights"].startswith(f"{card['id']}, ")


@pytest.mark.parametrize(
    ("dataset", "weights", "same"),
    [("digits", "own", "all"), ("mnist", "own", "all"), ("imagenette", "own", "some"), ("digits", "new", "")],
)
def test_which_weights_a_training_begins_with(exported, dataset, weights, same):
    """The digits have MNIST's classes by name, and Imagenette's ten are others."""
    network = find_network(str(exported))
    training = Training(network=str(exported), dataset=nas.dataset(dataset), weights=weights)
    first, model, before = first_weights(training, network), network.build(10), load_file(exported / "model.safetensors")
    if first.state is not None:
        load_first(model, first.state, classifier=first.classifier)
    equal = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert ("conv_stem.weight" in equal, "classifier.weight" in equal) == (bool(same), same == "all")


FEWER = """
from dataclasses import dataclass
import nas

@dataclass(frozen=True, kw_only=True)
class Fewer:
    name = "fewer"
    classes = ("0", "1")
    mean, std, mirrors = (0.5,) * 3, (0.5,) * 3, False
    def load(self, part):
        data = nas.dataset("digits").load(part)
        chosen = data.labels < 2
        return nas.ImageData(images=data.images[chosen], labels=data.labels[chosen])

DATASET = Fewer()
"""
