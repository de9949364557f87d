"""A dataset of the hub, or a folder that the package datasets reads, is the dataset that its images in folders would be."""

import json
import logging
import re
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

import numpy as np
import pytest

from nas.datasets import load_part
from nas.datasets.huggingface import HuggingFace
from nas.datasets.image_folder import ImageFolder
from nas.datasets.images.splits import PARTS
from nas.errors import NasError
from tests.data.pictures import as_parquet, fill, save


def below(data, root):
    """The paths of the files of a part, in its order."""
    return [str(file.relative_to(root)) for file in data.files]


@pytest.fixture
def photos(tmp_path):
    """A folder of images, of which no two are the same."""
    return fill(tmp_path / "photos", ("",))


@pytest.mark.parametrize("parts", [("",), ("train", "val"), ("train", "test"), PARTS])
def test_parquet_gives_the_parts_and_pixels_of_its_images_in_folders(tmp_path, parts):
    photos = fill(tmp_path / "photos", parts)
    folder = ImageFolder(root=photos, side=16)
    parquet = HuggingFace(path=str(as_parquet(photos, tmp_path / "parquet")), side=16)
    assert parquet.classes == folder.classes == ("cat", "dog")
    for part in PARTS:
        theirs, ours = folder.load(part), parquet.load(part)
        if part == "train":  # other parts are called as their splits are
            assert below(ours, parquet._folder()) == below(theirs, photos)
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.files[0].read_bytes() == theirs.files[0].read_bytes()
    assert parquet.fingerprint() == folder.fingerprint()


def test_a_folder_of_images_and_what_save_to_disk_wrote_are_read_too(tmp_path, photos):
    import datasets

    folder = ImageFolder(root=photos, side=16)
    as_images = HuggingFace(path=str(photos), side=16)
    datasets.load_dataset(str(photos), cache_dir=tmp_path / "cache").save_to_disk(tmp_path / "saved")
    saved = HuggingFace(path=str(tmp_path / "saved"), side=16)
    assert as_images.fingerprint() == saved.fingerprint() == folder.fingerprint()
    datasets.load_dataset(str(photos), split="train", cache_dir=tmp_path / "cache").save_to_disk(tmp_path / "split")
    assert HuggingFace(path=str(tmp_path / "split"), side=16).fingerprint() == folder.fingerprint()


def test_classes_keep_their_order_and_any_name(tmp_path):
    names = ("zebra", "a/b", "..", "Ant", "%x", " é" * 150)
    photos = tmp_path / "photos"
    for label in range(len(names)):
        for i in range(4):
            save(photos / str(label) / f"{i}.png", (10 * i, 40 * label, 90))
    parquet = tmp_path / "parquet"
    as_parquet(photos, tmp_path / "numbered", [str(label) for label in range(len(names))])
    _write(parquet, rows_of(tmp_path / "numbered"), names)
    dataset = HuggingFace(path=str(parquet), side=8, allow_missing=1.0)
    assert dataset.classes == names
    for part in PARTS:
        data = load_part(dataset, part)
        assert [round(image[0, 0, 1] / 40) for image in data.images] == data.labels.tolist()
    assert {file.parents[1] for file in data.files} == {dataset._folder()}


def rows_of(parquet):
    import datasets

    return datasets.load_dataset(str(parquet), split="train").cast_column("image", datasets.Image(decode=False))[:]


def _write(folder, rows, names=None, *, split="train", **features):
    """Parquet of these rows; labels are texts if no class is named, and `features` are those of other columns."""
    import datasets

    folder.mkdir(exist_ok=True)
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
    kinds = {"image": datasets.Image(), "label": label} | features
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({name: kinds[name] for name in rows}))
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def rows(tmp_path, photos):
    """The columns of forty images of two classes."""
    return rows_of(as_parquet(photos, tmp_path / "numbered"))


