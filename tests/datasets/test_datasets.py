"""Every dataset keeps its contract: three fixed parts that never overlap, each with every class."""

import hashlib
import pickle
import shutil
import struct
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torchvision

import nas
from nas.datasets import ImageData, held_out_part, load_part
from nas.datasets.cifar10 import CIFAR10
from nas.datasets.imagenette import CLASSES
from nas.datasets.images.splits import PARTS
from nas.plugins import plugin_names
from tests.data.pictures import as_parquet, fill


def write_mnist(root):
    """MNIST's files as their archives hold them, with 400 images to train on and 100 to test."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, num in (("train", 400), ("t10k", 100)):
        images = generator.integers(0, 256, (num, 28, 28), dtype=np.uint8)
        labels = (np.arange(num) % 10).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 0x803, num, 28, 28) + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, num) + labels.tobytes())


def write_cifar10(root, monkeypatch):
    """CIFAR-10's batches, smaller; torchvision knows the checksums of the real ones alone, and is told those of these."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    sums = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        pixels = generator.integers(0, 256, (100, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": [i % 10 for i in range(100)]}
        if name == "batches.meta":
            content = {"label_names": list(CIFAR10().classes)}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    theirs = torchvision.datasets.CIFAR10
    monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name, _ in theirs.train_list])
    monkeypatch.setattr(theirs, "test_list", [[name, sums[name]] for name, _ in theirs.test_list])
    monkeypatch.setattr(theirs, "meta", theirs.meta | {"md5": sums["batches.meta"]})


@pytest.fixture(params=plugin_names("dataset"))
def dataset(request, tmp_path, monkeypatch):
    """Each dataset, where it needs files with small ones in its own layout."""
    name = request.param
    if name == "digits":
        return nas.dataset(name)
    if name == "mnist":
        write_mnist(tmp_path)
    elif name == "cifar10":
        write_cifar10(tmp_path, monkeypatch)
    elif name == "huggingface":
        return replace(nas.dataset(name), path=str(as_parquet(fill(tmp_path / "photos"), tmp_path / "parquet")))
    else:
        fill(tmp_path, classes=tuple(CLASSES) if name == "imagenette" else ("cat", "dog"))
    return replace(nas.dataset(name), root=str(tmp_path))


def test_three_parts_with_every_class_in_each(dataset):
    for part in PARTS:
        data = load_part(dataset, part)
        assert set(data.labels.tolist()) == set(range(len(dataset.classes)))


def test_the_parts_never_overlap_and_never_change(dataset):
    images = [dataset.load(part).images for part in PARTS]
    assert all(np.array_equal(first, dataset.load(part).images) for first, part in zip(images, PARTS, strict=True))
    assert len(images[0]) > 4 * len(images[1]) or dataset.name == "digits"  # a tenth is held out
    if dataset.name in ("digits", "mnist", "cifar10"):  # the small files of the others repeat their colours
        seen = [{image.tobytes() for image in part} for part in images]
        assert seen[0].isdisjoint(seen[1] | seen[2])
        assert seen[1].isdisjoint(seen[2])


def test_the_split_is_the_one_that_was_published():
    """Fixed for ever: a change here would let networks of earlier runs be ranked on images that they were trained on."""
    labels = np.arange(40, dtype=np.int64) % 2
    numbered = np.zeros((40, 1, 1, 3), np.uint8)
    numbered[..., 0] = np.arange(40)[:, None, None]
    data = ImageData(images=numbered, labels=labels)
    val, train = (held_out_part(data, part).images[:, 0, 0, 0].tolist() for part in ("val", "train"))
    assert val == [8, 9, 10, 39]
    assert sorted([*val, *train]) == list(range(40))


def test_a_dataset_travels_to_a_worker_without_its_images(dataset):
    dataset.load("train")
    assert len(pickle.dumps(dataset)) < 1000
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_mean_and_std_of_digits_are_those_of_the_images():
    digits = nas.dataset("digits")
    pixels = np.concatenate([digits.load(part).images for part in PARTS]) / 255
    assert np.allclose(pixels.mean((0, 1, 2)), digits.mean, atol=0.002)
    assert np.allclose(pixels.std((0, 1, 2)), digits.std, atol=0.002)


