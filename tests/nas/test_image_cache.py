"""Images are decoded once, whatever happens: several processes, a kill, damage, a full disk, unreadable files."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nas.datasets.image_folder import ImageFolder
from nas.errors import NasError
from nas.image_cache import CHUNK, cache_folder, cached_images, clear_caches, list_caches
from nas.image_files import PARTS, decode, list_images
from tests.nas.test_image_files import fill, save


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "frontier-nas"


def opened(root, side=16):
    return cached_images(list_images(root), side=side)


def caches():
    return [row["key"] for row in list_caches()]


# Opens a cache in another process and prints what it found in it.
OPEN = """
import sys
from pathlib import Path
from nas.image_cache import cached_images
from nas.image_files import list_images
cached = cached_images(list_images(Path(sys.argv[1])), side=int(sys.argv[2]))
print(int(cached.images.astype("u8").sum()), cached.images.shape[0])
"""


def start(root, side, **options):
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(root), str(side)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_the_cache_holds_what_the_files_hold_in_the_order_of_the_parts(tmp_path):
    root = fill(tmp_path / "images")
    listing = list_images(root)
    cached = cached_images(listing, side=16)
    assert cached.counts == (36, 4, 40)
    for part in PARTS:
        images, labels = cached.part(part)
        assert labels.tolist() == [file.label for file in listing.parts[part]]
        for image, file in zip(images, listing.parts[part], strict=True):
            assert np.array_equal(image, decode(root / file.path, 16))
        assert images.base is not None  # a view of the map, not a copy


def test_a_second_start_decodes_nothing_and_copies_and_touched_files_share_a_cache(tmp_path, caplog):
    caplog.set_level("INFO", "nas")
    root = fill(tmp_path / "images")
    opened(root)
    assert "decoding 80 images" in caplog.text
    caplog.clear()
    opened(root)
    os.utime(root / "train" / "cat" / "0.png", (1, 1))
    opened(root)
    opened(fill(tmp_path / "copy"))
    assert "decoding" not in caplog.text
    assert len(caches()) == 1


def test_another_size_content_or_class_is_another_cache(tmp_path):
    root = fill(tmp_path / "images")
    before = opened(root)
    opened(root, side=24)
    save(root / "train" / "cat" / "0.png", (1, 2, 3))
    after = opened(root)
    assert len(caches()) == 3
    assert not np.array_equal(before.images, after.images)


def test_several_processes_at_once_decode_once_and_see_the_same(tmp_path):
    root = fill(tmp_path / "images", num=60)
    processes = [start(root, 64) for _ in range(4)]
    answers = [process.communicate(timeout=600) for process in processes]
    assert {process.returncode for process in processes} == {0}, answers
    assert len({answer[0] for answer in answers}) == 1
    assert answers[0][0].split()[1] == "240"
    assert len(caches()) == 1


def test_a_process_that_is_killed_while_decoding_hurts_nobody(tmp_path, folder):
    root = fill(tmp_path / "images", num=500)
    process = start(root, 640)
    deadline = time.monotonic() + 600
    while not list(folder.glob("*.partial/images.u8")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = list_caches()
    assert left["key"].endswith(".partial")
    assert len(opened(root, 640).images) == 2000
    (made,) = list_caches()
    assert made["images"] == 2000


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: (cache / "images.u8").write_bytes((cache / "images.u8").read_bytes()[:-CHUNK]),
        lambda cache: (cache / "images.u8").write_bytes(bytes([7]) + (cache / "images.u8").read_bytes()[1:]),
        lambda cache: (cache / "images.u8").write_bytes(b""),
        lambda cache: (cache / "images.u8").unlink(),
        lambda cache: (cache / "index.npz").write_bytes(b"no"),
        lambda cache: (cache / "index.npz").write_bytes((cache / "index.npz").read_bytes()[:-20]),
        lambda cache: (cache / "index.npz").unlink(),
    ],
)
def test_a_damaged_cache_is_made_anew(tmp_path, folder, damage):
    root = fill(tmp_path / "images")
    before = opened(root).images.copy()
    (key,) = caches()
    damage(folder / key)
    assert np.array_equal(opened(root).images, before)
    assert np.array_equal(opened(root).images, before)
    assert caches() == [key]


def limited():
    """A disk on which no file grows beyond 8 MB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))


