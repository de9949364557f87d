"""Baselines beside a search, and full trainings of its front."""

import json
import shutil

import pytest

import nas
from nas.models.network import find_network
from nas.runs.compare import check_ranking
from nas.runs.run_folder import read_experiment
from tests.conftest import type_command
from tests.made_up_runs import describe_run, train_in_full

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("running_ray")]


@pytest.fixture(scope="module")
def run(digits_run, tmp_path_factory):
    """A finished search that these tests may write to."""
    return shutil.copytree(digits_run, tmp_path_factory.mktemp("verify") / digits_run.name)


def test_the_front_is_trained_in_full_once_and_tells_how_far_to_trust_the_search(run, typed, tmp_path):
    """The best network has one of its two seeds already, and the next one the only one that is asked for."""
    front = nas.results(run).query("is_front").sort_values("val_top1_pct", ascending=False)
    best = front.iloc[0]
    for trial, top1 in zip(front["trial"].head(2), (71.0, 60.0), strict=False):
        train_in_full(run, trial, 0, top1, epochs=1)
    before = {file: file.stat().st_mtime_ns for file in run.glob("full/*/card.json")}
    typed("verify", run, "--top", 1, "--seeds", 2, "--epochs", 1, cwd=tmp_path)
    new = set(run.glob("full/*/card.json")) - set(before)
    assert {file.parent.name for file in new} == {f"trial{best['trial']}-seed1-epochs1"}
    printed = typed("verify", run, "--top", 2, "--seeds", 1, "--epochs", 1, cwd=tmp_path)
    assert str(check_ranking(run) or "one network alone has no ranking") in printed
    assert {file: file.stat().st_mtime_ns for file in before} == before  # what was trained is not trained again
    assert set(run.glob("full/*/card.json")) == {*before, *new}
    df = nas.results(run).sort_values("val_top1_pct", ascending=False)
    full = df[df["full_seeds"].notna()]
    assert full["full_seeds"].tolist() == [2, 1][: len(before)]
    assert set(full["full_epochs"]) == {1}
    (card,) = (json.loads(file.read_text()) for file in new)
    assert (card["id"], card["accuracy"]["seed"]) == (best["id"], 1)
    assert full.iloc[0]["full_test_top1_pct"] == pytest.approx((71.0 + card["accuracy"]["test_top1_pct"]) / 2)
    assert nas.load(new.pop().parent).training is False


def test_a_front_is_not_trained_in_full_on_other_images(digits_run, tmp_path):
    copy = shutil.copytree(digits_run, tmp_path / digits_run.name)
    dataset = read_experiment(copy)["dataset"]
    dataset["fingerprint"]["keys"]["train"]["3"] = "other"
    describe_run(copy, dataset=dataset)
    answer = type_command("verify", copy, "--top", 1, "--seeds", 1, "--epochs", 1, cwd=tmp_path)
    assert (answer.code, answer.errors.count("\n")) == (2, 1)
    assert f"{copy}: the images have changed since it began: other contents in train/3; begin a new run" in answer.errors
    assert not list(copy.glob("full/*/card.json"))


def test_baselines_are_rows_under_the_same_recipe_and_never_on_the_front(run, typed, tmp_path):
    names = ["timm:test_resnet", "mobilenetv2_035"]
    printed = typed("resume", run, "--baselines", *names, "--trials", 5, "--workers", 1, cwd=tmp_path)
    assert "baseline timm:test_resnet done: val_top1_pct " in printed
    outside = nas.results(run).set_index("name").loc[names]
    assert outside["source"].tolist() == ["reference"] * 2
    assert outside["status"].tolist() == ["done"] * 2
    assert outside["epochs"].tolist() == [2, 2]
    assert not outside["is_front"].any()  # no points of the space
    at_the_spaces_resolution = find_network("timm:test_resnet", resolution=32).costs(10)
    assert outside.loc["timm:test_resnet", "macs_m"] == pytest.approx(at_the_spaces_resolution["macs"] / 1e6)
    assert "5/5 trial" in printed  # baselines count for no trial
