"""Baselines beside a search, and full trainings of its front."""

import json
import shutil

import pytest

import nas
from nas.runs.compare import trust

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("running_ray")]


@pytest.fixture(scope="module")
def run(digits_run, tmp_path_factory):
    """A finished search that these tests may write to."""
    return shutil.copytree(digits_run, tmp_path_factory.mktemp("verify") / digits_run.name)


def test_the_front_is_trained_in_full_once_and_tells_how_far_to_trust_the_search(run, typed, tmp_path):
    printed = typed("verify", run, "--top", 2, "--seeds", 1, "--epochs", 3, cwd=tmp_path)
    first = {file: file.stat().st_mtime_ns for file in run.glob("full/*/card.json")}
    networks = min(2, int(nas.results(run)["is_front"].sum()))
    assert len(first) == networks
    assert str(trust(run) or "one network alone has no ranking") in printed
    typed("verify", run, "--top", 1, "--seeds", 2, "--epochs", 3, cwd=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in first} == first  # what was trained is not trained again
    df = nas.results(run).sort_values("val_top1_pct", ascending=False)
    full = df[df["full_seeds"].notna()]
    assert full["full_seeds"].tolist() == [2, 1][:networks]
    assert set(full["full_epochs"]) == {3}
    cards = [json.loads(file.read_text()) for file in run.glob("full/*/card.json")]
    best = full.iloc[0]
    mine = [card["accuracy"] for card in cards if card["id"] == best["id"]]
    assert {accuracy["seed"] for accuracy in mine} == {0, 1}
    assert best["full_test_top1_pct"] == pytest.approx(sum(accuracy["test_top1_pct"] for accuracy in mine) / 2)
    assert nas.load(next(run.glob("full/trial*"))).training is False


def test_baselines_are_rows_under_the_same_recipe_and_never_on_the_front(run, typed, tmp_path):
    names = ["timm:resnet18", "mobilenetv2_035"]
    printed = typed("resume", run, "--baselines", *names, "--trials", 5, "--workers", 1, cwd=tmp_path)
    assert "baseline timm:resnet18 done: val_top1_pct " in printed
    outside = nas.results(run).set_index("name").loc[names]
    assert outside["source"].tolist() == ["reference"] * 2
    assert outside["status"].tolist() == ["done"] * 2
    assert outside["epochs"].tolist() == [2, 2]
    assert not outside["is_front"].any()  # no points of the space
    assert outside.loc["timm:resnet18", "macs_m"] == pytest.approx(1814 * (32 / 224) ** 2, rel=0.02)  # at the space's resolution
    assert "5/5 trial" in printed  # baselines count for no trial
