"""Classes and pixels mean the same in timm's own reader, and in `images.py`, as in the training."""

import colorsys
import itertools
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_data_config

import nas
from nas.datasets.images import open_image as images
from nas.exporting import fresh_process
from nas.exporting.full_training import FullTraining, train_network
from nas.exporting.proof import _files_read, sample_of, unmappable
from nas.training.predict import Preprocess
from nas.training.settings import TrainSettings
from tests.exporting.test_weights import tiny

NAMES = ("1", "2", "9", "10", "11", "100", "apple", "Mixed case", "n01440764", "Zebra", "Äpfel", "éclair")
"""In timm's own order, which is another as text: for its numbers, and its large letters."""


def picture(label, seed, side=40):
    colour = 220 * np.array(colorsys.hsv_to_rgb(label / len(NAMES), 0.9, 0.9))
    noise = np.random.default_rng([label, seed]).integers(-30, 30, (side, side + 4, 3))
    return Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Photographs in class folders of such names, in three parts."""
    root = tmp_path_factory.mktemp("numbered") / "photos"
    for part, number in (("train", 16), ("val", 6), ("test", 6)):
        for label, name in enumerate(NAMES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                picture(label, i + 100 * len(part)).save(folder / f"{i}.jpg")
    return replace(nas.dataset("image_folder"), root=str(root), side=32)


@pytest.fixture(scope="module")
def exported(numbered):
    """The export of a network that learnt to tell the colours apart."""
    settings = TrainSettings(epochs=4, batch_size=16, lr=0.01)
    target = str(numbered.root) + "-net"
    return train_network(FullTraining(network=tiny(), dataset=numbered, train=settings, output=target))


@pytest.fixture
def card(exported):
    return json.loads((exported / "card.json").read_text())


def timms_top1(exported, root, **options):
    """The top-1 of an export under timm's own reader and transforms."""
    nas.register_with_timm()
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    pixels, labels = zip(*create_dataset("", root=str(root), transform=transform, **options), strict=True)
    with torch.inference_mode():
        return 100 * float((model(torch.stack(pixels)).argmax(1) == torch.tensor(labels)).float().mean())


def test_numbered_classes_have_the_accuracy_of_the_card_under_timm(exported, card, numbered):
    test = f"{numbered.root}/test"
    assert card["accuracy"]["test_top1_pct"] > 80
    for options in ({}, {"class_map": str(exported / "class_map.txt")}):
        assert abs(timms_top1(exported, test, **options) - card["accuracy"]["test_top1_pct"]) < 3
    assert card["image_files"]["order_of_timm"]
    assert card["image_files"]["files"] == "of the dataset"
    assert "also timm's own" in (exported / "README.md").read_text()


@pytest.fixture
def opened(exported, numbered, tmp_path, monkeypatch):
    """What the proof finds of a changed copy of the export, in this very process."""
    copy = shutil.copytree(exported, tmp_path / "net")
    sample = sample_of(numbered.load("val"), 8)
    place = tmp_path / "place"
    place.mkdir()
    sample.write(place / "files", NAMES)
    (place / "sample.json").write_text(json.dumps({"bits": 8, "side": 32}))
    how = json.loads((copy / "card.json").read_text())["preprocess"]
    preprocess = Preprocess(resolution=how["resolution"], mean=tuple(how["mean"]), std=tuple(how["std"]))
    with torch.inference_mode():
        wanted = nas.load(copy)(preprocess(torch.from_numpy(sample.images))).numpy()

    def read(change):
        change(copy)
        monkeypatch.syspath_prepend(str(copy))
        for name in ("model", "images"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        with torch.inference_mode():
            fresh_process.read_files(copy, place)
        for name in ("model", "images"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return _files_read(copy, place, sample, wanted)

    return read


def edit(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def test_files_are_read_as_the_training_has_them(opened):
    read = opened(lambda folder: None)
    assert read["images"] == 72
    assert read["ways"]["timm"]["same_class"] > 0.95
    assert abs(read["ways"]["images.py"]["top1_pct"] - read["top1_pct"]) < 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (edit("class_map.txt", "1\n2\n", "2\n1\n"), r"class_map\.txt: timm's reader gives other classes with it"),
        (edit("images.py", "BICUBIC", "BILINEAR"), r"images\.py gives other pixels of .*\.jpg than the training has"),
        (edit("config.json", "0.485", "40.485"), r"and timm's transforms give .* % right of 72"),
    ],
    ids=["classes", "pixels", "transforms"],
)
def test_classes_pixels_and_transforms_that_differ_are_found(opened, change, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        opened(change)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (NAMES, ""),
        (("cat", " dog"), "' dog' is no name of a folder that timm reads"),
        (("cat", "a/b"), "'a/b' is no name"),
        (("cat", "two\nlines"), "is no name"),
        (("cat", ""), "'' is no name"),
        (("cat", "cat"), "2 classes are called 'cat'"),
    ],
)
def test_names_that_timm_could_not_read_from_a_class_map_are_said(names, why):
    assert why in unmappable(names)
    assert bool(why) == bool(unmappable(names))


