"""A search of networks and training settings: rows, duplicates, resume, early stopping; and a real one of a learning rate."""

from dataclasses import replace

import pytest

import nas
from nas.runs.results import select, settings_of
from nas.runs.run_folder import read_experiment
from nas.runs.serialization import experiment_of
from nas.runs.trial_log import read_trials
from nas.searching.early_stopping import Traits
from nas.searching.plan import make_plan, next_experiment
from nas.training.settings import TrainSettings
from nas.training.tuned import settings_with
from search_spaces.compound import CompoundSpace
from tests.simulated_search import EXPERIMENT, Twelve, new_run, next_session

TUNE = ("train.lr=0.001..0.02 log", "train.weight_decay=0.01,0.05")
FIELDS = {"space": Twelve(), "tune": TUNE, "trials": 20}


@pytest.mark.parametrize("sampler", ["frontier", "random", "tpe", "nsga2"])
def test_a_network_comes_with_several_settings_and_with_none_twice(tmp_path, sampler):
    played = new_run(tmp_path, sampler=sampler, **FIELDS)
    for i in range(20):
        played.ask(f"t{i}")
        config = played.configs[f"t{i}"]
        number, _, _, params, _ = config["networks"][0]
        assert {"train.lr", "train.weight_decay"} <= params.keys()
        assert len(config["settings"]) == 2
        played.finish(f"t{i}", 50 + number)
    df = played.results
    done = df[df["status"] == "done"]
    assert done["settings.lr"].between(0.001, 0.02).all()
    assert set(done["settings.weight_decay"]) == {0.01, 0.05}
    assert done["id"].is_unique
    assert done["architecture"].nunique() < len(done)
    assert not [name for name in df if name.startswith("params.train")]
    assert done["is_front"].any()


def test_a_resume_knows_the_settings_of_its_trials(tmp_path):
    played = new_run(tmp_path, **FIELDS)
    for i in range(6):
        played.ask(f"t{i}")
        played.epoch(f"t{i}", 3, 40.0 + i)
        played.finish(f"t{i}", 50 + i)
    before = played.results
    again = next_session(played.run, **FIELDS)
    assert again.state.stopping.curves == played.state.stopping.curves
    assert again.results["id"].tolist() == before["id"].tolist()
    again.ask("t6")
    assert again.results["id"].nunique() == 7
    described = read_experiment(played.run)
    assert experiment_of(described, tmp_path).tune == TUNE
    with pytest.raises(nas.NasError, match="tune cannot change"):
        next_experiment(described, played.run, None, {"tune": ()})


def test_early_stopping_knows_that_settings_differ(tmp_path):
    played = new_run(tmp_path, train=replace(EXPERIMENT.train, epochs=27), **FIELDS)
    played.ask("a")
    config = played.configs["a"]
    played.epoch("a", 1, 30.0)
    problem = played.state.session.plan.problem
    (curve,) = played.state.stopping.curves.values()
    point = problem.examine(config["networks"][0][3])
    assert curve.traits == Traits(costs=problem.cost_losses(point), settings=tuple(config["settings"]))


def test_a_space_of_one_network_has_only_settings_to_search():
    one = replace(EXPERIMENT, space=CompoundSpace(base="mobilenetv3_small_100", min_phi=0.0, max_phi=0.0), tune=TUNE)
    plan = make_plan(one)
    assert [(start.name, start.params["train.lr"]) for start in plan.starts] == [("mobilenetv3_small_100", one.train.lr)]
    with pytest.raises(nas.NasError, match="has one network and no parameters; search its training settings with --tune"):
        make_plan(replace(one, tune=()))


def test_baselines_train_with_the_shared_settings_and_a_tuned_run_is_not_reused(tmp_path):
    played = new_run(tmp_path, baselines=("mnasnet_small", "timm:test_resnet"), **FIELDS)
    for name in ("a", "b"):
        played.ask(name)
        number, _, _, params, _ = played.configs[name]["networks"][0]
        assert not [key for key in params if key.startswith("train.")]
        played.finish(name, 50 + number)
    df = played.results
    assert df["settings.lr"].isna().all() if "settings.lr" in df else True
    with pytest.raises(nas.NasError, match="it searched training settings, so its results are not comparable"):
        make_plan(replace(EXPERIMENT, reuse=(str(played.run),)))


def test_a_row_gives_the_settings_of_its_trial_with_their_types(tmp_path):
    tune = ("train.mixup=0,1", "train.batch_size=32..64", "train.augment=none,trivial")
    played = new_run(tmp_path, **FIELDS | {"tune": tune})
    for i in range(8):
        played.ask(f"t{i}")
        played.finish(f"t{i}", 50 + i)
    df = played.results
    assert [str(df[f"settings.{name}"].dtype) for name in ("mixup", "batch_size")] == ["Float64", "Int64"]
    for _, row in df[df["status"] == "done"].iterrows():
        params = next(trial.params for trial in read_trials(played.run) if trial.number == row["trial"])
        settings = settings_of(row, EXPERIMENT.train)
        assert settings == settings_with(EXPERIMENT.train, params)
        assert (type(settings.mixup), type(settings.batch_size), type(settings.augment)) == (float, int, str)
    assert (select(df, "settings.mixup > 0.5 and params.idle == 0")["settings.mixup"] == 1).all()


RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.slow
def test_a_search_finds_a_rate_as_good_as_the_best_of_five_in_a_range_with_useless_ones(tmp_path):
    space = replace(EXPERIMENT.space, width_multiple=0.25, head_multiple=0.05)
    base = space.decode(space.references["mobilenetv3_small_100"])
    fields = {
        "space": CompoundSpace(base=base, min_phi=0.0, max_phi=0.0),
        "objectives": (nas.objective("val_top1_pct"),),
        "train": TrainSettings(epochs=3, batch_size=64),
        "runs": str(tmp_path),
    }
    fixed = nas.search(replace(EXPERIMENT, tune=(f"train.lr={','.join(map(str, RATES))}",), trials=5, **fields))
    found = nas.search(replace(EXPERIMENT, tune=("train.lr=0.00001..1 log",), trials=14, **fields))
    rates = nas.results(fixed).set_index("settings.lr")["val_top1_pct"]
    assert rates[RATES[0]] < 30  # useless
    assert nas.results(found)["val_top1_pct"].max() >= rates.max() - 1
