"""What a search believes of its networks, and its further trainings of one network."""

import random
from dataclasses import replace

import pandas as pd
import pytest

import nas
from nas.runs.beliefs import BELIEFS_FILE, read_beliefs
from nas.runs.trial import Outcome, Reason, Status
from nas.runs.trial_log import read_trials
from tests.simulated_search import EXPERIMENT, Twelve, new_run, next_session

NOISE = 3.0  # points of top-1
AGAIN = {"space": Twelve(), "trials": 24, "seeds_per_network": "auto", "seed": 5, "early_stopping": False}


def truth(macs_m):
    """A made-up top-1 that grows with the multiply-adds."""
    return 40 + 8 * macs_m**0.25


def noisy(played, number, *, begin=0):
    """Ask for so many networks and end each with a noisy top-1: seeds that their workers got."""
    generator, seeds = random.Random(begin), []
    for i in range(begin, begin + number):
        played.ask(f"t{i}")
        seeds.append(played.configs[f"t{i}"]["networks"][0][4])
        played.finish(f"t{i}", truth(played.cost(f"t{i}")) + NOISE * generator.gauss(0, 1))
    return seeds


def test_the_front_goes_by_what_is_believed(tmp_path):
    played = new_run(tmp_path, workers=1, trials=40)
    noisy(played, 40)
    played.searcher.close()
    df = played.results
    assert df["val_top1_pct_believed"].notna().all()
    assert (df["val_top1_pct_believed_sd"] > 0).all()
    real = df["macs_m"].map(truth)
    assert (df["val_top1_pct_believed"] - real).abs().mean() < 0.7 * (df["val_top1_pct"] - real).abs().mean()
    believed, measured = nas.front(df), nas.front(df, measured=True)
    assert set(believed["trial"]) == set(df["trial"][df["is_front"]])
    # top-1 grows with the multiply-adds here, so the whole table is the front, of which the luckiest labels hide most
    assert len(believed) > 1.5 * len(measured)
    assert measured["val_top1_pct"].is_monotonic_decreasing
    assert believed["val_top1_pct_believed"].is_monotonic_decreasing
    assert nas.best(df, "val_top1_pct")["trial"] == believed.iloc[0]["trial"]


def test_with_another_sampler_the_front_goes_by_what_is_believed_too(tmp_path):
    played = new_run(tmp_path, workers=1, trials=12, sampler="random")
    noisy(played, 12)
    played.searcher.close()
    assert played.results["val_top1_pct_believed"].notna().all()


def test_before_eight_trainings_and_of_baselines_nothing_is_believed(tmp_path):
    played = new_run(tmp_path, workers=1, trials=7)
    noisy(played, 7)
    played.searcher.close()
    assert not (played.run / BELIEFS_FILE).exists()
    df = played.results
    assert df["val_top1_pct_believed"].isna().all()
    again = next_session(played.run, workers=1, trials=10, baselines=("mnasnet_050",))
    noisy(again, 4, begin=7)
    again.searcher.close()
    df = again.results
    assert df["is_baseline"].tolist() == [False] * 7 + [True] + [False] * 3
    assert df["val_top1_pct_believed"].isna().tolist() == df["is_baseline"].tolist()


def test_a_damaged_file_of_beliefs_is_one_sentence(tmp_path):
    played = new_run(tmp_path, workers=1, trials=2)
    noisy(played, 2)
    (played.run / BELIEFS_FILE).write_text('{"a": [1')
    with pytest.raises(nas.NasError, match=f"{BELIEFS_FILE} is damaged"):
        nas.results(played.run)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """A search of six networks that trains them again, resumed after 10 of 24 trainings, with the seeds of its trainings."""
    played = new_run(tmp_path_factory.mktemp("again"), workers=1, **AGAIN)
    seeds = noisy(played, 10)
    again = next_session(played.run, workers=1, **AGAIN)
    seeds += noisy(again, 14, begin=10)
    again.searcher.close()
    return again, seeds