def test_texts_and_numbers_name_classes_too(tmp_path, rows):
    import datasets

    texts = _write(tmp_path / "texts", {"image": rows["image"], "label": [("cat", "dog")[one] for one in rows["label"]]})
    assert HuggingFace(path=str(texts)).classes == ("cat", "dog")
    numbered = {"image": rows["image"], "digit": [10 - 11 * one for one in rows["label"]]}
    numbers = _write(tmp_path / "numbers", numbered, digit=datasets.Value("int64"))
    dataset = HuggingFace(path=str(numbers), label="digit", side=16)
    assert dataset.classes == ("-1", "10")
    assert sorted(set(dataset.load("train").labels.tolist())) == [0, 1]


def test_a_part_without_labels_and_a_split_that_is_no_part_are_left_out(tmp_path, rows, caplog):
    folder = _write(tmp_path / "parquet", rows, ("cat", "dog"))
    _write(folder, rows | {"label": [-1] * len(rows["label"])}, ("cat", "dog"), split="test")
    dataset = HuggingFace(path=str(folder), side=16)
    with caplog.at_level(logging.WARNING):
        assert [len(dataset.load(part)) for part in PARTS] == [32, 4, 4]
    assert f"left out: the test part of {folder}, which has no classes" in caplog.text


def test_a_part_may_lack_the_column_of_classes_and_a_class_its_name(tmp_path, rows, caplog):
    import datasets

    features = {"label": datasets.ClassLabel(names=["", "dog"])}
    with_labels = datasets.Dataset.from_dict(rows).cast(datasets.Features({"image": datasets.Image(), **features}))
    splits = datasets.DatasetDict(test=with_labels.select_columns(["image"]), train=with_labels)
    splits.save_to_disk(str(tmp_path / "saved"))
    dataset = HuggingFace(path=str(tmp_path / "saved"), side=16)
    with caplog.at_level(logging.WARNING):
        assert sum(len(dataset.load(part)) for part in PARTS) == 40
    assert dataset.classes == ("", "dog")
    assert f"left out: the test part of {tmp_path}/saved, which has no classes" in caplog.text


def test_an_image_that_is_missing_counts_as_lost(tmp_path, rows):
    rows["image"][0] = None
    rows["image"][1] = None
    folder = _write(tmp_path / "parquet", rows, ("cat", "dog"))
    assert sum(len(HuggingFace(path=str(folder), side=16).load(part)) for part in PARTS) == 38
    rows["image"][2] = {"bytes": b"damaged", "path": None}
    lossy = HuggingFace(path=str(_write(tmp_path / "lossy", rows, ("cat", "dog"))), side=16)
    with pytest.raises(NasError, match="3 of the 20 files of class cat are lost, and at most 10% may be"):
        lossy.load("train")


