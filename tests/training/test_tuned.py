"""Training settings are searched with the network: what is allowed, what a trial trains with, and what a row shows."""

import random
from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import nas
from nas.plugins import load_plugin
from nas.spaces import grid_values, sample
from nas.training.settings import TrainSettings
from nas.training.tuned import TunedSpace, parse_tuned, setting_changes, setting_numbers, settings_id, settings_with
from search_spaces.compound import CompoundSpace

EXPERIMENT = load_plugin("experiment", "digits_mobilenetv3")
ONE = CompoundSpace(base="mobilenetv3_small_100", min_phi=0.0, max_phi=0.0)


def tuned(*tune, train=EXPERIMENT.train, space=EXPERIMENT.space):
    return TunedSpace(space=space, tune=tune, train=train)


@pytest.mark.parametrize(
    ("text", "name", "distribution"),
    [
        ("train.lr=0.001..0.02 log", "train.lr", FloatDistribution(0.001, 0.02, log=True)),
        ("train.lr = 0 .. 1", "train.lr", FloatDistribution(0.0, 1.0)),
        ("train.randaugment_magnitude=0..15", "train.randaugment_magnitude", IntDistribution(0, 15)),
        ("train.batch-size=32,64", "train.batch_size", CategoricalDistribution((32, 64))),
        ("train.weight_decay=0.01,0.02,0.05", "train.weight_decay", CategoricalDistribution((0.01, 0.02, 0.05))),
        ("train.augment=none, trivial", "train.augment", CategoricalDistribution(("none", "trivial"))),
    ],
)
def test_a_setting_is_a_range_or_a_list(text, name, distribution):
    assert parse_tuned(text) == (name, distribution)