def test_a_network_may_be_trained_again_with_another_seed(repeated):
    played, seeds = repeated
    df = played.results
    further = df[df["source"] == "repeat"]
    assert len(further) >= 18
    assert len(df) == 24  # each training is a row, and counts
    for row in further.itertuples():
        earlier = df[(df["id"] == row.id) & (df["trial"] < row.trial)]
        assert row.seed == 5 + len(earlier)
        assert row.name == f"trial {earlier['trial'].min()}"
    assert not df.duplicated(["id", "seed"]).any()
    assert [5 if seed is None else seed for seed in seeds] == df["seed"].tolist()
    assert (df.groupby("id")["val_top1_pct_believed"].nunique() == 1).all()
    assert nas.front(df)["id"].is_unique
    assert played.tally.duplicate == 0


def test_a_further_training_that_was_cut_off_goes_on_with_its_seed(tmp_path, repeated):
    played, _ = repeated
    first = next(trial for trial in read_trials(played.run) if trial.source == "repeat")
    log = played.run / "trials.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if f'"trial":{first.number},' in line.replace(" ", ""))
    copy = new_run(tmp_path, workers=1, **AGAIN)
    (copy.run / "trials.jsonl").write_text("".join(lines[: cut + 1]))
    again = next_session(copy.run, workers=1, **AGAIN)
    again.ask("a")
    number, _, _, params, seed = again.configs["a"]["networks"][0]
    assert (number, params, seed) == (first.number, dict(first.params), first.seed)


def test_before_anything_is_believed_a_network_has_the_mean_of_its_trainings(repeated):
    played, _ = repeated
    df = played.results
    row = df[df["source"] == "repeat"].iloc[0]
    (played.run / BELIEFS_FILE).rename(played.run / "kept")
    try:
        df = played.results
        front = nas.front(df)
        mean = df["val_top1_pct"][df["id"] == row["id"]].mean()
        others = df[(df["macs_m"] <= row["macs_m"]) & (df["id"] != row["id"])].groupby("id")["val_top1_pct"].mean()
        assert (row["id"] in set(front["id"])) == (others < mean).all()
        assert front["id"].is_unique
    finally:
        (played.run / "kept").rename(played.run / BELIEFS_FILE)


def test_only_as_many_seeds_as_allowed(tmp_path):
    played = new_run(tmp_path, workers=1, **AGAIN | {"seeds_per_network": 2})
    noisy(played, 8)
    df = played.results
    assert df.groupby("id").size().max() == 2
    assert read_beliefs(played.run).keys() <= set(df["id"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds_per_network": 0}, "seeds-per-network: 0 is not 1 or more, or auto"),
        ({"seeds_per_network": "all"}, "seeds-per-network: 'all' is not 1 or more, or auto"),
        ({"seeds_per_network": "auto", "sampler": "tpe"}, "sampler tpe never trains a network again; give --sampler frontier"),
        ({"seeds_per_network": 2, "shared_weights": "train"}, "networks that are scored by shared weights are not trained"),
        ({"seeds_per_network": True}, "seeds-per-network: True is not 1 or more, or auto"),
        ({"seeds_per_network": 2, "objectives": (nas.objective("macs_m"),)}, "given: none that needs training"),
        ({"seeds_per_network": 2, "sampler": "random"}, "give --sampler frontier, or --seeds-per-network 1"),
    ],
)
def test_where_no_network_can_be_trained_again_that_is_refused(fields, message):
    with pytest.raises(nas.NasError, match=message):
        replace(EXPERIMENT, **fields)


def test_a_table_that_lost_its_beliefs_goes_by_what_was_measured_and_one_that_lost_its_attrs_does_not(tmp_path):
    played = new_run(tmp_path, workers=1, trials=12)
    noisy(played, 12)
    played.searcher.close()
    df = played.results
    directions = df.attrs["directions"]
    df.to_csv(tmp_path / "table.csv", index=False)
    assert list(nas.front(pd.read_csv(tmp_path / "table.csv"), directions)["trial"]) == list(nas.front(df)["trial"])
    without = pd.DataFrame(df.drop(columns=["val_top1_pct_believed", "val_top1_pct_believed_sd"]))
    assert list(nas.front(without, directions)["trial"]) == list(nas.front(df, measured=True)["trial"])