@pytest.mark.parametrize(
    ("dtype", "top", "suffix", "bits"),
    [(np.uint16, 4000, "png", 12), (np.int32, 255, "tif", 8), (np.float32, 1.0, "tif", 1)],
    ids=["twelve_bits", "bytes_in_32_bits", "floats"],
)
def test_deep_images_are_scaled_as_in_the_training(tmp_path, dtype, top, suffix, bits):
    """A broken file is left out, so that the images and their files do not part."""
    ramp = np.linspace(0, top, 40 * 44).reshape(40, 44)
    for part, name in itertools.product(("train", "val"), "ab"):
        folder = tmp_path / "deep" / part / name
        folder.mkdir(parents=True)
        for i in range(16):
            Image.fromarray((ramp * (i + 1) / 16).astype(dtype)).save(folder / f"{i}.{suffix}")
        (folder / f"3.{suffix}").write_bytes((folder / f"3.{suffix}").read_bytes()[:60])
    dataset = replace(nas.dataset("image_folder"), root=str(tmp_path / "deep"), side=32)
    data = dataset.load("test")
    assert dataset.bits == bits
    assert [file.stem for file in data.files].count("3") == 0
    assert data.images.max() > 200
    for pixels, file in zip(data.images, data.files, strict=True):
        assert np.array_equal(np.asarray(images.open_image(file, bits=bits, side=32)), pixels), file


def test_image_files_of_every_kind_open_as_in_the_training(tmp_path):
    """Turned by EXIF, animated, with a palette, transparent, grey, CMYK, large; and of 8 bits in one channel of 32."""
    turned = Image.Exif()
    turned[0x0112] = 6
    large = picture(3, 0, side=300)
    for name, other in (("a", picture(1, 0)), ("b", picture(2, 0))):
        for part in ("train", "val"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            other.save(folder / "turned.jpg", exif=turned)
            other.save(folder / "animated.gif", save_all=True, append_images=[large])
            other.quantize(16).save(folder / "palette.png")
            other.convert("RGBA").save(folder / "transparent.webp")
            other.convert("L").save(folder / "grey.png")
            other.convert("CMYK").save(folder / "cmyk.jpg")
            large.save(folder / "large.jpg", quality=60)
    data = replace(nas.dataset("image_folder"), root=str(tmp_path / "photos"), side=32).load("val")
    assert len(data) > 1
    for pixels, file in zip(data.images, data.files, strict=True):
        assert np.array_equal(np.asarray(images.open_image(file, side=32)), pixels), file
        whole = images.open_image(file)
        assert whole.mode == "RGB"
        assert whole.size == {"turned.jpg": (40, 44), "large.jpg": (304, 300)}.get(file.name, (44, 40))