def test_the_package_is_needed_once_and_a_change_is_read_anew(tmp_path, rows, monkeypatch):
    folder = _write(tmp_path / "parquet", rows, ("cat", "dog"))
    dataset = HuggingFace(path=str(folder), side=16)
    before = dataset.fingerprint()
    partial = dataset._folder().with_name(f".{dataset._folder().name}.partial")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)
        assert dataset.fingerprint() == before
        (dataset._folder() / "index.json").unlink()  # as if its process had been killed
        partial.mkdir()
        with pytest.raises(NasError, match=r"^import of datasets .*; install it with pip install 'frontier-nas\[huggingface\]'$"):
            dataset.fingerprint()
    assert dataset.fingerprint() == before
    assert not partial.exists()
    _write(folder, {name: column[1:] for name, column in rows.items()}, ("cat", "dog"))
    assert before.difference(dataset.fingerprint())


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda rows: rows | {"fine": rows["label"]}, {}, "--dataset.label must be one of label, fine: a column with one class"),
        (lambda rows: rows, {"label": "name"}, "--dataset.label must be one of label, not 'name'"),
        (lambda rows: rows | {"mask": rows["image"]}, {}, "--dataset.image must be one of image, mask: a column of images"),
        (lambda rows: {"label": rows["label"]}, {}, r"has the columns label \(int64\); none is a column of images"),
        (
            lambda rows: {"image": rows["image"], "several": [[0, 1]] * 40},
            {},
            r"several \(List\); none is a column with one class",
        ),
        (
            lambda rows: {"image": rows["image"]},
            {},
            r"has the columns image \(.*\); none is a column with one class for each image",
        ),
        (
            lambda rows: {"image": rows["image"], "title": ["x"] * 40},
            {},
            "--dataset.label must be one of title: a column with one",
        ),
        (
            lambda rows: rows | {"label": [0] * 40},
            {},
            "the train part has no image of class dog; every part must have every class",
        ),
        (
            lambda rows: rows | {"label": [-1, *rows["label"][1:]]},
            {},
            "1 of 40 rows of the train part have no class in the column",
        ),
        (lambda rows: rows, {"config": "de"}, "give one of them with --dataset.config: 'default'"),
    ],
)
def test_what_is_no_dataset_of_images_with_a_class_each_is_one_sentence(tmp_path, rows, change, options, sentence):
    changed = change(rows)
    import datasets

    label = datasets.ClassLabel(names=["cat", "dog"])
    more = {"fine": label, "mask": datasets.Image(), "several": datasets.List(label), "title": datasets.Value("string")}
    _write(tmp_path / "parquet", changed, ("cat", "dog"), **{name: more[name] for name in more.keys() & changed.keys()})
    with pytest.raises(NasError, match=sentence) as caught:
        HuggingFace(path=str(tmp_path / "parquet"), **options).load("train")
    assert "\n" not in str(caught.value)


def test_splits_that_are_no_three_parts_are_one_sentence(tmp_path, rows):
    names = ("cat", "dog")
    folder = _write(_write(tmp_path / "parquet", rows, names, split="test"), rows, names, split="validation")
    with pytest.raises(NasError, match=r"has the splits validation, test; one must be called train"):
        HuggingFace(path=str(folder)).load("train")
    few = _write(tmp_path / "few", {name: [column[0], *column[20:]] for name, column in rows.items()}, names)
    with pytest.raises(NasError, match=r"the class of cat/0\.png has too few images, 1; it needs 3 or more"):
        HuggingFace(path=str(few)).load("train")


@pytest.mark.parametrize("path", ["", "./nowhere", "/nowhere", "a/b/c", "food 101"])
def test_a_path_that_is_no_folder_and_no_name_is_one_sentence(path):
    with pytest.raises(
        NasError, match="is no folder; give one of Parquet files or images, or the NAME or OWNER/NAME of a dataset"
    ):
        HuggingFace(path=path).load("train")


def test_a_folder_without_data_is_one_sentence(tmp_path):
    with pytest.raises(NasError, match="has no files that the package datasets reads, such as Parquet"):
        HuggingFace(path=str(tmp_path)).load("train")
    (tmp_path / "train.parquet").write_bytes(b"damaged")
    with pytest.raises(NasError, match=f"{tmp_path} cannot be read: ") as caught:
        HuggingFace(path=str(tmp_path)).load("train")
    assert "\n" not in str(caught.value)


