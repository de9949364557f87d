"""A folder from a stranger: whatever is wrong with it is one sentence, before memory is taken; and timm's weights."""

import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.exporting.full_training import FullTraining, initial_weights, load_first, pretrained, run_training
from nas.models.architecture import Architecture, Head, Stem
from nas.models.export_folder import FILES, read_export, write_digests
from nas.models.network import OwnNetwork, find_network
from nas.models.stages import make_stages
from nas.models.zoo import MOBILENETV2
from nas.training.checkpoint import best_file, save_weights
from nas.training.settings import TrainSettings
from nas.training.teacher import load_teacher
from tests.data.shades import Shades

NUM_MUTATIONS = 200
BINARY = ("model.safetensors", "model.onnx", "model.pt2")


def tiny():
    return Architecture(
        resolution=32,
        convention="torch",
        activation="relu6",
        stem=Stem(width=8, stride=2),
        stages=make_stages(8, MOBILENETV2[:3], 0.35),
        head=Head(kind="efficientnet", width=32),
    )


def write_folder(folder):
    """The files that `nas.load` reads, or takes the digest of."""
    folder.mkdir(parents=True, exist_ok=True)
    network = OwnNetwork(architecture=tiny())
    (folder / "architecture.json").write_text(network.to_json())
    save_weights(network.build(3), folder / "model.safetensors")
    for name in BINARY[1:]:
        (folder / name).write_bytes(random.Random(name).randbytes(2000))
    sign(folder)
    return folder


def sign(folder):
    """The card and the digests of the files that are there, as a stranger would write them."""
    card = {"id": tiny().id, "classes": ["a", "b", "c"]}
    card |= {"preprocess": {"resolution": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    (folder / "card.json").write_text(json.dumps(card))
    write_digests(folder)


def mutate(folder, rng):
    """Break a folder in one of the ways that files break, or are broken."""
    file = folder / rng.choice(
        ("SHA256SUMS", "architecture.json", "card.json", "model.safetensors", "model.safetensors", *BINARY[1:])
    )
    data = bytearray(file.read_bytes())
    header = int.from_bytes(data[:8], "little") if file.name == "model.safetensors" else 0
    match rng.randrange(9):
        case 0:  # bits flip
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            data += rng.randbytes(rng.randint(1, 5000))
        case 3:
            start = rng.randrange(len(data))
            data[start : start + rng.randint(1, 64)] = rng.randbytes(rng.randint(0, 64))
        case 4:  # a huge header
            data[:8] = struct.pack("<Q", rng.choice((2**20, 2**31, 2**40, 2**63, 2**64 - 1)))
        case 5:  # a value in a text, or in the header, is another
            text = bytes(data[8 : 8 + header] if header else data).decode(errors="replace")
            numbers = [i for i, letter in enumerate(text) if letter.isdigit()]
            place, value = (
                rng.choice(numbers),
                rng.choice(("-1", "0", "9" * rng.randint(1, 400), "1e999", "null", '"x"', "[]", "{}")),
            )
            text = text[:place] + value + text[place + 1 :]
            data = bytearray(struct.pack("<Q", len(text)) + text.encode() + data[8 + header :] if header else text.encode())
        case 6:  # tensors that are not the network's
            state = load_file(folder / "model.safetensors")
            name = rng.choice(list(state))
            other = rng.choice(
                (None, torch.zeros(3), state[name].double(), state[name][None], torch.zeros(0), state[name].half())
            )
            state = {key: value for key, value in state.items() if key != name} | ({} if other is None else {name: other})
            state |= {"more": torch.zeros(2)} if rng.random() < 0.3 else {}
            save_file(state, folder / "model.safetensors")
            file, data = folder / "model.safetensors", bytearray((folder / "model.safetensors").read_bytes())
        case 7:  # no file of its own
            file.unlink()
            ways = (
                lambda: file.symlink_to("/dev/zero"),
                lambda: file.symlink_to("/etc/hostname"),
                file.mkdir,
                lambda: os.mkfifo(file),
            )
            rng.choice(ways)()
            return
        case _:  # a text that is deep, or not one
            data = bytearray(rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b"", b"null", b"1" * 10_000)))
    file.write_bytes(data)
    if rng.random() < 0.7 and file.name in ("model.safetensors", "architecture.json", "card.json"):
        write_digests(folder)


def refusal(folder):
    try:
        nas.load(folder)
    except nas.NasError as error:
        return str(error)
    return ""