def test_every_network_of_the_front_has_its_weights(tmp_path, monkeypatch):
    """Beliefs change with every training, and those that a network had when it ended are not those of the end."""
    monkeypatch.setattr("nas.searching.believer.UPDATE_SECONDS", 0.0)
    for seed in range(4):
        played = new_run(tmp_path, workers=1, trials=30, seed=seed)
        noisy(played, 30)
        played.searcher.close()
        df = played.results
        kept = {int(file.stem) for file in (played.run / "checkpoints").iterdir()}
        assert set(df["trial"][df["is_front"]]) <= kept
        assert len(kept) < 30


def test_a_resumed_run_does_not_warn_of_weights_that_it_removed(tmp_path, caplog):
    played = new_run(tmp_path, workers=1, trials=20)
    for i in range(20):
        played.ask(f"t{i}")
        played.finish(f"t{i}", 95 - 30 * played.cost(f"t{i}"))  # the cheaper, the better, without noise
    played.searcher.close()
    assert len(list((played.run / "checkpoints").iterdir())) < 20
    next_session(played.run, workers=1, trials=25)
    assert not [record for record in caplog.records if record.levelname == "WARNING" and "not kept" in record.message]


def test_a_reused_network_that_is_trained_again_has_another_outcome(tmp_path):
    source = new_run(tmp_path / "source", workers=1, **AGAIN | {"trials": 6})
    noisy(source, 6)
    played = new_run(tmp_path, workers=1, **AGAIN | {"trials": 4, "reuse": (str(source.run),)})
    noisy(played, 4, begin=6)
    df = played.results
    assert df["source"].tolist() == ["reuse"] * 6 + ["repeat"] * 4
    assert set(df["seconds"][6:]) == {1.0}
    assert set(df["val_top1_pct"][6:]).isdisjoint(df["val_top1_pct"][:6])


def test_a_network_whose_further_training_fails_is_not_tried_again(tmp_path):
    played = new_run(tmp_path, workers=1, **AGAIN | {"seeds_per_network": 3, "trials": 18})
    noisy(played, 6)
    for i in range(3):
        played.ask(f"f{i}")
        played.end(f"f{i}", Outcome(status=Status.FAILED, reason=Reason.TIMEOUT, error="not done after 9 s"))
    df = played.results
    assert df["id"][df["status"] == "failed"].is_unique


def test_a_search_waits_where_all_that_it_would_train_again_is_under_way(tmp_path):
    played = new_run(tmp_path, workers=8, **AGAIN)
    noisy(played, 6)
    asked = [played.ask(f"w{i}") for i in range(8)]
    assert None in asked
    assert not played.state.proposer.exhausted
    for name in list(played.searcher.pending):
        played.finish(name, 50.0)
    assert played.ask("more") is not None


def test_a_further_training_is_not_stopped_early(tmp_path):
    played = new_run(tmp_path, workers=1, **AGAIN | {"early_stopping": True})
    noisy(played, 6)
    played.ask("again")
    assert played.configs["again"]["networks"][0][4] == 6
    assert played.configs["again"]["costs"] is None


def test_tables_joined_by_pandas_have_their_best_and_front(tmp_path):
    tables = []
    for seed in range(2):
        played = new_run(tmp_path / str(seed), workers=1, trials=12, seed=seed)
        noisy(played, 12, begin=0)
        played.searcher.close()
        tables.append(played.results.assign(run=str(seed)))
    both = pd.concat(tables)  # with each label twice
    both.attrs = tables[0].attrs
    believed = both["val_top1_pct_believed"].to_numpy()
    assert nas.best(both, "val_top1_pct")["val_top1_pct_believed"] == believed.max()
    assert nas.front(both, both.attrs["directions"])["val_top1_pct_believed"].max() == believed.max()
    assert len(nas.front(both, measured=True)) == sum(len(nas.front(one, measured=True)) for one in tables)
    assert nas.front(both[:0], measured=True).empty
