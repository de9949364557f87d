"""A search whose trials learn from a teacher: from any folder, and only ever from the same one."""

import shutil
from dataclasses import replace

import pytest

import nas
from nas.plugins import load_plugin
from nas.runs.run_folder import read_experiment
from nas.runs.serialization import experiment_of
from nas.searching.evaluate import evaluate
from nas.searching.plan import check_unchanged
from nas.searching.task import Task
from nas.searching.teachers import find_teachers
from tests.conftest import type_command
from tests.data.stripes import architecture
from tests.data.teachers import write_teacher

EXPERIMENT = load_plugin("experiment", "digits_mobilenetv3")
DIGITS = tuple("0123456789")
OPTIONS = ["--train.teacher-share", 1, "--train.epochs", 1, "--workers", 1, "--sampler", "random"]


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
def test_every_trial_is_taught_by_the_same_teacher_from_any_folder(tmp_path, mistaken, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    write_teacher(here / "net", architecture(), DIGITS)
    answer = type_command("search", "digits_mobilenetv3", "--train.teacher", "./net", "--trials", 1, *OPTIONS, cwd=here)
    assert answer.code == 0, answer.errors
    (run,) = (here / "runs").iterdir()
    described = read_experiment(run)
    assert described["train"]["teacher"] == str(here / "net")
    assert list(described["teachers"]) == [str(here / "net")]
    monkeypatch.chdir(there)
    experiment = experiment_of(described, run.parent)
    check_unchanged(experiment, run, described)  # as a resume from another folder does
    df = nas.results(run)
    row = df[df["status"] == "done"].iloc[-1]
    objectives = tuple(one for one in experiment.objectives if one.needs_training)
    task = Task(dataset=experiment.dataset, objectives=objectives, settings=experiment.train, seed=experiment.seed)
    taught = evaluate(row["architecture"], task, folder=tmp_path / "taught")
    alone = evaluate(
        row["architecture"], replace(task, settings=replace(experiment.train, teacher="none")), folder=tmp_path / "alone"
    )
    (loss,) = nas.history(run).query("trial == @row.trial")["train_loss"]
    assert taught.history[0].train_loss == pytest.approx(loss, rel=1e-4)
    assert alone.history[0].train_loss != pytest.approx(loss, rel=1e-2)
    shutil.rmtree(here / "net")
    assert f"train.teacher: there is no folder {here / 'net'}; put it back" in mistaken("resume", run, "--trials", 3, cwd=there)
    write_teacher(here / "net", architecture(), DIGITS, seed=1)
    sentence = mistaken("resume", run, "--trials", 3, cwd=there)
    assert f"its teacher {here / 'net'} was " in sentence
    assert sentence.endswith("begin a new run, or give its weights back\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--train.teacher", "./nowhere"], "train.teacher: there is no folder "),
        (["--train.teacher", "timm:resnet18"], "lacks 0, a class of dataset digits; train it on these images first"),
        (["--train.teacher-temperature", "4"], "do nothing without a teacher; give --train.teacher too"),
        (["--tune", "train.teacher=none,./nowhere"], "train.teacher: there is no folder "),
        (["--tune", "train.teacher_share=0.1..0.9"], "train.teacher_share does nothing with train.teacher none"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_trial(options, sentence, tmp_path, mistaken):
    assert sentence in mistaken("search", "digits_mobilenetv3", *options, cwd=tmp_path)


def test_teachers_that_are_searched_are_all_found_and_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two")):
        write_teacher(tmp_path / name, architecture(), DIGITS, seed=seed)
    experiment = replace(EXPERIMENT, tune=("train.teacher=none,one,./two", "train.teacher_share=0.2..0.8")).resolved()
    teachers = find_teachers(experiment)
    assert list(teachers) == [str(tmp_path / name) for name in ("one", "two")]
    assert len(set(teachers.values())) == 2
    fingerprint = {"dataset": {"fingerprint": None}, "teachers": teachers | {str(tmp_path / "two"): "another"}}
    with pytest.raises(nas.NasError, match="two was another, and now it is"):
        check_unchanged(experiment, tmp_path, fingerprint)


def test_nothing_is_read_where_nothing_is_trained(tmp_path):
    costs = (nas.objective("macs_m"), nas.objective("params_m"))
    train = replace(EXPERIMENT.train, teacher="./nowhere")
    assert find_teachers(replace(EXPERIMENT, objectives=costs, train=train)) == {}