@pytest.mark.parametrize(
    ("tune", "sentence"),
    [
        (["lr=1..2"], "'lr=1..2' is not train.NAME=LOW..HIGH"),
        (["train.lr"], "'train.lr' is not train.NAME=LOW..HIGH"),
        (["train.lrs=1..2"], "setting 'lrs' does not exist; did you mean 'lr'"),
        (["train.epochs=1..2"], "train.epochs cannot be searched"),
        (["train.lr=2..1"], "is no range from a lower to a higher number"),
        (["train.lr=0.1..inf"], "is no range from a lower to a higher number"),
        (["train.lr=0..1 log"], "a logarithmic scale begins above 0"),
        (["train.lr=a..1"], "'a' is not a number"),
        (["train.batch_size=1.5..2"], "'1.5' is not a whole number"),
        (["train.lr=0.1"], "does not list two or more different values"),
        (["train.lr=0.1,0.10"], "does not list two or more different values"),
        (["train.augment=none..trivial"], "is a range, and train.augment is a name"),
        (["train.augment=none,nothing"], "train.augment: 'nothing' is not one of none, randaugment, trivial"),
        (["train.erasing=0..2"], r"train.erasing: 1.2 is not in \[0, 1\]"),
        (["train.randaugment_ops=1..3"], "does nothing with train.augment none"),
        (["train.augment=none,trivial", "train.randaugment_ops=1..3"], "does nothing with train.augment none, trivial"),
        (["train.lr=1..2", "train.lr=3..4"], "names one setting twice"),
        (["train.teacher_share=0.1..1"], "train.teacher_share does nothing with train.teacher none"),
        (["train.teacher=net..other"], "is a range, and train.teacher is a name"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(tune, sentence):
    with pytest.raises(nas.NasError, match=sentence) as error:
        replace(EXPERIMENT, tune=tuple(tune))
    assert str(error.value).startswith("tune: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tune", [None, "train.lr=1..2", (("train.lr", 1, 2),)])
def test_what_is_no_tuple_of_texts_is_one_sentence(tune):
    with pytest.raises(nas.NasError, match=r"^tune"):
        replace(EXPERIMENT, tune=tune)


def test_settings_without_an_effect_are_refused():
    tune = ("train.lr=0.001..0.02 log",)
    with pytest.raises(nas.NasError, match="no objective needs training"):
        replace(EXPERIMENT, objectives=(nas.objective("macs_m"),), tune=tune)
    with pytest.raises(nas.NasError, match="tune and shared-weights"):
        replace(EXPERIMENT, shared_weights="train", tune=tune)
    with pytest.raises(nas.NasError, match="tune and reuse"):
        replace(EXPERIMENT, reuse=("runs/a",), tune=tune)


def test_settings_change_no_network_and_references_keep_theirs():
    space = tuned(
        "train.lr=0.001..0.1 log", "train.weight_decay=0,0.05", train=replace(EXPERIMENT.train, lr=0.5, weight_decay=0.04)
    )
    assert list(space.parameters)[-2:] == ["train.lr", "train.weight_decay"]
    params = sample(space.parameters, random.Random(0))
    network = space.decode(params)
    assert network == EXPERIMENT.space.decode({name: params[name] for name in EXPERIMENT.space.parameters})
    encoded = space.encode(network)
    assert space.decode(encoded) == network
    assert (encoded["train.lr"], encoded["train.weight_decay"]) == (0.1, 0.05)  # the nearest
    assert {params["train.lr"] for params in space.references.values()} == {0.1}
    whole = tuned("train.mixup=0..1", train=replace(EXPERIMENT.train, mixup=0)).references.values()
    assert {type(params["train.mixup"]) for params in whole} == {float}  # as after a resume


def test_randaugments_settings_count_only_with_randaugment():
    space = tuned("train.augment=none,randaugment", "train.randaugment_ops=1..3")
    with_it, without, other = (
        {"train.augment": name, "train.randaugment_ops": ops} for name, ops in (("randaugment", 3), ("none", 3), ("none", 1))
    )
    assert (settings_with(space.train, with_it).augment, settings_with(space.train, with_it).randaugment_ops) == (
        "randaugment",
        3,
    )
    assert settings_with(space.train, without) == replace(space.train, augment="none")
    assert setting_changes(without) == {"augment": "none"}
    assert settings_id(without) == settings_id(other) != settings_id(with_it)
    assert settings_id({"depth": 3}) == ""
    base = replace(EXPERIMENT.train, augment="randaugment", randaugment_ops=3)
    assert settings_with(base, {"train.augment": "trivial"}).augment == "trivial"


def test_settings_are_numbers_for_a_regression():
    space = tuned("train.lr=0.01..1 log", "train.mixup=0..1", "train.augment=none,trivial,randaugment", space=ONE)
    params = {"train.lr": 1.0, "train.mixup": 0.25, "train.augment": "randaugment"}
    assert setting_numbers(space.tuned, params) == (0.0, 0.25, 0.0, 1.0)


def test_a_logarithmic_range_is_drawn_and_listed_on_its_scale():
    space = tuned("train.lr=0.0001..1 log", space=ONE)
    assert list(space.parameters) == ["train.lr"]
    assert grid_values(space.parameters["train.lr"])[5] == pytest.approx(0.01)
    generator = random.Random(0)
    drawn = [sample(space.parameters, generator)["train.lr"] for _ in range(400)]
    assert 0.4 < sum(rate < 0.01 for rate in drawn) / 400 < 0.6
    sizes = tuned("train.batch_size=8..1024 log", space=ONE).parameters["train.batch_size"]
    assert (grid_values(sizes)[0], grid_values(sizes)[5], grid_values(sizes)[-1]) == (8, 91, 1024)
    drawn = [sample({"size": sizes}, generator)["size"] for _ in range(400)]
    assert {type(size) for size in drawn} == {int}
    assert 0.4 < sum(size < 91 for size in drawn) / 400 < 0.6
    assert space.decode({"train.lr": 0.1}) == nas.reference("mobilenetv3_small_100")


def test_a_trial_trains_with_its_own_settings():
    assert settings_with(TrainSettings(), {"kernel": 3, "train.lr": 0.5, "train.batch_size": 16}) == TrainSettings(
        lr=0.5, batch_size=16
    )
