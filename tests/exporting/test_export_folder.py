"""What leaves: a folder whose every file gives what the trial gave, in a process without this project; and what comes back."""

import json
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
from nas.exporting import fresh_process
from nas.exporting.from_run import load_unchanged
from nas.exporting.full_training import FullTraining, initial_weights, load_first, run_training
from nas.exporting.proof import prove
from nas.models.export_folder import FILES, read_export
from nas.models.network import find_network
from nas.runs.run_folder import read_experiment
from nas.training.checkpoint import best_file
from nas.training.predict import Preprocess
from nas.training.settings import TrainSettings
from tests.conftest import DATA, type_command
from tests.made_up_runs import describe_run

pytestmark = pytest.mark.slow
ARTEFACTS = ("config.json", "model.py", "model.pt2", "model.onnx")


@pytest.fixture(scope="module")
def front(digits_run, tmp_path_factory):
    """A folder with every network of the front, with int8, and what was printed of them."""
    folder = tmp_path_factory.mktemp("front")
    answer = type_command("export", digits_run, "--front", "--int8", "--output", folder, cwd=folder)
    assert answer.code == 0, answer.errors
    return folder, answer.printed


@pytest.fixture(scope="module")
def exported(front, digits_run):
    """The most accurate network."""
    return front[0] / f"trial{nas.best(nas.results(digits_run), 'val_top1_pct')['trial']}"


@pytest.fixture
def card(exported):
    return json.loads((exported / "card.json").read_text())


def whole_part(part, card):
    """What the network reads of every image of a part of the digits, and their labels."""
    data, how = nas.dataset("digits").load(part), card["preprocess"]
    preprocess = Preprocess(resolution=how["resolution"], mean=tuple(how["mean"]), std=tuple(how["std"]))
    return preprocess(torch.from_numpy(data.images)).contiguous(), data.labels


def test_the_front_is_exported_with_a_folder_each(front, digits_run):
    folder, printed = front
    trials = sorted(nas.front(nas.results(digits_run))["trial"])
    assert sorted(int(path.name.removeprefix("trial")) for path in folder.iterdir()) == trials
    assert all(read_export(path) for path in folder.iterdir())
    lines = re.findall(r"^trial\d+: val_top1_pct [\d.]+, test_top1_pct [\d.]+, logits within", printed, re.MULTILINE)
    assert len(lines) == len(trials)


def test_the_folder_has_every_file_and_the_card_says_what_it_proved(exported, card):
    assert {path.name for path in exported.iterdir()} == FILES
    assert tuple(card["proof"]) == (*ARTEFACTS, "model_int8.onnx")
    assert card["proof"]["model_int8.onnx"]["same_class"] > 0.8
    for found in (card["proof"][name] for name in ARTEFACTS):
        assert found["images"] == 128
        assert found["source"] == "128 of the validation part"
        assert found["same_class"] == 1
        assert found["logit_difference"] < 1e-4
    assert set(card["latency"]) in (
        {"not_measured"},
        {"median_ms", "q25_ms", "q75_ms", "runs", "device", "runtime", "threads", "batch"},
    )


@pytest.mark.parametrize("name", ARTEFACTS)
def test_reloaded_accuracy_is_the_trials_to_the_last_image(digits_run, exported, card, name, monkeypatch):
    """From a search on real images to each file: as many validation images are right as at the end of the trial."""
    row = nas.results(digits_run).set_index("trial").loc[card["trial"]]
    images, labels = whole_part("val", card)
    monkeypatch.syspath_prepend(str(exported))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    with torch.inference_mode():
        logits = fresh_process.in_batches(fresh_process.FORMATS[name](exported), images.numpy())
    monkeypatch.delitem(sys.modules, "model", raising=False)
    assert 100 * (logits.argmax(1) == labels).sum() / len(labels) == row["val_top1_pct"]


def test_images_of_arrays_are_classified_alike_from_files(exported, card):
    read = card["image_files"]
    assert read["images"] == 128
    assert read["files"] == "written as PNG"
    assert read["order_of_timm"]
    for way in ("images.py", "timm"):
        assert read["ways"][way]["same_class"] > 0.95
        assert abs(read["ways"][way]["top1_pct"] - read["top1_pct"]) < 3
    assert (exported / "class_map.txt").read_text().split() == card["classes"] == card["class_folders"]


def test_int8_is_smaller_and_its_accuracy_is_what_the_card_says(exported, card):
    assert (exported / "model_int8.onnx").stat().st_size < 0.8 * (exported / "model.onnx").stat().st_size
    for part in ("val", "test"):
        assert card["accuracy"]["int8"][part] > card["accuracy"][f"{part}_top1_pct"] - 10
        images, labels = whole_part(part, card)
        classes = fresh_process.in_batches(fresh_process.onnx_run(exported / "model_int8.onnx"), images.numpy()).argmax(1)
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
    lines = [sys.executable, "-c", refuse + "\n".join(blocks)]
    answer = subprocess.run(lines, capture_output=True, text=True, check=False, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() in "0123456789"


def test_timm_takes_the_folder_as_it_is(exported, card):
    nas.register_with_timm()
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
    nas.register_with_timm()
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--front", "--trial", 0], "front: takes every network on it; leave out --trial"),
        (["--front", "--where", "macs_m<0"], "has no network on its front that meets the conditions"),
        ([], "give --trial or --best"),
        (["--trial", 0, "--where", "macs_m<0"], "trial 0 is not in this run, or does not meet the conditions"),
    ],
)
def test_a_mistake_is_one_sentence(digits_run, mistaken, arguments, sentence):
    assert sentence in mistaken("export", digits_run, *arguments, cwd=digits_run.parent)


@pytest.fixture
def copied(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))


