"""A folder of images is what it says it is: its layout, its parts, and every kind of file that people have."""

import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets

from nas.datasets.image_folder import ImageFolder
from nas.datasets.images.folders import Folder
from nas.datasets.images.listing import Why, class_names, list_images
from nas.datasets.images.splits import PARTS
from nas.errors import NasError
from nas.exporting.formats import unread_images
from tests.data.pictures import fill, save


def paths(listing):
    return {part: set(listing.parts[part]) for part in PARTS}


@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        (("train", "val"), {"train": 36, "val": 4, "test": 40}),  # val is the test part, a tenth of train is held out
        (("train", "test"), {"train": 36, "val": 4, "test": 40}),
        (("train", "val", "test"), {"train": 40, "val": 40, "test": 40}),
        (("",), {"train": 32, "val": 4, "test": 4}),  # 80, 10 and 10 %
    ],
)
def test_three_parts_come_out_of_every_layout_and_never_overlap(tmp_path, parts, counts):
    listing = list_images(fill(tmp_path, parts))
    assert {part: len(files) for part, files in listing.parts.items()} == counts
    found = paths(listing)
    assert len(found["train"] | found["val"] | found["test"]) == sum(counts.values())
    for part in PARTS:  # every class alike
        assert {list(listing.parts[part].values()).count(label) for label in (0, 1)} == {counts[part] // 2}
    assert listing.classes == class_names(tmp_path) == ("cat", "dog")


def test_the_parts_depend_on_the_paths_alone_and_hardly_move_when_an_image_comes(tmp_path):
    here, there = fill(tmp_path / "here", ("",)), fill(tmp_path / "there" / "deep", ("",), classes=("dog", "cat"))
    before = paths(list_images(here))
    assert before == paths(list_images(there))
    save(here / "cat" / "new.png")
    after = paths(list_images(here))
    moved = sum(len(before[part] - after[part]) for part in PARTS)
    assert moved <= 2
    assert after == paths(list_images(here))


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, ("",), classes=("bus", "train"))
    assert list_images(tmp_path).classes == ("bus", "train")


def test_a_share_of_the_training_part_leaves_the_other_parts_alone(tmp_path):
    whole, tenth = list_images(fill(tmp_path)), list_images(tmp_path, share=0.25)
    assert (len(tenth.parts["train"]), tenth.parts["val"], tenth.parts["test"]) == (
        8,
        whole.parts["val"],
        whole.parts["test"],
    )
    assert set(tenth.parts["train"]) < set(whole.parts["train"])


def test_names_in_other_scripts_nested_folders_and_strays(tmp_path):
    fill(tmp_path, ("",), classes=("собака", "猫 ねこ"))
    save(tmp_path / "猫 ねこ" / "ελληνικά" / "φωτο.JPEG")
    for stray in ("Thumbs.db", "notes.txt", "clip.mp4"):
        (tmp_path / "собака" / stray).write_bytes(b"x" if stray == "notes.txt" else b"\0x")
    for hidden in (".DS_Store", "._0.png"):
        (tmp_path / "собака" / hidden).write_bytes(b"x")
    (tmp_path / "README.md").write_text("x")
    save(tmp_path / ".git" / "x.png")
    save(tmp_path / "собака" / ".ipynb_checkpoints" / "0.png")
    listing = list_images(tmp_path)
    assert listing.classes == ("собака", "猫 ねこ")
    assert len(listing.paths) == 41
    reasons = {Path(one.path).name: str(one.why) for one in listing.left_out if one.label == 0}
    assert reasons == {
        "notes.txt": "text, or named after an image",
        "clip.mp4": "of an unknown type",
        **dict.fromkeys((".DS_Store", "._0.png", "Thumbs.db", ".ipynb_checkpoints"), "system or hidden"),
    }
    assert "猫 ねこ/ελληνικά/φωτο.JPEG" in listing.paths


def test_a_name_that_is_no_unicode_is_only_bytes(tmp_path):
    fill(tmp_path, ("",))
    raw = bytes(tmp_path / "cat") + b"/\xff\xfe.png"
    Path(raw.decode("utf-8", "surrogateescape")).write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    listing = list_images(tmp_path)
    assert len(listing.paths) == 41


