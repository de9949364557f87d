"""Every file of a folder of images is accounted for, on every start, and too great a loss stops it."""

import logging
import re
import shutil

import numpy as np
import pytest

from nas.datasets.image_folder import ImageFolder
from nas.errors import NasError
from tests.data.pictures import fill, save, save_values


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def account(caplog):
    """Loads a folder; gives what is logged."""
    caplog.set_level(logging.INFO, "nas")

    def load(root, **fields):
        caplog.clear()
        dataset = ImageFolder(root=str(root), side=16, **fields)
        dataset.fingerprint()  # which a search takes when it starts
        return dataset, dataset.load("train"), caplog.text

    return load


def test_what_was_read_is_said_by_class_on_every_start(tmp_path, account):
    root = fill(tmp_path / "images", num=30)
    for path in (root / "train" / "dog").glob("1?.png"):
        path.unlink()
    (root / "train" / "cat" / "7.png").write_bytes(b"\x89PNG")
    for start in ("first", "cached"):
        _, _, text = account(root)
        assert ("decoding" in text) == (start == "first")
        assert "read 109 images of 2 classes (cat 59, dog 50): 44 to train on, 5 to rank on, 60 to test on" in text
        assert "networks are ranked on 5 images: one of them is 20.0 percentage points of the top-1" in text
        assert "left out: 1 unreadable (cat 1: train/cat/7.png (no image that Pillow knows))" in text
    (root / "train" / "cat" / "two\nlines.png").write_bytes(b"\x89PNG")
    assert r"train/cat/two\nlines.png (no image" in account(root)[2]


def test_losing_more_than_a_tenth_of_a_class_stops_it_until_it_is_allowed(tmp_path, account):
    root = fill(tmp_path / "images", num=10)
    for name in ("0.png", "1.png", "2.png"):
        (root / "train" / "cat" / name).write_bytes(b"\x89PNG")
    (root / "val" / "cat" / "gone.png").symlink_to("nowhere.png")
    (root / "val" / "cat" / "drawing.xcf").write_bytes(b"gimp xcf v011\0\0")
    sentence = "5 of the 22 files of class cat are lost, and at most 10% may be; .* --dataset.allow-missing: "
    reasons = ("1 behind a dead link (cat 1: val/cat/gone.png)", "1 of an unknown type, .xcf (cat 1: val/cat/drawing.xcf)")
    for _ in range(2):
        with pytest.raises(NasError, match=sentence) as caught:
            account(root)
        assert all(reason in str(caught.value) for reason in (*reasons, "3 unreadable (cat 3: train/cat/0.png (no image that"))
    _, data, text = account(root, allow_missing=0.25)
    assert len(data) == 15
    assert all(reason in text for reason in reasons)
    account(root, share=0.2)  # without the damaged files, 2 of 22 files are lost: not 2 of the 15 that are looked at


def test_a_part_in_which_no_image_of_a_class_can_be_read_is_said(tmp_path, account):
    root = fill(tmp_path / "images", ("train",), num=40)
    fill(root, ("val", "test"), num=2)
    for path in (root / "val" / "dog").iterdir():
        path.write_bytes(b"\x89PNG")
    _, _, text = account(root)
    assert text.count("can be read in") == 1
    assert "no image of class dog can be read in the val part, which lacks the class" in text


def test_an_image_in_two_parts_is_said_with_both_paths(tmp_path, account):
    root = fill(tmp_path / "images", ("",))
    shutil.copyfile(root / "cat" / "3.png", root / "cat" / "again.png")
    for i in range(60):
        shutil.copyfile(root / "dog" / "3.png", root / "dog" / f"again{i}.png")
    _, _, text = account(root)
    assert re.search(r"\d+ images are in the test part and, byte for byte, in the train part, .*: dog/\S+ is dog/\S+", text)


def stripes(root, low, high, *, dtype="uint16", suffix="png"):
    """Two classes, of horizontal and of vertical stripes from `low` to `high`."""
    for name in ("h", "v"):
        for i in range(10):
            rows = np.where((np.arange(16) // 4 + i) % 2, low, high)[:, None] + np.arange(16) * (high - low) / 100
            save_values(root / name / f"{i}.{suffix}", rows if name == "h" else rows.T, dtype)
    return root


@pytest.mark.parametrize(
    ("case", "bits", "top"),
    [
        ({"low": 1090, "high": 1210}, 12, 4095),
        ({"low": 60, "high": 190, "dtype": "int32", "suffix": "tif"}, 8, 255),
        ({"low": 0.2, "high": 0.8, "dtype": "float32", "suffix": "tif"}, 1, 1),
        ({"low": 1000, "high": 50000}, 16, 65535),
    ],
    ids=["twelve_bits", "bytes_in_32_bits", "floats", "sixteen_bits"],
)
def test_deep_images_are_all_scaled_by_the_largest_value_of_the_dataset(tmp_path, account, case, bits, top):
    root = stripes(tmp_path / "images", **case)
    dark = np.full((16, 16), case["low"]) * (1 - np.eye(16) / 2)
    save_values(root / "h" / f"dark.{case.get('suffix', 'png')}", dark, case.get("dtype", "uint16"))
    dataset, data, text = account(root)
    assert dataset.bits == bits
    assert f"21 images are deeper than 8 bits, with values from 0 to {top:,}\n" in text
    every = np.concatenate([data.images, dataset.load("val").images, dataset.load("test").images])
    brightest = every.max(axis=(1, 2, 3)).astype(float) * top / 255
    assert brightest[brightest < case["high"] * 0.9] == pytest.approx(case["low"], abs=top / 250)  # the dark image stays dark
    assert brightest.max() == pytest.approx(case["high"] + (case["high"] - case["low"]) * 0.15, rel=0.03)


def test_images_of_8_bits_and_deeper_ones_are_each_scaled_by_their_own_range(tmp_path, account):
    root = stripes(tmp_path / "images", 1090, 1210)
    save(root / "v" / "photo.png", (255, 255, 255), below=(0, 0, 0))
    dataset, _, text = account(root)
    assert dataset.bits == 12
    assert "20 images are deeper than 8 bits, with values from 0 to 4,095; 1 image is of 8 bits" in text


@pytest.mark.parametrize("allowed", [0.1, 1.0])
def test_a_class_of_plain_images_is_refused_and_single_ones_are_said(tmp_path, account, allowed):
    root = stripes(tmp_path / "images", 10, 200, dtype="uint8")
    save(root / "h" / "blank.png", (0, 0, 0))
    _, _, text = account(root)
    assert "1 image is one plain colour: h/blank.png" in text
    for i in range(10):
        save(root / "v" / f"{i}.png", (i, i, i))
    if allowed == 1:
        account(root, allow_missing=allowed)
    else:
        with pytest.raises(NasError, match=r"class v is one plain colour, such as v/0.png; .* --dataset.allow-missing 1"):
            account(root, allow_missing=allowed)


def test_few_levels_are_said(tmp_path, account):
    _, _, text = account(stripes(tmp_path / "images", 10, 30, dtype="uint8"))
    assert re.search(r"the pixels of all images have \d+ different values of 256", text)
