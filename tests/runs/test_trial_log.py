"""The files of a run are the whole truth of it: what they lack or have wrong is one sentence, with file, line and field."""

import json
from copy import deepcopy

import pytest

import nas
from nas.runs.run_folder import EXPERIMENT_FILE, HISTORY_FILE, TRIALS_FILE, read_experiment
from nas.runs.trial import Reason, Status
from nas.runs.trial_log import check_history, read_history, read_trials
from tests.made_up_runs import begin_run, end, run_of_points, skip, start, write
from tests.simulated_search import new_run

OPTIONAL = {
    "name",
    "weights",
    "from_trial",
    "baseline",
    "reused",
    "reason",
    "error",
    "seconds",
    "fingerprint",
    "device",
    "precision",
    "epochs",
}
"""Fields that a line of the log may lack."""


def test_trials_are_read_as_they_were_written(tmp_path):
    played = new_run(tmp_path, workers=2)
    played.ask("a"), played.ask("b")
    played.epoch("a", 1, 40.0)
    played.searcher.lost("a", "m", {"m"}, reason=Reason.CRASH, cause="SIGKILL")
    played.finish("b", 80.0)
    lost, done = read_trials(played.run)
    assert (lost.number, lost.status, lost.retries, lost.crashes, lost.outcome) == (0, Status.INTERRUPTED, 1, 1, None)
    assert (done.number, done.status, done.counts) == (1, Status.DONE, True)
    assert done.values["val_top1_pct"] == 80.0
    assert done.outcome.device == "cpu"
    assert [(trial, epoch.val_top1_pct) for trial, epoch in read_history(played.run)] == [(0, 40.0)]


def variants(record, path=()):
    """(field, the record without it or with a wrong type in its place) for each field, also inside of fields."""
    for key in record:
        inner = record[key]
        for value in (None, [[]], {"no": []}):  # None: without it
            changed = deepcopy(record)
            changed[key] = value
            if value is None:
                del changed[key]
            yield (*path, key), value is None, changed
        if isinstance(inner, dict):
            for field, is_missing, changed in variants(inner, (*path, key)):
                yield field, is_missing, {**record, key: changed}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (TRIALS_FILE, start(1, {"macs_m": 1.0}, baseline=True, name="x")),
        (TRIALS_FILE, end(0, {"macs_m": 1.0}, error="x")),
        (TRIALS_FILE, {"event": "retry", "trial": 0, "retries": 1, "crashes": 1}),
        (TRIALS_FILE, {"event": "interrupt", "trial": 0, "epochs": 1}),
        (TRIALS_FILE, skip("infeasible", {"macs_m": 1.0})),
        (HISTORY_FILE, {"trial": 0, "epoch": 1, "train_loss": 1.0, "val_top1_pct": 5.0, "val_images": 9, "seconds": 2.0}),
    ],
    ids=lambda value: value.get("event", "epoch") if isinstance(value, dict) else None,
)
def test_a_line_without_a_field_or_with_a_wrong_one_is_one_sentence(tmp_path, file, line):
    run = begin_run(tmp_path)
    write(run, [start(0, {"macs_m": 1.0})])
    before = (run / file).read_text()
    number = before.count("\n") + 1
    readers = (nas.results, read_trials) if file == TRIALS_FILE else (nas.history, read_history)
    (run / file).write_text(before + json.dumps(line) + "\n")
    for read in readers:
        read(run)
    for field, is_missing, changed in variants(line):
        if field[0] == "params" or (is_missing and (field[0] in OPTIONAL or len(field) > 1)):
            continue
        (run / file).write_text(before + json.dumps(changed) + "\n")
        for read in readers:
            with pytest.raises(nas.NasError, match=rf"{file}: line {number} is damaged: [^\n]*; restore") as caught:
                read(run)
            assert field[0] in str(caught.value)


def test_an_experiment_without_a_field_or_with_a_wrong_one_is_one_sentence(tmp_path):
    run = begin_run(tmp_path, limits=(nas.Limit(objective=nas.objective("macs_m"), high=1.0),))
    described = read_experiment(run)
    free = ("fields", "changed", "versions")  # what they hold depends on the run
    for field, is_missing, changed in variants(described):
        if set(field[:-1]) & set(free) or (field[-1] in free and not is_missing):
            continue
        (run / EXPERIMENT_FILE).write_text(json.dumps(changed))
        for read in (nas.results, read_experiment):
            with pytest.raises(nas.NasError, match=rf"{EXPERIMENT_FILE} is damaged: [^\n]*; restore") as caught:
                read(run)
            assert field[-1] in str(caught.value) or "train" in field
    for part, wrong in (("train", None), ("train", 7), ("space", described["space"] | {"fields": None})):
        (run / EXPERIMENT_FILE).write_text(json.dumps(described | {part: wrong}))
        with pytest.raises(nas.NasError, match=rf"{EXPERIMENT_FILE} is damaged: {part}[^\n]*: Input should be an object"):
            read_experiment(run)
    (run / EXPERIMENT_FILE).write_text(json.dumps(described | {"train": described["train"] | {"epochs": 0}}))
    with pytest.raises(nas.NasError, match=rf"{EXPERIMENT_FILE} is damaged: train.epochs: 0 is not in"):
        read_experiment(run)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([end(0, {})], "line 1 is damaged: trial 0 has the event end before its start"),
        ([start(0, {}), end(0, {}), end(0, {})], "line 3 is damaged: trial 0 has the event end after its end"),
        ([start(0, {}), start(0, {})], "line 2 is damaged: trial 0 starts twice"),
        ([start(0, {}), end(0, {}), {"event": "resume", "trial": 0}], "line 3 is damaged: trial 0 has the event resume after"),
        ([start(0, {}), end(0, {}, status="running")], "line 2 is damaged: end.status: "),
        ([{"event": "begin", "trial": 0}], "line 1 is damaged: "),
    ],
)
def test_events_out_of_order_are_one_sentence(tmp_path, lines, sentence):
    run = begin_run(tmp_path)
    write(run, lines)
    with pytest.raises(nas.NasError, match=sentence):
        nas.results(run)


def test_trials_and_history_that_do_not_belong_together_are_noticed(tmp_path, caplog):
    run = run_of_points(tmp_path, [(80.0, 1.0), (81.0, 2.0)])
    whole = (run / TRIALS_FILE).read_text().splitlines(keepends=True)
    for older in ("", "".join(whole[:2])):
        (run / TRIALS_FILE).write_text(older)
        with pytest.raises(nas.NasError, match=r"history.jsonl has epochs of trial 1, which trials.jsonl lacks; restore both"):
            nas.results(run)
    (run / TRIALS_FILE).write_text("".join(whole[2:]))
    with pytest.raises(nas.NasError, match="has epochs of trial 0"):
        check_history(run, read_trials(run), read_history(run))
    (run / TRIALS_FILE).write_text("".join(whole))
    check_history(run, read_trials(run), read_history(run))
    assert not caplog.text
    (run / HISTORY_FILE).write_text("")
    check_history(run, read_trials(run), read_history(run))
    assert "history.jsonl lacks the epochs of trials [0, 1]" in caplog.text
