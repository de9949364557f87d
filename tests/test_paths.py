"""A path that a user gives means one file, in whatever folder and process it is read."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import nas
from nas.paths import NoPath, absolute, expanded, user_folder, with_absolute_paths
from tests.conftest import type_command
from tests.simulated_search import EXPERIMENT


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A working folder with some entries, and a home folder."""
    for name in ("here/images/cat", "here/train", "home", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("images", "here/images"),
        ("~/runs", "home/runs"),
        ("~", "home"),
        ("./nowhere", "here/nowhere"),
        ("../home", "home"),
        ("link", "here/link"),  # a link may point to other data tomorrow, as its owner wishes
        ("link/../images", "elsewhere/images"),  # where the system finds it
    ],
)
def test_a_path_is_absolute_and_its_links_stay(home, given, meant):
    assert absolute(given) == home / meant
    assert absolute(home / meant) == home / meant


def test_a_home_that_is_not_known_is_one_sentence():
    with pytest.raises(nas.NasError, match="~nobody-here/runs: no home folder is known for ~; give the whole path"):
        absolute("~nobody-here/runs")


@pytest.mark.parametrize("word", ["--where=~is_front", "--best=macs_m", "~is_front", "a=~/b", "timm:resnet18"])
def test_words_that_are_no_paths_stay(word):
    assert expanded(word) == word


def test_a_command_expands_the_home_folder_where_the_shell_does_not(home):
    answer = type_command("runs", "~/nowhere", cwd=home / "here")
    assert str(home / "home" / "nowhere") in answer.printed + answer.errors
    assert expanded("--runs=~/runs") == f"--runs={home}/home/runs"
    assert not (home / "here" / "~").exists()


@dataclass(frozen=True, kw_only=True)
class Places:
    """Fields of a user's own dataset."""

    root: Path = Path("not/yet")
    text: "str | Path" = "not/yet"
    images: str = "images"
    file: str = "./labels.csv"
    many: Sequence[str] = ("images", "nothing")
    split: str = "train"
    kind: Literal["images", "other"] = "images"
    column: NoPath | None = "images"
    bucket: str = "s3://images"
    size: int = 3
    none: Path | None = None


def test_the_paths_among_the_fields_of_a_dataset_are_absolute(home):
    here = home / "here"
    after = with_absolute_paths(Places())
    assert after == Places(
        root=here / "not/yet",
        text=here / "not/yet",
        images=str(here / "images"),
        file=str(here / "labels.csv"),
        many=(str(here / "images"), "nothing"),
    )
    assert with_absolute_paths(after) is after


def test_an_experiment_means_the_same_from_every_folder(home):
    (home / "here" / "net.json").touch()
    fields = {"start": ("net.json", "mobilenetv3_small_100"), "reuse": ("old",), "runs": "~/runs", "storage": "kept"}
    after = nas.Experiment(**vars(EXPERIMENT) | fields | {"dataset": nas.dataset("mnist"), "latency": "t.json"}).resolved()
    here = home / "here"
    assert after.start == (str(here / "net.json"), "mobilenetv3_small_100")
    assert (after.reuse, after.runs, after.storage) == ((str(here / "old"),), str(home / "home/runs"), str(here / "kept"))
    assert (after.latency, after.dataset.root) == (str(here / "t.json"), here / "data")
    assert after.resolved() == after


def test_a_home_that_cannot_be_written_is_told_and_a_temporary_folder_takes_its_place(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder("XDG_CACHE_HOME", ".cache") == tmp_path / ".cache" / "frontier-nas"
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))  # root may write anywhere
    folder = user_folder("XDG_CACHE_HOME", ".cache")
    assert folder.is_relative_to(tempfile.gettempdir())
    assert f"/proc cannot be written: {folder.parent} takes its place; XDG_CACHE_HOME sets another folder" in caplog.text
    monkeypatch.setenv("XDG_CACHE_HOME", "/my/cache")
    assert user_folder("XDG_CACHE_HOME", ".cache") == Path("/my/cache/frontier-nas")
