"""Images are decoded once, whatever happens: several processes, a kill, damage, a full disk, unreadable files."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nas.datasets.image_folder import ImageFolder
from nas.datasets.images.cache import cache_folder, cached_images
from nas.datasets.images.listing import list_images
from nas.datasets.images.splits import PARTS
from nas.errors import NasError
from tests.data.pictures import decoded, fill, save

PROGRAM = Path(__file__).parents[1] / "data" / "open_cache.py"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "frontier-nas"


def opened(root, side=16):
    return cached_images(list_images(root), side=side).parts


def caches():
    """The name and megabytes of every cache that takes space."""
    sizes = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) / 1e6 for folder in cache_folder().glob("*")}
    return {name: size for name, size in sizes.items() if size}


def start(root, side, *limit):
    line = [sys.executable, str(PROGRAM), str(root), str(side), *map(str, limit)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def num_images(cached):
    return {part: len(labels) for part, (_, labels) in cached.items()}


def test_the_cache_holds_what_the_files_hold_in_the_order_of_the_parts(tmp_path):
    root = fill(tmp_path / "images")
    listing = list_images(root)
    cached = cached_images(listing, side=16).parts
    assert num_images(cached) == {"train": 36, "val": 4, "test": 40}
    for part in PARTS:
        images, labels = cached[part]
        assert labels.tolist() == list(listing.parts[part].values())
        for image, path in zip(images, listing.parts[part], strict=True):
            assert np.array_equal(image, decoded(root / path, 16))
        assert images.base is not None  # a view of the map, not a copy


def test_a_second_start_decodes_nothing(tmp_path, caplog):
    caplog.set_level("INFO", "nas")
    root = fill(tmp_path / "images")
    opened(root)
    assert "decoding 80 images" in caplog.text
    caplog.clear()
    opened(root)
    assert "decoding" not in caplog.text
    assert len(caches()) == 1


def test_another_size_folder_or_content_is_another_cache(tmp_path):
    root = fill(tmp_path / "images", num=10)
    before, _ = opened(root)["train"]
    opened(root, side=24)
    opened(fill(tmp_path / "copy", num=10))
    for path in (root / "train" / "cat").iterdir():
        times = path.stat()
        save(path, (1, 2, 3))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had been changed
    after, _ = opened(root)["train"]
    assert len(caches()) == 4
    assert not np.array_equal(before, after)


def test_several_processes_at_once_decode_once_and_see_the_same(tmp_path):
    root = fill(tmp_path / "images", num=60)
    processes = [start(root, 64) for _ in range(3)]
    answers = [process.communicate(timeout=600) for process in processes]
    assert {process.returncode for process in processes} == {0}, answers
    assert len({answer[0] for answer in answers}) == 1
    assert answers[0][0].split()[1] == "240"
    assert len(caches()) == 1


def test_a_process_that_is_killed_while_decoding_hurts_nobody(tmp_path, folder):
    root = fill(tmp_path / "images", num=60)
    process = start(root, 400)
    while not [file for file in folder.glob("*/.images.u8.partial") if file.stat().st_size]:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = caches()
    assert sum(num_images(opened(root, 400)).values()) == 240
    assert caches() == {left: pytest.approx(240 * 400 * 400 * 3 / 1e6, rel=1e-3)}


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: (cache / "images.u8").write_bytes((cache / "images.u8").read_bytes()[:-1]),
        lambda cache: (cache / "images.u8").write_bytes(b""),
        lambda cache: (cache / "images.u8").unlink(),
        lambda cache: (cache / "index.json").write_bytes(b"no"),
        lambda cache: (cache / "index.json").write_bytes(b"[]"),
        lambda cache: (cache / "index.json").write_bytes((cache / "index.json").read_bytes()[:-20]),
        lambda cache: (cache / "index.json").unlink(),
    ],
)
def test_a_damaged_cache_is_made_anew(tmp_path, folder, damage):
    root = fill(tmp_path / "images")
    before = opened(root)["train"][0].copy()
    (key,) = caches()
    damage(folder / key)
    assert np.array_equal(opened(root)["train"][0], before)
    assert np.array_equal(opened(root)["train"][0], before)
    assert list(caches()) == [key]


def test_a_disk_without_room_is_one_sentence_and_nothing_stays(tmp_path, folder):
    root = fill(tmp_path / "images")
    process = start(root, 400, "RLIMIT_FSIZE", 8_000_000)  # a disk on which no file grows beyond 8 MB
    _, errors = process.communicate(timeout=600)
    sentence = errors.strip().splitlines()[-1]
    assert "cannot be written: File too large; it needs 38 MB, and" in sentence
    assert "XDG_CACHE_HOME" in sentence
    assert not caches()
    assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NasError, match="cannot be used: Not a directory; set XDG_CACHE_HOME to another folder"):
        opened(fill(tmp_path / "images"))


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def test_a_few_unreadable_files_are_left_out(tmp_path):
    root = fill(tmp_path / "images", num=60)
    broken(root / "train" / "cat" / "7.png")
    listing = list_images(root)
    for _ in range(2):  # decoded, then from the cache
        cached = cached_images(listing, side=16)
        assert set(cached.findings.unreadable) == {"train/cat/7.png"}
        assert sum(num_images(cached.parts).values()) == 239
        for part, (images, labels) in cached.parts.items():
            kept = [item for item in listing.parts[part].items() if item[0] != "train/cat/7.png"]
            for image, label, digest, (path, expected) in zip(images, labels, cached.digests[part], kept, strict=True):
                assert (label, np.array_equal(image, decoded(root / path, 16))) == (expected, True)
                assert digest.tobytes() == hashlib.blake2b((root / path).read_bytes(), digest_size=16).digest()


def test_a_cache_may_be_removed(tmp_path, folder):
    """Its name says what is in it."""
    root = fill(tmp_path / "猫 images", num=10)
    before = opened(root)["train"][0].copy()
    (name,) = caches()
    assert re.fullmatch("__images-16px-[0-9a-f]{16}", name)
    shutil.rmtree(folder / name)
    assert np.array_equal(opened(root)["train"][0], before)
    assert list(caches()) == [name]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"side": 4}, "side: 4"),
        ({"share": 0}, "share: 0"),
        ({"share": 1.5}, "share: 1.5"),
        ({"allow_missing": -1}, "allow-missing: -1"),
    ],
)
def test_a_size_or_share_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(NasError, match=f"dataset.{sentence} is not"):
        ImageFolder(**fields)


def test_a_shortage_while_decoding_is_not_taken_for_damaged_files(tmp_path):
    """With too few file descriptors nothing is left out; the next start, with enough, has every image."""
    root = fill(tmp_path / "images", num=60)
    process = start(root, 64, "RLIMIT_NOFILE", 12)
    answer, _ = process.communicate()
    assert process.returncode != 0 or answer.split()[1] == "240"
    assert sum(num_images(opened(root, 64)).values()) == 240


def test_a_process_without_stderr_decodes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert num_images(opened(fill(tmp_path / "images")))["test"] == 40