@pytest.mark.parametrize(("name", "what"), [("imagenette", "imagenette2-160.tgz"), ("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_without_data_and_without_a_network_one_sentence_says_what_to_put_where(name, what, tmp_path, monkeypatch):
    """The real download runs up to the network's edge: a proxy that is not there."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    here = replace(nas.dataset(name), root=str(tmp_path / "data"))
    with pytest.raises(nas.NasError) as caught:
        load_part(here, "train")
    sentence = str(caught.value)
    assert sentence.startswith(f"dataset {name}: the train part: {what}")
    assert f" is not in {tmp_path}/data, whole and as published, and cannot be downloaded (" in sentence
    assert sentence.endswith("put it there yourself, or say with --dataset.root where it is")
    assert "\n" not in sentence
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []


@pytest.mark.parametrize("layout", ["", "imagenette2-160"])
def test_imagenette_lies_in_the_root_or_in_its_archives_folder(tmp_path, layout):
    fill(tmp_path / layout, classes=tuple(CLASSES))
    here = replace(nas.dataset("imagenette"), root=str(tmp_path), side=16)
    assert [len(here.load(part)) for part in PARTS] == [180, 20, 200]
    assert here.load("test").images.shape[1:] == (16, 16, 3)
    assert here.classes[:2] == ("tench", "English springer")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address at which this machine serves the files of `tmp_path`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_imagenettes_archive_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch, served):
    """The archive comes from this machine; what an earlier download left when it was killed does not count."""
    for path in fill(tmp_path / "imagenette2-160", classes=tuple(CLASSES), num=2).rglob("*.png"):
        path.rename(path.with_suffix(".JPEG"))
    archive = Path(shutil.make_archive(str(tmp_path / "imagenette2-160"), "gztar", tmp_path, "imagenette2-160"))
    archive = archive.rename(tmp_path / "imagenette2-160.tgz")
    shutil.rmtree(tmp_path / "imagenette2-160")
    there = {"160px": (f"{served}/{archive.name}", hashlib.md5(archive.read_bytes()).hexdigest())}
    monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", there)
    root = tmp_path / "data"
    (root / ".imagenette2-160.partial" / "imagenette2-160" / "train").mkdir(parents=True)
    here = replace(nas.dataset("imagenette"), root=str(root), side=16)
    assert [len(here.load(part)) for part in PARTS] == [10, 10, 20]
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["imagenette2-160"]
    assert {path.name for path in (root / "imagenette2-160").iterdir()} == {"train", "val"}

    (root / "imagenette2-160").rename(root / "elsewhere")
    (root / "imagenette2-160" / "mine").mkdir(parents=True)
    with pytest.raises(nas.NasError, match=r"imagenette2-160/train must have the ten folders"):
        load_part(here, "train")
    assert (root / "imagenette2-160" / "mine").is_dir()


def test_imagenettes_classes_are_torchvisions():
    theirs = torchvision.datasets.Imagenette._WNID_TO_CLASS
    assert {wnid: names[0] for wnid, names in theirs.items()} == CLASSES


def test_another_folder_is_not_taken_for_imagenette(tmp_path):
    fill(tmp_path)
    with pytest.raises(nas.NasError, match=r"must have the ten folders n01440764, .* for others use image_folder"):
        load_part(replace(nas.dataset("imagenette"), root=str(tmp_path)), "train")
    with pytest.raises(nas.NasError, match="size: '64px' is not one of 160px, 320px, full"):
        replace(nas.dataset("imagenette"), size="64px")


def test_an_image_folder_without_images_says_what_it_must_be():
    with pytest.raises(nas.NasError, match="image_folder: the train part: images is not a folder; it must have train/ and"):
        load_part(nas.dataset("image_folder"), "train")


def test_digits_are_all_there_and_stratified():
    digits = nas.dataset("digits")
    assert [len(digits.load(part)) for part in PARTS] == [1079, 359, 359]
    for part in PARTS:
        counts = np.bincount(digits.load(part).labels)
        assert counts.max() - counts.min() <= 0.1 * counts.mean() + 2


def test_an_unknown_dataset_is_answered_with_the_known_ones():
    with pytest.raises(nas.NasError, match="dataset 'digit' does not exist; did you mean 'digits'"):
        nas.dataset("digit")


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (
            np.zeros((4, 8, 8), np.uint8),
            np.zeros(4, np.int64),
            r"images are uint8 \(4, 8, 8\); they must be uint8 \(N, height, width, 3\)",
        ),
        (np.zeros((4, 8, 8, 3), np.float32), np.zeros(4, np.int64), "images are float32"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, np.int64), r"labels are int64 \(3,\); they must be int64 \(4,\)"),
        (
            np.zeros((4, 8, 8, 3), np.uint8),
            np.full(4, 2),
            "the val part has labels from 2 to 2; with 2 classes they must be from 0 to 1",
        ),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), "the val part has no images"),
        (None, None, "load: None is a NoneType; it must be a nas.ImageData"),
    ],
)
def test_a_dataset_of_ones_own_with_wrong_images_is_told_what_is_allowed(images, labels, sentence):
    class Own:
        name = "own"
        classes = ("a", "b")

        def load(self, part):
            return None if images is None else ImageData(images=images, labels=labels)

    with pytest.raises(nas.NasError, match=sentence):
        load_part(Own(), "val")


def test_a_checked_part_keeps_a_file_for_each_image():
    images, files = np.zeros((2, 8, 8, 3), np.uint8), [Path("0.png"), Path("1.png")]

    class Own:
        name = "own"
        classes = ("a", "b")

        def load(self, part):
            return ImageData(images=images, labels=np.arange(2), files=files if part == "val" else files[:1])

    assert load_part(Own(), "val").files == files
    with pytest.raises(nas.NasError, match="1 files are of 2 images; each must have one"):
        load_part(Own(), "train")