def remove(*names):
    def damage(root):
        for name in names:
            shutil.rmtree(root / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove("."), "is not a folder; it must have train/ and val/"),
        (remove("val"), "has train/ but neither val/ nor test/"),
        (remove("train/dog", "val/dog"), "has the one class cat; a classifier needs"),
        (
            remove("train/dog", "train/cat"),
            "has no folder of images in train/; put the images of each class into a folder of its own",
        ),
        (lambda root: (root / "val").rename(root / "valid"), "arrange them as {root}/train/CLASS, {root}/val/CLASS"),
        (remove("train/dog", "train/cat", "train", "val"), "has no folder of images"),
        (remove("val/dog"), "val has no folder dog, a class of the training part"),
        (remove("train/dog"), "has the one class cat"),
        (lambda root: save(root / "val" / "fox" / "0.png"), "fox is a class that the training part does not have"),
        (lambda root: (root / "train" / "fox").mkdir(), "fox has no images; put some in"),
        (lambda root: [(root / "val" / "fox").mkdir(), save(root / "train" / "fox" / "0.png")], "fox has no images; put some in"),
    ],
)
def test_a_layout_that_is_not_one_is_one_sentence(tmp_path, damage, sentence):
    root = fill(tmp_path / "images")
    damage(root)
    with pytest.raises(NasError) as caught:
        list_images(root)
    problem, *tree = str(caught.value).splitlines()
    assert sentence.format(root=root) in problem
    assert all(line.startswith("  ") for line in tree)


def test_two_folders_of_the_same_name_in_two_spellings_are_one_class(tmp_path):
    fill(tmp_path, ("",), classes=("caf\u00e9", "cafe\u0301"), num=5)
    with pytest.raises(NasError, match=r"has the one class café, in the folders .*u0301', .*; a classifier needs"):
        list_images(tmp_path)


def test_class_folders_have_the_names_that_are_stored(tmp_path):
    names = ("cafe\u0301", "dog")
    fill(tmp_path / "photos", classes=names, num=5)
    dataset = ImageFolder(root=tmp_path / "photos", side=16)
    assert dataset.classes == ("caf\u00e9", "dog")
    assert dataset.class_folders == names
    described = {"classes": list(dataset.classes), "mean": [], "std": []}
    assert unread_images(described, dataset)["class_folders"] == list(names)
    for part in ("train", "val"):
        (tmp_path / "photos" / part / "dog").rename(tmp_path / "photos" / part / "fox")
    assert unread_images(described, dataset)["class_folders"] == described["classes"]
    shutil.rmtree(tmp_path / "photos")
    assert unread_images(described, dataset)["class_folders"] == described["classes"]


def test_a_link_that_leads_to_no_folder_is_said(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("loop", "gone"):
        with pytest.raises(NasError, match=rf"{name} is a link that leads to no folder; it must have"):
            list_images(tmp_path / name)


def test_a_class_too_small_for_three_parts_is_named(tmp_path):
    fill(tmp_path, ("",), num=3)
    assert [len(list_images(tmp_path).parts[part]) for part in PARTS] == [2, 2, 2]
    (tmp_path / "dog" / "2.png").unlink()
    with pytest.raises(NasError, match=r"the class of dog/0\.png has too few images, 2; it needs 3 or more"):
        list_images(tmp_path)


def left_out(listing):
    """Path → reason."""
    return {one.path: one.why for one in listing.left_out}


def test_plain_and_numbered_classes_have_timms_order_in_every_part(tmp_path):
    names = ("1", "2", "10", "11", "Zebra", "ant", "Bee 2", "bee 10", "Éclair", "éclair9", "strasse", "straße")
    listing = list_images(fill(tmp_path, ("train", "val", "test"), classes=names, num=1))
    _, class_to_idx = find_images_and_targets(str(tmp_path / "train"))
    assert listing.classes == tuple(class_to_idx)
    for part in PARTS:
        assert {path.split("/")[1]: label for path, label in listing.parts[part].items()} == class_to_idx


def test_twins_are_one_class_whose_name_is_composed(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(tmp_path, ("train",), classes=(composed, decomposed, "thé"), num=5)
    fill(tmp_path, ("val",), classes=(decomposed, unicodedata.normalize("NFD", "thé")), num=5)
    listing = list_images(tmp_path)
    assert listing.classes == (composed, "thé")
    assert list(listing.parts["test"].values()) == [0] * 5 + [1] * 5
    assert list({**listing.parts["train"], **listing.parts["val"]}.values()).count(0) == 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (os.fsdecode("狗".encode("gbk")), r"folder \xb9\xb7 is not text in UTF-8; rename the folder"),
        ("cat\n", r"folder 'cat\n' has a control character, or a space at an end; rename the folder"),
    ],
)
def test_undecodable_class_names_are_refused_by_name(tmp_path, name, says):
    fill(tmp_path, ("",), classes=("cat", name), num=3)
    with pytest.raises(NasError) as caught:
        class_names(tmp_path)
    assert says in str(caught.value)


def test_system_folders_and_thumbnails_are_passed_over_at_every_depth(tmp_path):
    fill(tmp_path, ("",))
    system = (
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__MACOSX",
        ".Trash-1000",
        "@Recycle",
    )
    for folder in ("", "cat/", "cat/2024/"):
        for name in system:
            save(tmp_path / f"{folder}{name}" / "cat" / "0.png")
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "~$notes.docx", "0.png:Zone.Identifier"):
            (tmp_path / f"{folder}{name}").write_bytes(b"\0")
    listing = list_images(tmp_path)
    assert (listing.classes, len(listing.paths)) == (("cat", "dog"), 40)
    assert set(left_out(listing).values()) == {Why.SYSTEM}
    assert len(listing.left_out) == 3 * (len(system) + 6)


