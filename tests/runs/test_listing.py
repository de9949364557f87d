"""Runs are listed, and what is off their fronts is removed once that is asked for."""

import re

import pytest

from tests.simulated_search import new_run


@pytest.fixture
def run(tmp_path):
    """A run of four networks whose weights were all kept."""
    played = new_run(tmp_path / "runs", keep_all=True, trials=4, workers=1)
    played.play(4)
    return played.run


def test_runs_are_listed_with_their_state_and_best_network(run, tmp_path, typed):
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "experiment.json").write_text("{")
    header, *lines, total = typed("runs", cwd=tmp_path).splitlines()
    assert header.split() == ["run", "state", "trials", "front", "best", "size_mb"]
    broken, line = sorted(lines)
    assert "unreadable: " in broken
    assert re.match(rf"runs/{run.name} +finished +4/4 +\d +val_top1_pct [\d.]+ +[\d.]+$", line)
    assert total.startswith("2 runs, ")


def test_weights_off_the_front_are_named_and_removed_with_yes(run, tmp_path, typed):
    import nas

    df = nas.results(run)
    front = {f"{trial}.safetensors" for trial in df["trial"][df["is_front"]]}
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert front < kept
    said = typed("clean", run, cwd=tmp_path)
    assert all(name in said for name in kept - front)
    assert {path.name for path in (run / "checkpoints").iterdir()} == kept  # without --yes
    typed("clean", run, "--yes", cwd=tmp_path)
    assert {path.name for path in (run / "checkpoints").iterdir()} == front
