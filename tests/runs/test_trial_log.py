"""The trial log is the whole truth of a run: what it lacks or has wrong is one sentence."""

import pytest

import nas
from nas.runs.run_folder import TRIALS_FILE
from nas.runs.trial import Reason, Status
from nas.runs.trial_log import read_history, read_trials
from tests.simulated_search import new_run


def test_trials_are_read_as_they_were_written(tmp_path):
    played = new_run(tmp_path, workers=2)
    played.ask("a"), played.ask("b")
    played.epoch("a", 1, 40.0)
    played.searcher.lost("a", "m", {"m"}, reason=Reason.CRASH)
    played.finish("b", 80.0)
    lost, done = read_trials(played.run)
    assert (lost.number, lost.status, lost.retries, lost.crashes, lost.outcome) == (0, Status.INTERRUPTED, 1, 1, None)
    assert (done.number, done.status, done.counts) == (1, Status.DONE, True)
    assert done.values["val_top1_pct"] == 80.0
    assert done.outcome.device == "cpu"
    assert [(trial, epoch.val_top1_pct) for trial, epoch in read_history(played.run)] == [(0, 40.0)]


@pytest.mark.parametrize(
    "damage", ['{"trial": 0}', '{"event": "end", "trial": 0, "values": 3}', '{"event": "infeasible", "id": [1']
)
def test_a_damaged_event_is_one_sentence(tmp_path, damage):
    played = new_run(tmp_path)
    played.play(1)
    with (played.run / TRIALS_FILE).open("a") as file:
        file.write(damage + "\n")
    for read in (nas.results, read_trials):
        with pytest.raises(nas.NasError, match="damaged"):
            read(played.run)
