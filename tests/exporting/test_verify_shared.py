"""Networks that shared weights have scored are trained alone, once, as trials without shared weights are."""

from dataclasses import replace

import pytest

import nas
from nas.runs.alone import ALONE, read_alone, write_alone
from nas.runs.shared_check import check_shared
from nas.searching.evaluate import evaluate
from nas.searching.task import Task
from tests.made_up_runs import begin_run, end, run_of_networks, start, train_in_full, write
from tests.runs.test_shared_check import RECORD

SETTINGS = nas.TrainSettings(epochs=1, batch_size=512)
SHARED = {"weights": "shared"}


def scored(folder, count):
    return run_of_networks(folder, [{"status": "done", "top1": 50.0 + i, "start": SHARED} for i in range(count)], train=SETTINGS)


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
def test_the_cheapest_and_the_most_expensive_are_trained_alone_once(tmp_path, typed):
    run = scored(tmp_path, 3)
    macs = nas.results(run).set_index("trial")["macs_m"]
    cheapest, costliest = int(macs.idxmin()), int(macs.idxmax())
    write_alone(run, record := replace(RECORD, trial=costliest))
    printed = typed("verify", run, "--shared", "--networks", 2, "--seeds", 1, cwd=tmp_path)
    first, second = sorted(read_alone(run), key=lambda one: one.trial != cheapest)
    assert (first.trial, second) == (cheapest, record)  # what has a record is not trained again
    assert {file.name for file in (run / ALONE).iterdir()} == {
        ".lock",
        f"trial{cheapest}-seed0.json",
        f"trial{costliest}-seed0.json",
    }
    assert not (run / "full").exists()
    text = nas.results(run).set_index("trial").loc[cheapest, "architecture"]
    task = Task(dataset=nas.dataset("digits"), objectives=(nas.objective("val_top1_pct"),), settings=SETTINGS, seed=0)
    outcome = evaluate(text, task, folder=tmp_path / "again")
    assert (first.val_loss, first.val_top1_pct) == pytest.approx((outcome.val_loss, outcome.values["val_top1_pct"]))
    assert check_shared(run).difference in printed


def test_a_network_that_was_trained_in_full_as_scored_is_not_trained_again_as_fine_tuned(tmp_path):
    run, values = begin_run(tmp_path), {"macs_m": 1.0, "val_top1_pct": 50.0}
    fine_tuned = {"id": "id0", "weights": "fine-tuned", "from_trial": 0, "source": "front"}
    write(run, [start(0, values, **SHARED), end(0, values), start(1, values, **fine_tuned), end(1, values)])
    train_in_full(run, 0, 0, 60.0, epochs=1)
    assert nas.results(run)["is_front"].tolist() == [False, True]
    assert nas.verify(run, top=2, seeds=1, epochs=1) is None  # nothing to train, and one network has no ranking


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shared"], "has 1 networks scored by shared weights, and 2 or more are needed; `nas search` scores some"),
        (["--shared", "--networks", 1], "networks: 1 is not 2 or more"),
        (["--shared", "--seeds", 0], "seeds: 0 is not 1 or more"),
        (["--shared", "--top", 3], "shared: trains with the run's settings; leave out --top and --epochs, or --shared"),
        (["--networks", 3], "networks: only --shared needs it; give --top, or add --shared"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, mistaken, options, sentence):
    assert sentence in mistaken("verify", scored(tmp_path, 1), *options, cwd=tmp_path)