def test_where_the_images_are_gone_generated_ones_prove_it(copied, exported, tmp_path):
    gone = replace(nas.dataset("image_folder"), root=str(tmp_path / "nowhere"))
    with pytest.raises(nas.NasError, match="nowhere"):
        nas.export(copied, best="val_top1_pct", dataset=gone, int8=True)
    folder = nas.export(copied, best="val_top1_pct", dataset=gone)
    card = json.loads((folder / "card.json").read_text())
    assert {found["source"] for found in card["proof"].values()} == {"128 generated"}
    assert "nowhere" in card["accuracy"]["not_measured"]
    before = json.loads((exported / "card.json").read_text())["accuracy"]
    assert card["accuracy"]["val_top1_pct"] == before["val_top1_pct"]
    assert "test_top1_pct" not in card["accuracy"]
    assert "not measured again" in (folder / "README.md").read_text()


def test_an_accuracy_on_other_images_never_passes_as_the_runs(copied, caplog):
    """The card then has the trial's, as where the images are gone."""
    dataset = nas.dataset("digits")

    def changed(part):
        described = read_experiment(copied)["dataset"]
        described["fingerprint"]["counts"][part]["0"] += 1
        describe_run(copied, dataset=described)

    changed("train")
    assert list(load_unchanged(read_experiment(copied), dataset, int8=False)) == ["val", "test"]
    assert "the images have changed since the run began: train/0 has 106, had 107; none of these is measured on" in caplog.text
    changed("val")
    with pytest.raises(nas.NasError, match="since the run began: val/0 has 36, had 37; an accuracy on these would be another"):
        nas.export(copied, best="val_top1_pct", int8=True)


def test_a_failed_proof_leaves_no_folder_that_looks_good(copied, monkeypatch):
    monkeypatch.setattr("nas.exporting.proof.SECONDS", 0.01)  # in which nothing runs
    with pytest.raises(nas.NasError, match=r"did not give 128 logits in 0 s"):
        nas.export(copied, best="val_top1_pct")
    assert list((copied / "exports").iterdir()) == []


def test_a_file_that_gives_other_logits_is_found(exported, card):
    """The folder of a network whose classes changed places."""
    side = card["preprocess"]["resolution"]
    model = nas.load(exported)
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.copy_(parameter.flip(0))
    with pytest.raises(nas.NasError, match=r"gives other logits than the network: they differ by up to .* get the same class"):
        prove(exported, model, torch.randn(8, 3, side, side), "8 drawn")


def test_a_file_that_does_not_run_is_found(exported, card, tmp_path):
    folder, side = shutil.copytree(exported, tmp_path / "net"), card["preprocess"]["resolution"]
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(nas.NasError, match="does not run without this project: ") as caught:
        prove(folder, nas.load(exported), torch.randn(8, 3, side, side), "8 drawn")
    assert "\n" not in str(caught.value)


def test_one_of_timms_networks_leaves_like_ours(tmp_path):
    options = ["--dataset", "digits", "--resolution", 32, "--train.epochs", 1, "--output", "net"]
    answer = type_command("train", "timm:test_resnet", *options, cwd=tmp_path)
    assert answer.code == 0, answer.errors
    assert "config.json, model.py, model.pt2, model.onnx give logits within" in answer.printed
    folder = tmp_path / "net"
    card = json.loads((folder / "card.json").read_text())
    assert tuple(card["proof"]) == ARTEFACTS
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3).num_classes == 3
    network, classes, _ = read_export(folder)
    assert (network.id, network.resolution, len(classes)) == ("timm:test_resnet", 32, 10)
    model = nas.load(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == card["cost"]["params"]
    images, labels = whole_part("val", card)
    with torch.inference_mode():
        correct = int((model(images).argmax(1) == torch.from_numpy(labels)).sum())
        maps = nas.load(folder, features_only=True)(images[:2])
    assert 100 * correct / len(labels) == pytest.approx(card["accuracy"]["val_top1_pct"])
    assert [32 // m.shape[-1] for m in maps] == [info["reduction"] for info in model.feature_info]


def test_an_export_goes_on_from_its_weights_without_the_classifier_where_the_classes_are_others(exported, tmp_path):
    """One pass with no step to speak of: all but the classifier stays as it was."""
    dataset, settings = nas.dataset(str(DATA / "shades.py")), TrainSettings(epochs=1, lr=1e-12, weight_decay=0)
    training = FullTraining(network=str(exported), dataset=dataset, train=settings, output=str(tmp_path / "tuned"))
    network = find_network(training.network)
    first = initial_weights(training, network)
    assert first.what.startswith(f"{network.id}, ")
    run_training(training, network, first)
    before, after = load_file(exported / "model.safetensors"), load_file(best_file(training.checkpoints, 1))
    kept = [name for name in before if name.endswith("weight") and not name.startswith("classifier")]
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in kept)
    assert after["classifier.weight"].shape == (2, before["classifier.weight"].shape[1])


@pytest.mark.parametrize(
    ("dataset", "weights", "same"),
    [("digits", "own", "all"), ("mnist", "own", "all"), ("imagenette", "own", "some"), ("digits", "new", "")],
)
def test_which_weights_a_training_begins_with(exported, dataset, weights, same):
    """The digits have MNIST's classes by name, and Imagenette's ten are others."""
    network = find_network(str(exported))
    training = FullTraining(network=str(exported), dataset=nas.dataset(dataset), weights=weights)
    first, model, before = initial_weights(training, network), network.build(10), load_file(exported / "model.safetensors")
    if first.state is not None:
        load_first(model, first.state, classifier=first.classifier)
    equal = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert ("conv_stem.weight" in equal, "classifier.weight" in equal) == (bool(same), same == "all")