def test_links_are_read_once_loops_end_and_dead_links_are_counted(tmp_path):
    root, elsewhere = (
        fill(tmp_path / "images", ("",), num=5),
        fill(tmp_path / "elsewhere", ("",), classes=("bird", "more"), num=5),
    )
    for link, target in {
        "cat/more": elsewhere / "more",
        "cat/again": elsewhere / "more",
        "bird": elsewhere / "bird",
        "dog/up": "..",
        "dog/up_and_down": "../dog",
        "dog/cats": "../cat",
        "dog/gone.jpg": "/nowhere/x.jpg",
        "dog/self.png": "self.png",
        "dog/linked": root / "dog" / "0.png",
        "dog/outside.png": elsewhere / "bird" / "0.png",
    }.items():
        (root / link).symlink_to(target)
    os.link(root / "dog" / "1.png", root / "dog" / "1 again.png")
    listing = list_images(root)
    by_class = Counter(path.split("/")[0] for path in listing.paths)
    assert by_class == {"cat": 10, "bird": 5, "dog": 6}
    again = next(path for path in left_out(listing) if path in ("dog/1.png", "dog/1 again.png"))
    assert left_out(listing) == {
        "cat/more": Why.LINKED_TWICE,
        "dog/up": Why.LOOP,
        "dog/up_and_down": Why.LOOP,
        "dog/cats": Why.LINKED_TWICE,
        "dog/gone.jpg": Why.DEAD_LINK,
        "dog/self.png": Why.LOOP,
        "dog/linked": Why.LINKED_TWICE,
        again: Why.LINKED_TWICE,
    }


def test_a_linked_folder_that_goes_while_its_like_are_looked_through_is_passed_over(tmp_path):
    fill(tmp_path / "photos", ("",))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "photos" / "notes").mkdir()
    (tmp_path / "photos" / "notes" / "linked").symlink_to(elsewhere)
    folder = Folder(str(tmp_path / "photos"))
    assert "linked" in folder.folders["notes"].folders  # from when it was there
    elsewhere.rmdir()
    assert list(folder.image_folders) == ["cat", "dog"]


def test_suffixes_do_not_matter_to_what_pillow_opens(tmp_path):
    fill(tmp_path, ("",))
    for name in ("a.jfif", "b", "c.JPG_large", "d.jpg~", "e.txt"):
        save(tmp_path / "cat" / name, format="JPEG")
    save(tmp_path / "cat" / "f.bin", format="WEBP")
    save(tmp_path / "cat" / "g", format="PPM")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name, content in {
        "h.heic": heic,
        "0.nef": b"II\x1a\0\0\0HEAPCCDR",  # beside 0.png
        "0.png.xmp": b"\0",
        "labels.csv": b"id,label\n",
        "notes.py": "Python für alle".encode("latin-1"),
        "utf16.txt": "x".encode("utf-16"),
        "0.svg": b"<svg/>",
        "logo.svg": b"<svg/>",
    }.items():
        (tmp_path / "cat" / name).write_bytes(content)
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    listing = list_images(tmp_path)
    assert len(listing.paths) == 47
    reasons = left_out(listing)
    assert reasons.pop("cat/h.heic") == reasons.pop("cat/logo.svg") == Why.UNKNOWN_TYPE
    assert set(reasons.values()) == {Why.COMPANION}
    assert len(reasons) == 7
    for i in range(20):
        (tmp_path / "dog" / f"{i}.png").unlink()
        (tmp_path / "dog" / f"{i}.heic").write_bytes(heic)
    with pytest.raises(NasError, match=r"has the one class cat, but other files: 21 \.heic"):
        list_images(tmp_path)


def test_what_cannot_be_read_is_named_as_root_class_or_folder(tmp_path):
    closed = [tmp_path / "root", tmp_path / "class" / "cat", tmp_path / "folder" / "cat" / "2024"]
    roots = [fill(tmp_path / name, ("",), num=5) for name in ("root", "class", "folder")]
    closed[2].mkdir()
    for folder in closed:
        folder.chmod(0)
    without_roots_powers = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [*without_roots_powers, sys.executable, Path(__file__).parents[1] / "data" / "list_folders.py", *roots]
    try:
        answers = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert answers == [
        f"{closed[0]} cannot be read: Permission denied; allow this user to read it, or move it away",
        f"{closed[1]} cannot be read: Permission denied; allow this user to read it, or move it away",
        "cat/2024 in an unreadable folder",
    ]
