"""A search by shared weights, as Ray plays it: batches of scores, then the front fine-tuned and trained alone. No Ray starts."""

import shutil
import zlib
from collections import Counter

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from safetensors.numpy import save_file

import nas
from nas.cli.progress import PHASES
from nas.objectives import parse_limit
from nas.runs.run_folder import TRIALS_FILE, mend_logs, shared_weights_file
from nas.runs.shared_weights import SharedRecord, write_shared_record
from nas.runs.trial import Outcome, Reason, Status, Weights
from nas.runs.trial_log import read_trials
from nas.searching.phases import work_left
from nas.searching.plan import FinishedError, check_unfinished
from tests.simulated_search import EXPERIMENT, SMALLEST, RaysTrial, Twelve, new_run, next_session

SHARED = {"shared_weights": "train", "shared_trials": 20, "workers": 2, "sampler": "random"}


@pytest.fixture(autouse=True)
def few_probes(monkeypatch):
    """How much of a space meets the limits is known less exactly, and sooner."""
    monkeypatch.setattr("nas.searching.feasibility.NUM_SAMPLES", 200)


def accuracy(text, weights):
    """A made-up top-1 of a network: a fine-tuning adds 5 points, a training alone 10."""
    gains = {Weights.SHARED: 0, Weights.FINE_TUNED: 5, Weights.TRAINED: 10}
    return 40 + zlib.crc32(text.encode()) % 4000 / 100 + gains[weights]


def end_current(played, name):
    """End the trial under way of a batch with its made-up accuracy."""
    current = played.searcher.pending[name][0]
    top1 = accuracy(current.point.text, current.weights)
    played.finish(name, top1, val_loss=4 - top1 / 30)


def play(played, *, most=10_000):
    """Two workers that take turns until the search ends, or so many trials have ended."""
    names = iter(f"w{i}" for i in range(10_000))
    ended, finished = 0, False
    while ended < most:
        if not finished and len(played.searcher.pending) < 2:
            finished = played.ask(next(names)) == Searcher.FINISHED
        if not played.searcher.pending:
            assert finished
            return
        end_current(played, list(played.searcher.pending)[-1])
        ended += 1


def trials_of(played):
    return played.results.dropna(subset="trial").reset_index(drop=True)


def test_a_worker_gets_a_batch_of_scores_that_leaves_the_others_some(tmp_path):
    played = new_run(tmp_path, **SHARED)
    sizes = []
    for name in ("a", "b", "c", "d", "e"):
        played.ask(name)
        networks = played.configs[name]["networks"]
        assert {weights for _, _, weights, *_ in networks} == {"shared"}
        assert played.configs[name]["costs"] is None
        sizes.append(len(networks))
        while name in played.searcher.pending:
            end_current(played, name)
    assert sizes == [10, 5, 3, 1, 1]
    df = trials_of(played)
    assert df["trial"].tolist() == list(range(20))
    assert df["id"].is_unique
    assert set(df["weights"]) == {"shared"}
    assert [trial.values for trial in played.study.trials] == [
        [-loss, macs] for loss, macs in df[["val_loss", "macs_m"]].to_numpy()
    ]
    kept = {path.name for path in (played.run / "checkpoints").iterdir()}
    assert kept == {f"{trial}.safetensors" for trial in df["trial"][df["is_front"]]}


