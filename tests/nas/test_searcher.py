"""The searcher proposes only what is allowed and new, and everything it does is in the log. No Ray is started here."""

import json
import pickle
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from ray.tune.search import Searcher

import nas
from nas.driver import create_studies
from nas.objectives import Objective, objective, parse_limit
from nas.plugins import load_plugin
from nas.recipe import Outcome
from nas.runs import TRIALS_FILE, create_run, read_log
from nas.searcher import ArchitectureSearcher, check_limits, make_sampler

SAMPLERS = ("random", "tpe", "nsga2", "nsga3", "gp", "qmc")
EXPERIMENT = replace(load_plugin("experiment", "digits_mobilenetv3"), trials=12)


@dataclass(frozen=True)
class Twelve:
    """Twelve parameter sets of six networks: one of the two parameters changes nothing."""

    name = "twelve"
    references: ClassVar = {}
    parameters: ClassVar = {
        "which": CategoricalDistribution(
            tuple(name for name in nas.references() if name.startswith(("mnasnet", "mobilenetv2_0")))[:6]
        ),
        "idle": CategoricalDistribution((0, 1)),
    }

    def decode(self, params):
        return nas.reference(params["which"])

    def encode(self, architecture):
        return {
            "which": next(name for name in self.parameters["which"].choices if nas.reference(name) == architecture),
            "idle": 0,
        }


def searcher(tmp_path, **fields):
    experiment = replace(EXPERIMENT, runs=str(tmp_path), **fields)
    run = create_run(experiment, "test")
    studies = create_studies(experiment, make_sampler(experiment.sampler, experiment.seed), run)
    return ArchitectureSearcher(experiment, *studies, run, check_limits(experiment)), run


def finish(found, trial_id, top1):
    outcome = Outcome(status="done", values={"val_top1_pct": top1}, seconds=1.0, device="cpu", precision="float32")
    found.on_trial_complete(trial_id, {"outcome": json.dumps(outcome.to_record())})


def play(found, trials):
    """Ask for trials and finish each with an accuracy made up from its text."""
    configs = []
    for i in range(trials):
        config = found.suggest(f"t{i}")
        if config == Searcher.FINISHED:
            break
        configs.append(config)
        finish(found, f"t{i}", 50 + len(config["architecture"]) % 40)
    return configs


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_proposes_only_new_networks_within_the_limits(tmp_path, sampler):
    limit = parse_limit("macs_m<0.8")
    found, run = searcher(tmp_path, sampler=sampler, limits=(limit,))
    configs = play(found, 12)
    architectures = [nas.Architecture.from_json(config["architecture"]) for config in configs]
    assert len({architecture.id for architecture in architectures}) == 12
    assert all(nas.cost(architecture, 10).macs <= 0.8e6 for architecture in architectures)
    df = nas.results(run)
    assert Counter(df["status"]) == {"done": 12} | ({"infeasible": found.tally.infeasible} if found.tally.infeasible else {})
    assert df[df["status"] == "infeasible"]["macs_m"].min() > 0.8 or not found.tally.infeasible
    assert {trial.state.name for trial in found.study.trials} <= {"COMPLETE", "PRUNED", "FAIL"}


def test_the_same_seed_proposes_the_same_networks(tmp_path):
    one, other = (play(searcher(tmp_path / name, seed=3)[0], 8) for name in "ab")
    assert [config["architecture"] for config in one] == [config["architecture"] for config in other]
    assert play(searcher(tmp_path / "c", seed=4)[0], 8) != one


def test_a_network_is_trained_once_and_an_exhausted_space_ends_the_search(tmp_path):
    found, run = searcher(tmp_path, space=Twelve(), trials=50)
    configs = play(found, 50)
    assert len(configs) == 6
    assert found.suggest("more") == Searcher.FINISHED
    assert len({config["architecture"] for config in configs}) == 6
    assert found.tally.duplicates > 0
    assert len(nas.results(run)) == 6


def test_the_references_within_the_limits_come_first(tmp_path):
    space = nas.space("mobilenetv3")
    found, run = searcher(tmp_path, space=space, limits=(parse_limit("macs_m<100"),))
    play(found, 4)
    df = nas.results(run)
    done = df[df["status"] == "done"]
    assert list(done["source"][:2]) == ["mobilenetv3_small_100", "tf_mobilenetv3_small_minimal_100"]
    small, small_run = searcher(tmp_path)
    play(small, 2)
    assert list(nas.results(small_run)["source"]) == ["like mobilenetv3_small_100", "search"]  # at another width and resolution
    assert list(done["architecture"][:1]) == [nas.reference("mobilenetv3_small_100").to_json()]
    assert "mobilenetv3_large_100" not in set(df["source"])


def test_a_failed_trial_is_a_row_and_is_told_to_optuna_as_failed(tmp_path):
    found, run = searcher(tmp_path)
    found.suggest("a"), found.suggest("b"), found.suggest("c")
    failed = Outcome(status="failed", reason="nan", error="the loss was nan")
    found.on_trial_complete("a", {"outcome": json.dumps(failed.to_record())})
    found.on_trial_complete("b", None, error=True)
    found.fail("b", "crash", "the worker process died")
    df = nas.results(run)
    assert list(df["status"]) == ["failed", "failed", "running"]
    assert list(df["reason"][:2]) == ["nan", "crash"]
    assert [trial.state.name for trial in found.study.trials] == ["FAIL", "FAIL", "RUNNING"]


