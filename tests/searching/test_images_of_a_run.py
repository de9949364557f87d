"""A run means the same images for ever: others are named and refused, and the same ones at another place are read there."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import nas
from nas.plugins import load_plugin
from nas.runs.images import gone_images
from nas.runs.run_folder import create_run, read_experiment
from nas.runs.serialization import dataset_of
from nas.searching.plan import check_images, check_unchanged
from tests.conftest import DATA
from tests.made_up_runs import run_of_points
from tests.simulated_search import EXPERIMENT


def write_images(file, num=40, seed=0):
    """Images of two classes, and their file."""
    images = np.random.default_rng(seed).integers(0, 255, (100, 4, 4, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, images=images[:num], labels=np.arange(num, dtype=np.int64) % 2)
    return file


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """An experiment on a user's own images at a relative place, and a run of it that has no trial left."""
    here = tmp_path / "here"
    write_images(here / "images.npz")
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.path", [*sys.path])
    own = load_plugin("dataset", str(DATA / "arrays.py"))
    experiment = replace(EXPERIMENT, dataset=own, trials=1, runs=str(tmp_path / "runs"))
    run = create_run(experiment.resolved(), "own", check_images(experiment.resolved()))
    line = (run_of_points(tmp_path, [(70.0, 1.0)]) / "trials.jsonl").read_text()
    (run / "trials.jsonl").write_text(line)
    monkeypatch.chdir(tmp_path)
    return replace(experiment, dataset=dataset_of(read_experiment(run))), run


def test_the_fingerprint_stands_in_the_run(begun):
    _, run = begun
    described = read_experiment(run)["dataset"]
    assert described["fingerprint"]["counts"] == {"train": {"no": 16, "yes": 16}, "val": {"no": 2, "yes": 2}}
    assert described["fields"]["file"] == str(run.parents[1] / "here" / "images.npz")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"num": 43},
            r"since it began: val/no has 3, had 2; begin a new run, or give its images back",
        ),
        ({"seed": 1}, r"began: other contents in train/no, train/yes, val/no and 1 more classes; begin a new run"),
    ],
)
def test_changed_images_are_not_trained_on(begun, tmp_path, changed, sentence):
    experiment, run = begun
    check_unchanged(experiment, run, read_experiment(run))
    write_images(tmp_path / "here" / "images.npz", **changed)
    with pytest.raises(nas.NasError, match=sentence):
        check_unchanged(experiment, run, read_experiment(run))
    with pytest.raises(nas.NasError, match=f"reuse {run}: .*; its results are not comparable"):
        check_images(replace(experiment, reuse=(str(run),)))


def test_another_file_of_the_same_name_at_the_relative_place_is_not_taken(begun, tmp_path):
    experiment, run = begun
    write_images(tmp_path / "images.npz", seed=1)
    check_unchanged(experiment, run, read_experiment(run))  # reads the one of the first session, from any folder


def test_images_that_are_gone_are_said_and_read_at_their_new_place(begun, tmp_path):
    experiment, run = begun
    old, new = tmp_path / "here" / "images.npz", tmp_path / "moved.npz"
    assert gone_images(run, read_experiment(run)) == ""
    old.rename(new)
    how = f"put them back, or name their new place with `nas resume {run} --dataset.file PATH`"
    gone = f"{run}: its images are gone from {old}; {how}"
    assert gone_images(run, read_experiment(run)) == gone
    with pytest.raises(nas.NasError) as caught:
        check_unchanged(experiment, run, read_experiment(run))
    assert str(caught.value) == gone
    there = replace(experiment.dataset, file="moved.npz")
    with pytest.raises(nas.NasError, match=r"its dataset\.limit is 1000, and here it is 7; begin a new run"):
        nas.resume(run, dataset=replace(there, limit=7))
    write_images(old, seed=1)
    with pytest.raises(nas.NasError, match="other contents in train/no"):
        nas.resume(run, dataset=experiment.dataset)
    assert nas.resume(run, dataset=there) == run  # a finished run only records the place
    described = read_experiment(run)
    assert described["sessions"][-1]["changed"] == {"dataset.file": [str(old), str(new)]}
    check_unchanged(replace(experiment, dataset=dataset_of(described)), run, described)