class Hub(BaseHTTPRequestHandler):
    """A hub with the one dataset anna/food, of the files of a folder; all others are missing, private or gated."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if not path.startswith(("/datasets/anna/food/", "/api/datasets/anna/food")):
            return self._answer(b"", *self.server.refusal)
        files = {file.name: file for file in self.server.folder.iterdir()}
        name, commit = path.rpartition("/")[2], "a" * 40
        if not re.search(rf"/food(/(revision|tree|resolve)/(main|v1|{commit})(/|$)|$)", path):
            return self._answer(b"", 404, "RevisionNotFound")
        if path.startswith("/api/"):
            about = [{"type": "file", "path": name, "size": file.stat().st_size, "oid": "b" * 40} for name, file in files.items()]
            described = {"id": "anna/food", "sha": commit, "tags": [], "siblings": [{"rfilename": name} for name in files]}
            answer = json.dumps(about if "/tree/" in path else described).encode()
            return self._answer(answer, headers={"Content-Type": "application/json"})
        if name not in files:
            return self._answer(b"", 404, "EntryNotFound")
        return self._answer(files[name].read_bytes(), headers={"ETag": f'"{name}"', "X-Repo-Commit": commit})

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, body, status=200, error="", headers=MappingProxyType({})):
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), "X-Error-Code": error, **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, for the real client."""
    import datasets

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        for name, value in (
            ("ENDPOINT", address),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_CACHE", str(tmp_path / "hub")),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.chdir(tmp_path)
        yield server
        server.shutdown()


def test_a_dataset_of_the_hub_is_downloaded_once(hub, tmp_path, monkeypatch):
    photos = fill(tmp_path / "photos", ("train", "val"))
    hub.folder, hub.refusal = as_parquet(photos, tmp_path / "parquet"), (404, "")
    dataset = HuggingFace(path="anna/food", side=16)
    assert dataset.fingerprint() == ImageFolder(root=photos, side=16).fingerprint()
    hub.shutdown()
    assert len(replace(dataset, side=8).load("test")) == 40


def test_a_revision_of_the_hub_is_read_by_its_name(hub, tmp_path):
    hub.folder = as_parquet(fill(tmp_path / "photos", ("train",)), tmp_path / "parquet")
    dataset = HuggingFace(path="anna/food", side=16, revision="v1")
    assert dataset.fingerprint() == replace(dataset, revision="a" * 40).fingerprint()
    with pytest.raises(NasError, match=r"^anna/food: Revision 'v2' doesn't .*; --dataset.revision is a branch, tag or commit$"):
        replace(dataset, revision="v2").load("train")
    with pytest.raises(NasError, match=r"^dataset.revision: .* is a folder, which has no revisions; leave it out$"):
        replace(dataset, path=str(hub.folder)).load("train")


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((404, "RepoNotFound"), "food101 is neither a folder nor a dataset of the hub that you may read; check the name"),
        ((401, "RepoNotFound"), "`hf auth login`, or HF_TOKEN, gives a token that may read it"),
        ((401, "GatedRepo"), "food101 is gated: ask for access at https://huggingface.co/datasets/food101; `hf auth login`"),
        ((403, "GatedRepo"), "food101 is gated"),
        (None, "food101 is no folder, and not on this machine yet, and the hub cannot be reached"),
    ],
)
def test_a_hub_that_refuses_or_is_out_of_reach_is_one_sentence(hub, refusal, sentence, monkeypatch):
    hub.refusal = refusal
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", refusal is None)  # without it, the client tries for long
    with pytest.raises(NasError, match=sentence) as caught:
        HuggingFace(path="food101").load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_search_of_parquet_goes_on_where_its_files_are_moved_to(running_ray, tmp_path, typed):
    fill(tmp_path / "photos", ("train", "val"))
    as_parquet(tmp_path / "photos", tmp_path / "parquet")
    (tmp_path / "label").mkdir()  # which is no column
    options = ["--dataset", "huggingface", "--dataset.side", 32, "--train.epochs", 1, "--space.resolutions", 32, "--trials", 1]
    place = ["--dataset.path", "./parquet", "--dataset.label", "label"]
    printed = typed("search", "digits_mobilenetv3", *options, *place, cwd=tmp_path)
    assert "1 done, 0 failed" in printed
    assert "read 80 images of 2 classes (cat 40, dog 40): 36 to train on, 4 to rank on, 40 to test on" in printed
    (run,) = (tmp_path / "runs").iterdir()
    (tmp_path / "parquet").rename(tmp_path / "moved")
    printed = typed("resume", run, "--trials", 2, "--dataset.path", "./moved", cwd=tmp_path)
    assert "2 done, 0 failed" in printed
    typed("export", run, "--best", "val_top1_pct", "--output", "net", cwd=tmp_path)