def test_a_disk_without_room_is_one_sentence_and_nothing_stays(tmp_path, folder):
    root = fill(tmp_path / "images")
    process = start(root, 400, preexec_fn=limited)
    _, errors = process.communicate(timeout=600)
    sentence = errors.strip().splitlines()[-1]
    assert "cannot be written: File too large; it needs 38 MB, and" in sentence
    assert "XDG_CACHE_HOME" in sentence
    assert caches() == []
    assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NasError, match="cannot be used: Not a directory; set XDG_CACHE_HOME to another folder"):
        opened(fill(tmp_path / "images"))


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def test_a_few_unreadable_files_are_named_counted_and_left_out(tmp_path, caplog):
    root = fill(tmp_path / "images", num=60)
    broken(root / "train" / "cat" / "7.png")
    (root / "val" / "dog" / "3.png").unlink()
    (root / "val" / "dog" / "3.png").symlink_to("nowhere.png")
    cached = opened(root)
    assert "2 of 240 image files under" in caplog.text
    assert "cannot be read and are left out" in caplog.text
    assert "train/cat/7.png (Pillow raised" in caplog.text
    assert "val/dog/3.png (Pillow raised FileNotFoundError" in caplog.text
    assert sum(cached.counts) == len(cached.images) == len(cached.labels) == 238
    listing = list_images(root)
    kept = [file for file in listing.files if file.path not in ("train/cat/7.png", "val/dog/3.png")]
    for image, label, file in zip(cached.images, cached.labels, kept, strict=True):
        assert (label, np.array_equal(image, decode(root / file.path, 16))) == (file.label, True)
    (row,) = list_caches()
    assert row["damaged"] == 2
    about = json.loads((cache_folder() / row["key"] / "cache.json").read_text())
    assert set(about["damaged"]) == {"train/cat/7.png", "val/dog/3.png"}


def test_too_many_unreadable_files_stop_it_and_leave_nothing(tmp_path):
    root = fill(tmp_path / "images")
    broken(root / "train" / "cat" / "7.png")
    with pytest.raises(
        NasError, match=r"1 of 80 image files under .* cannot be read, and at most 1% are left out; repair or remove"
    ):
        opened(root)
    assert caches() == []


def test_a_class_of_which_no_image_can_be_read_is_named(tmp_path):
    root = fill(tmp_path / "images", num=200)
    fill(root, classes=("fox",), num=3)
    for i in range(3):
        broken(root / "val" / "fox" / f"{i}.png")
    with pytest.raises(NasError, match="no image of class fox can be read for the test part"):
        opened(root)


def test_caches_are_listed_and_cleared(tmp_path):
    root = fill(tmp_path / "images")
    for side in (16, 24):
        opened(root, side)
    rows = list_caches()
    assert {row["side"] for row in rows} == {16, 24}
    assert all(row["images"] == 80 and row["root"] == str(root) and row["size_mb"] > 1 for row in rows)
    with pytest.raises(NasError, match="cache 'zz' is not there; there are: "):
        clear_caches(["zz"])
    with pytest.raises(NasError, match="cache '' is not there"):
        clear_caches([""])
    assert clear_caches([rows[0]["key"][:9]]) == pytest.approx(rows[0]["size_mb"])
    assert caches() == [rows[1]["key"]]
    assert len(opened(root, rows[0]["side"]).images) == 80


@pytest.mark.parametrize(
    ("fields", "sentence"), [({"side": 4}, "side: 4"), ({"share": 0}, "share: 0"), ({"share": 1.5}, "share: 1.5")]
)
def test_a_size_or_share_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(NasError, match=f"dataset.{sentence} is not"):
        ImageFolder(**fields)


@pytest.mark.parametrize("damage", [b"", bytes(32), b"\xff" * 32, b"../../etc/passwd", b"0" * 32])
def test_a_damaged_note_of_a_known_cache_is_written_anew(tmp_path, folder, damage):
    root = fill(tmp_path / "images")
    before = opened(root).images.copy()
    (note,) = (folder / "known").iterdir()
    right = note.read_bytes()
    note.write_bytes(damage)
    assert np.array_equal(opened(root).images, before)
    assert note.read_bytes() == right
    assert len(caches()) == 1


def test_a_shortage_while_decoding_is_not_taken_for_damaged_files(tmp_path):
    """With too few file descriptors nothing is left out; the next start, with enough, has every image."""
    root = fill(tmp_path / "images", num=60)
    script = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n" + OPEN
    line = [sys.executable, "-c", "import numpy, PIL.Image, filelock, nas.image_cache, rich.progress\n" + script, str(root), "64"]
    answer = subprocess.run(line, capture_output=True, text=True, check=False)
    assert answer.returncode != 0 or answer.stdout.split()[1] == "240"
    assert len(opened(root, 64).images) == 240