def test_optuna_learns_each_objective_in_its_own_direction_and_how_far_outside_a_limit_an_ask_was(tmp_path):
    found, _ = searcher(tmp_path, sampler="random", limits=(parse_limit("macs_m<0.6"),))
    play(found, 5)
    assert [direction.name for direction in found.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in found.study.trials:
        (excess,) = trial.constraints.values()
        assert (excess <= 0) == (trial.state.name == "COMPLETE")
        if trial.values:
            assert trial.values[1] == pytest.approx(0.6 + excess)


def test_optunas_journal_can_be_opened_by_others(tmp_path):
    found, run = searcher(tmp_path)
    play(found, 3)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run / "optuna.log")))
    study = optuna.load_study(study_name=run.name, storage=storage)
    assert [trial.values for trial in study.trials] == [trial.values for trial in found.study.trials]
    assert [trial.user_attrs["trial"] for trial in study.trials] == [0, 1, 2]
    assert study.trials[0].params == found.study.trials[0].params
    assert study.metric_names == ["val_top1_pct", "macs_m"]


def test_limits_that_nothing_meets_are_refused_with_what_there_is(tmp_path):
    experiment = replace(EXPERIMENT, limits=(parse_limit("macs_m<0.1"), parse_limit("params_m<0.001")))
    with pytest.raises(
        nas.NasError,
        match=r"meets macs_m<=0\.1 and params_m<=0\.001: over the [\d,]+ nearest and random points tried macs_m goes from 0\.",
    ):
        check_limits(experiment)
    assert check_limits(replace(EXPERIMENT, limits=())).share == 1.0
    assert 0 < check_limits(replace(EXPERIMENT, limits=(parse_limit("macs_m<0.8"),))).share < 1


def test_limits_that_chance_would_not_meet_are_found_to_be_met_and_searched(tmp_path):
    limit = parse_limit("macs_m<0.275")  # of 1,000 random networks the smallest has 0.32
    assert check_limits(replace(EXPERIMENT, limits=(limit,))).share == 0
    found, run = searcher(tmp_path, limits=(limit,), sampler="random")
    assert len(play(found, 1)) == 1
    assert nas.results(run).query("status == 'done'")["macs_m"].max() <= 0.275


@pytest.mark.parametrize(
    ("measure", "sentence"),
    [
        (lambda candidate: float("nan"), "objective own_ms gave nan for a network; it must give a finite number"),
        (lambda candidate: None, "objective own_ms gave None for a network"),
        (lambda candidate: 1 / 0, "objective own_ms raised ZeroDivisionError: division by zero"),
        (lambda candidate: open("/nowhere"), "objective own_ms raised FileNotFoundError: "),  # noqa: PTH123, SIM115
    ],
)
def test_an_objective_of_ones_own_that_fails_before_training_is_one_sentence(tmp_path, measure, sentence):
    own = Objective(name="own_ms", direction="minimize", needs_training=False, measure=measure)
    with pytest.raises(nas.NasError, match=sentence):
        searcher(tmp_path, objectives=(objective("val_top1_pct"), own))


def test_a_space_of_ones_own_that_fails_ends_the_search_with_what_it_raised(tmp_path):
    class Broken(Twelve):
        def decode(self, params):
            raise ValueError("no such network")

    with pytest.raises(nas.NasError, match="space twelve: decode raised ValueError: no such network"):
        searcher(tmp_path, space=Broken())


def test_a_sampler_that_has_proposed_all_it_will_ends_the_search(tmp_path):
    grid = {"which": Twelve.parameters["which"].choices[:3], "idle": [0]}
    found, run = searcher(tmp_path, space=Twelve(), sampler=optuna.samplers.GridSampler(grid), trials=50)
    assert len(play(found, 50)) == 3
    assert set(nas.results(run)["status"]) == {"done"}


def test_trials_under_way_when_a_search_is_interrupted_end_as_that(tmp_path):
    found, run = searcher(tmp_path)
    play(found, 1)
    found.suggest("x")
    assert found.interrupt()
    assert list(nas.results(run)["reason"].fillna("")) == ["", "interrupted"]
    found, _ = searcher(tmp_path, trials=1)
    play(found, 1)
    assert not found.interrupt()


def test_ray_pickles_nothing_of_a_searcher(tmp_path):
    """A sampler may hold what cannot be pickled, such as a lock."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    sampler.lock = threading.Lock()
    found, _ = searcher(tmp_path, sampler=sampler)
    assert pickle.loads(pickle.dumps(found)).__dict__ == {}


def test_a_limit_on_something_that_is_no_objective_has_its_column(tmp_path):
    found, run = searcher(tmp_path, limits=(parse_limit("params_m<10"),), objectives=(objective("val_top1_pct"),))
    play(found, 2)
    assert nas.results(run)["params_m"].between(0, 10).all()


def test_any_optuna_sampler_can_be_given(tmp_path):
    sampler = optuna.samplers.RandomSampler(seed=1)
    assert make_sampler(sampler, 0) is sampler
    assert len(play(searcher(tmp_path, sampler=sampler)[0], 3)) == 3
    with pytest.raises(nas.NasError, match="sampler 'nsga' does not exist; did you mean 'nsga"):
        make_sampler("nsga", 0)


def test_the_log_has_a_line_for_every_ask_but_repeats(tmp_path):
    found, run = searcher(tmp_path, limits=(parse_limit("macs_m<0.7"),), sampler="random")
    play(found, 6)
    events = Counter(event["event"] for event in read_log(run / TRIALS_FILE))
    assert events == {"start": 6, "end": 6, "infeasible": found.tally.infeasible}
