"""A search begins with networks that the user names, and with what other runs have found."""

import random
from dataclasses import replace

import pytest

import nas
from nas.objectives import Objective, objective
from nas.runs.run_folder import TRIALS_FILE, create_run
from nas.searching.warm_start import reusable_results, warm_starts
from nas.spaces import sample
from tests.simulated_search import EXPERIMENT, new_run, next_session


def drawn(space, number):
    """Random networks of a space."""
    generator = random.Random(3)
    return [space.decode(sample(space.parameters, generator)) for _ in range(number)]


def test_networks_that_the_user_names_come_after_the_references(tmp_path):
    space = EXPERIMENT.space
    mine, other = drawn(space, 2)
    (tmp_path / "net.json").write_text(mine.to_json())
    (tmp_path / "other.json").write_text(other.to_json())
    first = new_run(tmp_path / "a", trials=4)
    first.play(4)
    front = nas.front(first.results)
    named = (str(tmp_path / "net.json"), str(tmp_path / "other.json"), str(first.run))
    played = new_run(tmp_path / "b", trials=12, start=named)
    played.play(12)
    df, references = played.results, len(space.references)
    assert list(df["id"][references : references + 2]) == [mine.id, other.id]
    new = [network for network in front["id"] if network not in set(df["id"][:references])]
    assert new
    assert list(df["id"][references + 2 : references + 2 + len(new)]) == new
    assert df.loc[references, ["source", "name"]].tolist() == ["start", str(tmp_path / "net.json")]


def test_a_network_named_twice_is_tried_once(tmp_path):
    (mine,) = drawn(EXPERIMENT.space, 1)
    (tmp_path / "net.json").write_text(mine.to_json())
    texts = new_run(tmp_path, start=(str(tmp_path / "net.json"),) * 130, trials=4).play(4)
    assert len(set(texts)) == 4


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("efficientnet_b0", "start efficientnet_b0: architecture .* is not in space mobilenetv3"),
        ("efficientnet_b", "network 'efficientnet_b' does not exist; did you mean 'efficientnet_b"),
        ("timm:resnet18", "timm:resnet18 is timm's own network and has no architecture"),
    ],
)
def test_a_start_that_is_not_in_the_space_is_refused(name, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        warm_starts(EXPERIMENT.space, (name,))


def test_an_outcome_of_another_run_is_reused_and_not_trained(tmp_path):
    first = new_run(tmp_path / "a", trials=4)
    first.play(4)
    df = first.results.set_index("id")
    # the same seed asks for the same networks first
    played = new_run(tmp_path / "b", trials=3, reuse=(str(first.run),))
    texts = played.play(3)
    assert len(texts) == 3
    again = played.results
    reused = again[again["source"] == "reuse"]
    assert len(reused) == played.tally.reused >= 1
    for row in reused.itertuples():
        assert row.status == "done"
        assert row.val_top1_pct == df.loc[row.id, "val_top1_pct"]
        assert row.name == f"{first.run.name} trial {df.loc[row.id, 'trial']}"
        assert row.seconds == 1.0
    assert {nas.Architecture.from_json(text).id for text in texts}.isdisjoint(df.index)
    played.searcher.close()
    kept = {path.stem for path in (played.run / "checkpoints").iterdir()}
    assert kept == set(map(str, again["trial"][again["is_front"]]))
    assert played.study.trials[0].values == list(df.iloc[0][["val_top1_pct", "macs_m"]])  # the sampler learns of it


def test_a_reused_network_is_not_trained_after_a_kill_between_its_lines(tmp_path):
    first = new_run(tmp_path / "a", trials=1)
    first.play(1)
    fields = {"trials": 1, "reuse": (str(first.run),)}
    played = new_run(tmp_path / "b", **fields)
    played.play(1)
    log = played.run / TRIALS_FILE
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])  # its start alone
    again = next_session(played.run, **fields)
    row = again.results.iloc[0]
    assert (row["status"], row["source"]) == ("done", "reuse")
    assert again.tally.reused == 1


@pytest.fixture(scope="module")
def earlier_run(tmp_path_factory):
    played = new_run(tmp_path_factory.mktemp("earlier"), trials=1)
    played.play(1)
    return played.run


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"train": nas.TrainSettings(epochs=3)},
            "reuse .*: its train.epochs is 10, and here it is 3; its results are not comparable",
        ),
        ({"dataset": nas.dataset("mnist")}, "its dataset.name is 'digits', and here it is 'mnist'"),
        ({"reuse": ("nowhere",)}, "nowhere is not a run folder"),
        (
            {
                "objectives": (
                    Objective(name="own_ms", direction="minimize", needs_training=True, measure=len),
                    objective("macs_m"),
                )
            },
            "objective own_ms was not measured there; it has macs_m, val_top1_pct",
        ),
    ],
)
def test_outcomes_of_other_trainings_are_refused(earlier_run, fields, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        reusable_results(replace(EXPERIMENT, **({"reuse": (str(earlier_run),)} | fields)))


def test_rewards_of_another_target_are_not_reused(tmp_path):
    objectives = (nas.mnasnet_reward(5.0), objective("macs_m"))
    run = create_run(replace(EXPERIMENT, objectives=objectives, runs=str(tmp_path)), "rewarded")
    alike = replace(EXPERIMENT, objectives=objectives, reuse=(str(run),))
    assert reusable_results(alike) == {}  # nothing has ended there yet
    with pytest.raises(nas.NasError, match="its mnasnet_reward was measured with other settings"):
        reusable_results(replace(alike, objectives=(nas.mnasnet_reward(6.0), objectives[1])))