def test_two_hundred_broken_folders_are_a_sentence_each_or_the_network(tmp_path):
    """Within a gigabyte of address space beyond what is in use, so that nothing asks for what a header claims."""
    whole, rng, outcomes = write_folder(tmp_path / "whole"), random.Random(0), {"loaded": 0, "refused": 0}
    assert nas.load(whole)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        for i in range(NUM_MUTATIONS):
            folder = shutil.copytree(whole, tmp_path / "broken")
            mutate(folder, rng)
            sentence = refusal(folder)
            assert "\n" not in sentence, (i, sentence)
            assert len(sentence) < 1000, (i, sentence)
            outcomes["refused" if sentence else "loaded"] += 1
            shutil.rmtree(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert sum(outcomes.values()) == NUM_MUTATIONS
    assert outcomes["refused"] > 0.8 * NUM_MUTATIONS


def test_a_change_in_any_file_is_noticed_and_the_file_named(tmp_path, caplog):
    """One bit flips at either end of each file, and in its middle; the README alone is there to be edited."""
    folder = write_folder(tmp_path / "net")
    for name in FILES - {path.name for path in folder.iterdir()}:
        (folder / name).write_text(f"the content of {name}\n")
    write_digests(folder)
    (folder / "photo.jpg").write_bytes(b"of the user")
    assert shutil.which("sha256sum") is None or subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True
    )
    assert read_export(folder)[1] == ["a", "b", "c"]
    assert not caplog.messages
    for file in sorted(folder / name for name in FILES - {"README.md"}):
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert file.name in refusal(folder) + caplog.text, (file.name, place)
            caplog.clear()
        file.write_bytes(whole)
    (folder / "README.md").write_text("edited")
    assert refusal(folder) == ""
    assert "README.md is not what was exported" in caplog.text


def test_an_error_in_the_architecture_names_its_file(tmp_path):
    folder = write_folder(tmp_path / "net")
    (folder / "architecture.json").write_text('{"resolution": 3}')
    write_digests(folder)
    for read in (read_export, lambda path: find_network(str(path))):
        with pytest.raises(nas.NasError, match=r"net/architecture\.json: architecture"):
            read(folder)


def test_a_published_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "mobilenetv2_035")
    training = FullTraining(network="mobilenetv2_035", dataset=nas.dataset("digits"))
    assert initial_weights(training, find_network("mobilenetv2_035")).what == "new"
    training = FullTraining(network="./mobilenetv2_035", dataset=nas.dataset("digits"))
    assert initial_weights(training, find_network("./mobilenetv2_035")).what.startswith(tiny().id)


def test_a_huge_text_or_file_is_refused_before_it_is_read(tmp_path):
    folder = write_folder(tmp_path / "net")
    for name, size in (("model.pt2", 2**40), ("card.json", 2**23), ("architecture.json", 2**23)):
        with (folder / name).open("r+b") as file:
            file.truncate(size)  # sparse
        with pytest.raises(nas.NasError, match=f"{name} has [0-9,]+ bytes, and "):
            nas.load(folder)


@pytest.mark.parametrize("link", ["architecture.json", "model.safetensors", "card.json"])
def test_a_link_is_not_followed(tmp_path, link):
    folder = write_folder(tmp_path / "net")
    (folder / link).rename(tmp_path / "elsewhere")
    (folder / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(nas.NasError, match=f"{link} is not a file of its own"):
        nas.load(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: state | {"classifier.weight": state["classifier.weight"].half()},
            r"its tensor 'classifier.weight' is F16 \[3, 32\]",
        ),
        (
            lambda state: state | {"conv_stem.weight": torch.zeros(2, 3, 3, 3)},
            r"its tensor 'conv_stem.weight' is F32 \[2, 3, 3, 3\]",
        ),
        (lambda state: state | {"more": torch.zeros(1)}, r"its tensor 'more' is F32 \[1\], and the network's is missing"),
        (
            lambda state: {k: v for k, v in state.items() if k != "bn1.bias"},
            "its tensor 'bn1.bias' is missing, and the network's is F32",
        ),
    ],
)
def test_weights_of_another_network_are_told_apart(tmp_path, change, sentence):
    folder = write_folder(tmp_path / "net")
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    sign(folder)
    with pytest.raises(nas.NasError, match=sentence):
        nas.load(folder)


def test_a_folder_is_read_without_unpickling_or_running_anything(tmp_path, monkeypatch):
    """Files that would tell if they were run lie beside the weights, under names that loaders know."""
    folder, told = write_folder(tmp_path / "net"), tmp_path / "was_run"
    for name in ("model.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(told)!r}, 'w')")
    for name in ("pytorch_model.bin", "model.pt2", "model.pkl"):
        (folder / name).write_bytes(f"cbuiltins\nopen\n(V{told}\nVw\ntR.".encode())
    pickle.loads((folder / "model.pkl").read_bytes()).close()
    assert told.exists()  # so much a pickle can do
    told.unlink()
    sign(folder)
    monkeypatch.chdir(folder)
    assert nas.load(folder)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert not told.exists()


