"""A run goes on in another session, whatever ended the one before and whatever has changed since."""

import shutil
from collections import Counter

import pytest

import nas
from nas.objectives import parse_limit
from nas.runs.front import best
from nas.runs.listing import removable
from nas.runs.pareto import dominates
from nas.runs.run_folder import TRIALS_FILE, mend_logs
from tests.made_up_runs import describe_run
from tests.simulated_search import Twelve, new_run, next_session


@pytest.fixture(autouse=True)
def few_probes(monkeypatch):
    """How much of a space meets the limits is known less exactly, and sooner."""
    monkeypatch.setattr("nas.searching.feasibility.NUM_SAMPLES", 200)


def killed_after(run, lines, tmp_path):
    """A copy of a run folder as a driver killed after so many lines of its log, and some bytes of the next, leaves it."""
    copy = tmp_path / f"killed{lines}"
    shutil.copytree(run, copy)
    whole = (run / TRIALS_FILE).read_bytes().splitlines(keepends=True)
    torn = whole[lines][: len(whole[lines]) // 2] if lines < len(whole) else b""
    (copy / TRIALS_FILE).write_bytes(b"".join(whole[:lines]) + torn)
    return copy


def test_a_run_killed_at_any_moment_goes_on_without_losing_or_repeating_a_finished_trial(tmp_path):
    common = {"limits": (parse_limit("macs_m<0.9"),), "trials": 4, "workers": 2, "sampler": "random"}
    first = new_run(tmp_path, **common)
    first.play(4)
    whole, num_lines = first.results, len((first.run / TRIALS_FILE).read_bytes().splitlines())
    assert whole["status"].eq("infeasible").any()
    for lines in range(num_lines + 1):
        copy = killed_after(first.run, lines, tmp_path)
        mend_logs(copy)
        before = nas.results(copy)
        again = next_session(copy, **common)
        for name in ("u0", "u1"):
            again.ask(name)
        for name in again.configs:
            again.finish(name, 70.0)
        again.play(4)
        after = again.results
        kept = after[after["trial"].isin(before["trial"][before["status"] == "done"])]
        assert kept["val_top1_pct"].tolist() == whole["val_top1_pct"][whole["trial"].isin(kept["trial"])].tolist()
        done = after[after["status"] == "done"]
        assert done["id"].is_unique
        assert sorted(done["trial"]) == list(range(4))
        interrupted = before["id"][before["status"] == "interrupted"]
        assert set(interrupted) <= set(done["id"])  # went on, under its own number
        assert Counter(trial.state.name for trial in again.study.trials)["COMPLETE"] == 4
        shutil.rmtree(copy)


def test_weights_are_brought_in_order_after_a_kill_between_outcome_and_weights(tmp_path):
    played = new_run(tmp_path, workers=1)
    played.play(3)
    df, run = played.results, played.run
    best_trial = df["trial"][df["is_front"]].iloc[0]
    folder = run / "checkpoints" / f"trial{best_trial}"
    folder.mkdir()
    (run / "checkpoints" / f"{best_trial}.safetensors").rename(folder / "weights.safetensors")
    losses = list(zip(-df["val_top1_pct"], df["macs_m"], strict=True))
    was_front = [not any(dominates(other, loss) for other in losses[:i]) for i, loss in enumerate(losses)]
    off = set(df["trial"][was_front]) - set(df["trial"][df["is_front"]])
    assert off
    for trial in off:
        (run / "checkpoints" / f"{trial}.safetensors").write_text("left over")
    next_session(run)
    assert {path.stem for path in (run / "checkpoints").iterdir()} == set(map(str, df["trial"][df["is_front"]]))


def test_a_run_goes_on_with_another_sampler_more_trials_and_a_tighter_limit(tmp_path):
    played = new_run(tmp_path, trials=6, workers=1)
    played.play(6)
    before, limit = played.results, parse_limit("macs_m<0.7")
    again = next_session(played.run, trials=12, sampler="nsga2", limits=(limit,))
    told = again.study.trials
    assert [trial.values for trial in told] == [trial.values for trial in played.study.trials]
    assert all((trial.constraints[str(limit)] <= 0) == (trial.values[1] <= 0.7) for trial in told)
    assert len(again.play(12)) == 6
    after = again.results
    new = after[(after["status"] == "done") & (after["trial"] > 5)]
    assert len(new) == 6
    assert new["macs_m"].max() <= 0.7
    assert set(new["id"]).isdisjoint(before["id"])


def test_what_fits_no_longer_is_not_gone_on_with(tmp_path):
    played = new_run(tmp_path, workers=2, sampler="random")
    played.ask("a"), played.ask("b")
    played.epoch("a", 1, 33.0)
    small, large = sorted(played.cost(name) for name in "ab")
    played.searcher.close()
    again = next_session(played.run, limits=(parse_limit(f"macs_m<{(small + large) / 2}"),))
    df = again.results.sort_values("macs_m")
    assert list(df["status"]) == ["interrupted", "stopped"]
    assert df["reason"].iloc[1] == "limit"
    again.ask("c")
    assert again.configs["c"]["trial"] == df["trial"].iloc[0]


def test_a_space_that_has_changed_is_not_gone_on_with(tmp_path):
    played = new_run(tmp_path, space=Twelve(), trials=6)
    played.play(2)

    class Other(Twelve):
        def decode(self, params):
            return nas.reference("mobilenetv2_100")

    with pytest.raises(nas.NasError, match="space twelve has changed: parameters that meant architecture"):
        next_session(played.run, space=Other())


def test_a_limit_on_something_new_is_measured_for_what_was_found_before(tmp_path):
    played = new_run(tmp_path, trials=5, workers=1)
    played.play(5)
    before, run = played.results, played.run
    describe_run(run, limits=[parse_limit("params_m<10")])
    assert nas.results(run)["is_front"].tolist() == before["is_front"].tolist()  # nothing is known of it yet
    after = next_session(run, limits=(parse_limit("params_m<10"),)).results
    assert after["params_m"].between(0, 10).all()
    assert after["is_front"].tolist() == before["is_front"].tolist()
    assert not [path for path in removable(run) if path.stem in set(map(str, before["trial"][before["is_front"]]))]


def test_a_tighter_limit_takes_networks_off_the_front_and_removes_no_weights(tmp_path):
    played = new_run(tmp_path, trials=6, workers=1)
    played.play(6)
    run = played.run
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    bound = played.results["macs_m"].min()
    describe_run(run, limits=[parse_limit(f"macs_m<{bound}")])
    after = next_session(run, limits=(parse_limit(f"macs_m<{bound}"),)).results
    assert kept <= {path.name for path in (run / "checkpoints").iterdir()}
    assert after["macs_m"][after["is_front"]].tolist() == [bound]
    assert best(after, "val_top1_pct")["macs_m"] == bound


def test_a_wider_limit_tries_the_references_that_it_lets_in(tmp_path):
    space = nas.space("mobilenetv3")
    played = new_run(tmp_path, space=space, limits=(parse_limit("macs_m<100"),), trials=2)
    played.play(2)
    again = next_session(played.run, space=space, limits=(parse_limit("macs_m<1000"),), trials=6)
    again.play(6)
    assert "mobilenetv3_large_100" in set(again.results.query("status == 'done'")["name"])