def test_a_batch_whose_worker_is_killed_blames_the_network_under_way_alone(tmp_path):
    played = new_run(tmp_path, **SHARED)
    played.ask("a")
    batch = [text for _, text, *_ in played.configs["a"]["networks"]]
    end_current(played, "a")
    played.searcher.lost("a", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    played.ask("b")
    again = [text for _, text, *_ in played.configs["b"]["networks"]]
    assert again[:9] == [*batch[2:], batch[1]]
    for _ in range(8):
        assert not played.searcher.pending["b"][0].lost_nodes
        end_current(played, "b")
    played.searcher.lost("b", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    played.ask("c")
    assert played.configs["c"]["networks"][0][1] == again[9]
    played.searcher.close()
    df = trials_of(played).set_index("trial")
    assert df.loc[1, ["status", "reason", "retries"]].tolist() == ["failed", "crash", 1]
    assert df["retries"].count() == 1
    assert df["status"].value_counts()["done"] == 9


def test_a_crash_within_a_batch_ends_its_process_and_an_error_of_the_network_does_not(tmp_path):
    played = new_run(tmp_path, **SHARED)
    played.ask("a")
    played.end("a", Outcome(status=Status.FAILED, reason=Reason.DIVERGED, error="nan"))
    assert played.searcher.pending["a"][0].number == 1
    played.end("a", Outcome(status=Status.FAILED, reason=Reason.CRASH, error="CUDA error"))
    assert "a" not in played.searcher.pending
    played.ask("b")
    assert [number for number, *_ in played.configs["b"]["networks"]] == list(range(2, 11))


def test_scores_come_first_then_the_front_is_fine_tuned_and_the_best_are_trained_alone(tmp_path, caplog):
    caplog.set_level("INFO", logger="nas")
    played = new_run(tmp_path, **SHARED | {"shared_trials": 40}, alone=2)
    play(played)
    df = trials_of(played)
    counts = Counter(df["weights"])
    assert counts["shared"] == 40
    assert df["weights"].tolist() == [*["shared"] * 40, *["fine-tuned"] * counts["fine-tuned"], "trained", "trained"]
    shared = df[df["weights"] == "shared"]
    front = nas.front(shared, {"val_top1_pct": "maximize", "macs_m": "minimize"})
    tuned = df[df["weights"] == "fine-tuned"]
    assert tuned["from_trial"].tolist() == front["trial"].tolist()
    assert set(tuned["gain_pct"].round(6)) == {5.0}
    alone = df[df["weights"] == "trained"]
    assert alone["from_trial"].tolist() == front["trial"].tolist()[:2]
    assert set(df["source"][df["from_trial"].notna()]) == {"front"}
    assert tuned["name"].tolist() == [f"trial {number}" for number in front["trial"]]  # which `nas table` shows
    assert len(played.study.trials) == 40
    assert not played.searcher.close()
    assert "(+5.00)" in caplog.text
    assert caplog.text.count(" score of trial ") < 30


def test_another_number_of_epochs_fine_tunes_the_front_again(tmp_path):
    played = new_run(tmp_path, **SHARED)
    play(played)
    again = next_session(played.run, **SHARED | {"fine_tune": 9})
    assert work_left(again.state.session.experiment, again.state.session.plan.problem, read_trials(played.run))
    play(again)
    df = trials_of(again)
    tuned = df[df["weights"] == "fine-tuned"]
    first, second = (tuned[tuned["epochs"] == epochs] for epochs in (5, 9))
    assert first["from_trial"].tolist() == second["from_trial"].tolist()
    assert [(phase.ended, phase.total) for phase in again.searcher.phases()][1:] == [(2 * len(first), 2 * len(first))]
    assert df[df["is_front"]]["trial"].tolist() == second["trial"].tolist()  # equal figures of one network: the latest row


@pytest.mark.parametrize(("top1", "warns"), [(18.0, True), (21.0, False)])
def test_scores_near_chance_are_warned_of(tmp_path, caplog, top1, warns):
    played = new_run(tmp_path, **SHARED | {"shared_trials": 1, "workers": 1})
    played.ask("a")
    played.searcher.record("a", {"begun": True})
    played.finish("a", top1)
    played.ask("b")
    assert (f"the best score is {top1:.1f} %, and chance 10.0 %" in caplog.text) == warns


def test_a_phase_waits_for_the_end_of_the_one_before(tmp_path):
    played = new_run(tmp_path, **SHARED | {"shared_trials": 4}, alone=1)
    played.ask("a"), played.ask("b")
    while "a" in played.searcher.pending:
        end_current(played, "a")
    played.ask("c")
    while "b" in played.searcher.pending:
        end_current(played, "b")
    assert played.ask("d") is None
    end_current(played, "c")
    played.ask("e")
    assert played.configs["e"]["networks"][0][2] == "fine-tuned"


def test_a_search_by_shared_weights_killed_at_any_moment_goes_on_to_the_same_end(tmp_path):
    fields = SHARED | {"shared_trials": 4, "alone": 1}
    first = new_run(tmp_path, **fields)
    play(first)
    whole = trials_of(first)
    ends = Counter(whole["weights"])
    lines = (first.run / TRIALS_FILE).read_bytes().splitlines(keepends=True)
    for num in range(0, len(lines), 2):
        copy = tmp_path / f"killed{num}"
        shutil.copytree(first.run, copy)
        (copy / TRIALS_FILE).write_bytes(b"".join(lines[:num]) + lines[num][:9])
        mend_logs(copy)
        before = nas.results(copy)
        again = next_session(copy, **fields)
        check_unfinished(copy, again.state.session.experiment, again.state.session.plan, read_trials(copy))
        play(again)
        after = trials_of(again)
        done = before[before["status"] == "done"]
        assert after[after["trial"].isin(done["trial"])]["val_top1_pct"].tolist() == done["val_top1_pct"].tolist()
        assert (after["status"] == "done").all()
        assert not after.duplicated(["id", "weights"]).any()
        assert Counter(after["weights"])["shared"] == ends["shared"]
        front = nas.front(after[after["weights"] == "shared"], {"val_top1_pct": "maximize", "macs_m": "minimize"})
        assert set(after["from_trial"].dropna()) == set(front["trial"])
        assert Counter(after["weights"])["trained"] == 1
        shutil.rmtree(copy)
    session = next_session(first.run, **fields).state.session
    with pytest.raises(
        FinishedError, match="4 of 4 networks are scored, and their front is trained; extend it with more --shared"
    ):
        check_unfinished(first.run, session.experiment, session.plan, read_trials(first.run))


def test_a_search_by_the_weights_of_another_run_begins_with_its_scores(tmp_path, caplog):
    first = new_run(tmp_path, **SHARED)
    play(first)
    scored = trials_of(first)
    scored = scored[scored["weights"] == "shared"]
    limit = scored["macs_m"].median()
    within = scored[scored["macs_m"] <= limit]
    front = nas.front(within, {"val_top1_pct": "maximize", "macs_m": "minimize"})
    shared_weights_file(first.run).parent.mkdir()
    save_file({"weight": np.zeros(3)}, shared_weights_file(first.run))
    training = {"processes": 1, "device": "cpu", "precision": "float32", "seed": 0}
    write_shared_record(first.run, SharedRecord(train_loss=(2.0,), seconds=1.0, **training))
    caplog.set_level("INFO", logger="nas")
    fields = SHARED | {"shared_weights": str(first.run), "shared_trials": len(front) + 3}
    again = new_run(tmp_path, **fields, limits=(parse_limit(f"macs_m<{limit}"),))
    play(again)
    df = trials_of(again)
    sources = {source: set(rows["id"]) for source, rows in df[df["weights"] == "shared"].groupby("source")}
    assert sources["start"] == set(front["id"])
    assert sources["reuse"] == set(within["id"]) - set(front["id"])
    assert len(sources["search"]) + len(sources.get("reference", ())) == 3
    assert not df["is_front"][df["source"] == "reuse"].any()
    values = df.drop_duplicates("id").set_index("id")["val_top1_pct"]
    assert values[within["id"]].tolist() == within["val_top1_pct"].tolist()
    assert f"{first.run.name} has 20 scores, {len(within)} of networks within the limits" in caplog.text
    assert f"{len(sources['reuse'])} of these are reused; those on their front, {len(front)}, are scored again" in caplog.text


def test_scored_networks_meet_the_limits_of_their_session(tmp_path):
    played = new_run(tmp_path, **SHARED | {"shared_trials": 6}, limits=(parse_limit("macs_m<0.9"),))
    play(played)
    df, before = played.results, trials_of(played)
    assert before["macs_m"].max() <= 0.9
    assert df["status"].eq("infeasible").any()
    limit = before["macs_m"].median()
    again = next_session(played.run, **SHARED | {"shared_trials": 9}, limits=(parse_limit(f"macs_m<{limit}"),))
    play(again)
    after = trials_of(again)
    assert Counter(after["weights"])["shared"] == 9
    assert after["macs_m"].iloc[len(before) :].max() <= limit


def test_a_space_without_other_networks_ends_the_scores_and_begins_the_front(tmp_path):
    played = new_run(tmp_path, **SHARED, space=Twelve())
    play(played)
    weights = Counter(trials_of(played)["weights"])
    assert weights["shared"] == len(SMALLEST)
    assert weights["fine-tuned"] > 0


def test_trainings_learn_from_scores_and_may_train_the_same_networks(tmp_path):
    fields = {"workers": 2, "seed": 3}
    played = new_run(tmp_path, **SHARED | fields, fine_tune=0)
    play(played)
    scored = trials_of(played)
    assert set(scored["weights"]) == {"shared"}
    again = next_session(played.run, **fields, trials=7)
    assert work_left(again.state.session.experiment, again.state.session.plan.problem, read_trials(played.run))
    pruned = [trial for trial in again.study.trials if trial.state.name == "PRUNED"]
    assert [trial.user_attrs["learning_curve"] for trial in pruned] == [[(0, top1)] for top1 in scored["val_top1_pct"]]
    play(again)
    df = trials_of(again)
    trained = df[df["weights"] == "trained"]
    assert len(trained) == 7
    assert trained["id"].is_unique
    both = trained[trained["id"].isin(scored["id"])]
    assert (both["source"] == "front").sum() >= 3
    score = scored.set_index("id")["val_top1_pct"]
    curves = [trial.user_attrs.get("learning_curve") for trial in again.study.trials if trial.state.name == "COMPLETE"]
    assert sorted(curve[0][1] for curve in curves if curve) == sorted(score[both["id"]])
    back = next_session(played.run, **SHARED | fields, fine_tune=0)
    assert {tuple(trial.values) for trial in back.study.trials} == {tuple(trial.values) for trial in played.study.trials}


def test_what_needs_shared_weights_waits_for_a_session_that_has_them(tmp_path):
    played = new_run(tmp_path, **SHARED)
    played.ask("a")
    played.searcher.close()
    again = next_session(played.run, trials=2, workers=2)
    play(again)
    assert Counter(trials_of(again)["status"]) == {"interrupted": 10, "done": 2}
    back = next_session(played.run, **SHARED)
    play(back)
    assert (trials_of(back)["status"] == "done").all()
    assert Counter(trials_of(back)["weights"])["shared"] == 20


def test_a_baseline_is_trained_beside_the_scores(tmp_path):
    played = new_run(tmp_path, **SHARED | {"shared_trials": 2}, baselines=("mobilenetv2_035",))
    play(played)
    df = trials_of(played)
    assert df[["weights", "is_baseline"]].iloc[0].tolist() == ["trained", True]
    assert EXPERIMENT.shared_weights == "none"


def test_an_interrupted_batch_ends_after_the_network_under_way(tmp_path):
    played = new_run(tmp_path, **SHARED)
    played.ask("a"), played.ask("b")
    batch = RaysTrial("a", played.configs["a"])
    result = {"outcome": "as text"}
    assert played.scheduler.on_trial_result(None, batch, result) == TrialScheduler.CONTINUE
    played.state.interrupted.set()
    assert played.scheduler.on_trial_result(None, batch, result) == TrialScheduler.STOP
    end_current(played, "a")
    played.searcher.on_trial_complete("a")
    assert played.searcher.close()
    assert Counter(trials_of(played)["status"]) == {"done": 1, "interrupted": 14}


def test_the_phases_of_a_search_are_shown_as_they_begin(tmp_path):
    played = new_run(tmp_path, **SHARED | {"shared_trials": 4}, alone=1)
    play(played, most=3)
    assert played.searcher.phases() == [("scores", 3, 4)]
    play(played)
    scores, tuned, alone = played.searcher.phases()
    assert (scores, alone) == (("scores", 4, 4), ("trainings alone", 1, 1))
    assert tuned.ended == tuned.total == Counter(trials_of(played)["weights"])["fine-tuned"]
    assert [phase.name for phase in (scores, tuned, alone)] == [name for name in PHASES if name != "trainings"]