def test_feature_maps_are_those_of_the_network(tmp_path):
    folder, x = write_folder(tmp_path / "net"), torch.rand(2, 3, 32, 32)
    maps, model = nas.load(folder, features_only=True), nas.load(folder)
    with torch.inference_mode():
        for ours, theirs in zip(maps(x), model.forward_intermediates(x, intermediates_only=True), strict=True):
            assert torch.equal(ours, theirs)
    assert maps.feature_info.channels() == [info["num_chs"] for info in model.feature_info]
    assert not maps.training


@pytest.fixture
def hub(request, tmp_path, monkeypatch):
    """timm's own cache of the hub, with random weights of one network, here MobileNetV3-Small, and nothing else; no network."""
    name = getattr(request, "param", "mobilenetv3_small_100")
    model, config = timm.create_model(name), timm.get_pretrained_cfg(name)
    place = tmp_path / "hub" / f"models--{config.hf_hub_id.replace('/', '--')}"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), place / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return model


@pytest.mark.parametrize(
    ("hub", "weights"),
    [("mobilenetv3_small_100", "lamb_in1k"), ("mobilenetv4_conv_small", "e2400_r224_in1k")],
    indirect=["hub"],
)
def test_timms_weights_of_the_same_network_give_its_features(hub, weights):
    reference = hub.default_cfg["architecture"]
    network = OwnNetwork(architecture=replace(nas.reference(reference), resolution=96))
    name, state = pretrained(network)
    assert name == f"{reference}.{weights}"
    model = network.build(5)
    load_first(model, state, classifier=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.eval().forward_features(x), hub.eval().forward_features(x))


def test_a_training_begins_with_timms_weights(hub, tmp_path):
    settings = TrainSettings(epochs=1, lr=1e-12, weight_decay=0)
    training = FullTraining(
        network="mobilenetv3_small_100",
        dataset=Shades(),
        train=settings,
        weights="pretrained",
        resolution=32,
        output=str(tmp_path / "net"),
    )
    network = find_network("mobilenetv3_small_100", resolution=32)
    first = initial_weights(training, network)
    assert first.what == "timm's mobilenetv3_small_100.lamb_in1k"
    run_training(training, network, first)
    state = load_file(best_file(training.checkpoints, 1))
    assert torch.allclose(state["conv_stem.weight"], hub.conv_stem.weight, atol=1e-6)
    assert state["classifier.weight"].shape == (2, 1024)


@dataclass(frozen=True)
class OfImageNet(Shades):
    """Dark and bright images in folders with names of ImageNet's classes."""

    @property
    def class_folders(self):
        return ("n01443537", "n01440764")


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "timm:mobilenetv3_small_100"])
def test_a_pretrained_network_teaches_the_classes_of_imagenet(hub, name):
    teacher = load_teacher(name, OfImageNet(), torch.device("cpu"))
    assert teacher.outputs.tolist() == [1, 0]
    assert (teacher.preprocess.resolution, teacher.preprocess.mean) == (224, (0.485, 0.456, 0.406))
    images = OfImageNet().load("val").images[:2]
    with torch.no_grad():
        logits = hub.eval()(teacher.preprocess(torch.from_numpy(images)))
    assert np.allclose(teacher.probabilities(images), logits.softmax(1)[:, [1, 0]].numpy(), rtol=2e-5)


@pytest.mark.usefixtures("hub")
def test_a_teacher_that_cannot_be_downloaded_is_one_sentence():
    with pytest.raises(nas.NasError) as caught:
        load_teacher("mobilenetv3_large_100", OfImageNet(), torch.device("cpu"))
    assert str(caught.value).startswith("train.teacher: timm's weights of mobilenetv3_large_100 are not on this machine and ")
    assert "where the internet is, or give another teacher" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("mobilenetv3_large_100", "timm's weights of mobilenetv3_large_100 are not on this machine and cannot be downloaded ("),
        ("timm:mobilenetv3_large_100", "run the same command once where the internet is, or begin with --weights new"),
        ("mobilenetv4_conv_small_035", "timm has no weights for mobilenetv4_conv_small_035; begin with --weights new"),
        ("efficientnet_b7", "timm has no weights for efficientnet_b7; begin with --weights new"),
        ("timm:efficientnet_b7", "timm has no weights for efficientnet_b7; begin with --weights new"),
        ("./tiny.json", "is not a reference network, so timm has no weights for it; use --weights new"),
    ],
)
def test_weights_that_are_not_there_are_one_sentence(network, sentence, tmp_path, mistaken):
    (tmp_path / "tiny.json").write_text(tiny().to_json())
    assert sentence in mistaken("train", network, "--dataset", "digits", "--weights", "pretrained", cwd=tmp_path)
