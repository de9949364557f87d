"""Only networks that are feasible and new are proposed, and every proposal that is skipped is a row."""

import json
import random
from collections import Counter

import optuna
import pytest
from ray.tune.search import Searcher
from scipy.stats import ks_2samp

import nas
from nas.objectives import parse_limit
from nas.runs.run_folder import TRIALS_FILE
from nas.searching.samplers import OPTUNA_SAMPLERS, make_sampler
from nas.spaces import first_choices, sample
from tests.simulated_search import EXPERIMENT, SMALLEST, Twelve, new_run


@pytest.fixture(autouse=True)
def few_probes(monkeypatch):
    """How much of a space meets the limits is known less exactly, and sooner."""
    monkeypatch.setattr("nas.searching.feasibility.NUM_SAMPLES", 1_000)


@pytest.mark.parametrize("sampler", OPTUNA_SAMPLERS)
def test_every_sampler_proposes_only_new_networks_within_the_limits(tmp_path, sampler):
    played = new_run(tmp_path, sampler=sampler, limits=(parse_limit("macs_m<0.8"),))
    architectures = [nas.Architecture.from_json(text) for text in played.play(12)]
    assert len({architecture.id for architecture in architectures}) == 12
    assert all(nas.cost(architecture, 10).macs <= 0.8e6 for architecture in architectures)
    df, skipped = played.results, played.tally.infeasible
    assert Counter(df["status"]) == {"done": 12} | ({"infeasible": skipped} if skipped else {})
    assert df[df["status"] == "infeasible"]["macs_m"].min() > 0.8 or not skipped
    assert {trial.state.name for trial in played.study.trials} <= {"COMPLETE", "PRUNED", "FAIL"}


def test_the_same_seed_proposes_the_same_networks(tmp_path):
    one, other = (new_run(tmp_path / name, seed=3).play(8) for name in "ab")
    assert one == other
    assert new_run(tmp_path / "c", seed=4).play(8) != one


def test_a_network_is_trained_once_and_an_exhausted_space_ends_the_search(tmp_path):
    played = new_run(tmp_path, space=Twelve(), trials=50)
    texts = played.play(50)
    assert len(set(texts)) == len(texts) == 6
    assert played.ask("more") == Searcher.FINISHED
    df, skipped = played.results, played.tally.duplicate
    assert Counter(df["status"]) == {"done": 6, "duplicate": skipped}
    assert skipped > 0
    duplicates, done = df[df["status"] == "duplicate"], df[df["status"] == "done"].set_index("id")
    assert list(duplicates["name"]) == [f"trial {done.loc[network, 'trial']}" for network in duplicates["id"]]
    assert not duplicates["is_front"].any()


def test_the_references_within_the_limits_come_first(tmp_path):
    played = new_run(tmp_path, space=nas.space("mobilenetv3"), limits=(parse_limit("macs_m<100"),))
    played.play(4)
    done = played.results.query("status == 'done'")
    assert list(done["name"][:2]) == ["mobilenetv3_small_100", "tf_mobilenetv3_small_minimal_100"]
    assert done["architecture"].iloc[0] == nas.reference("mobilenetv3_small_100").to_json()
    assert "mobilenetv3_large_100" not in set(done["name"])
    small = new_run(tmp_path)
    small.play(2)
    assert list(small.results["source"]) == ["reference", "search"]
    assert small.results["name"][0] == "like mobilenetv3_small_100"  # at another width and resolution


def test_optuna_learns_each_objective_in_its_own_direction_and_how_far_outside_a_limit_a_proposal_was(tmp_path):
    played = new_run(tmp_path, sampler="random", limits=(parse_limit("macs_m<0.6"),))
    played.play(5)
    assert [direction.name for direction in played.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert played.study.metric_names == ["val_top1_pct", "macs_m"]
    for trial in played.study.trials:
        (excess,) = trial.constraints.values()
        assert (excess <= 0) == (trial.state.name == "COMPLETE")
        if trial.values:
            assert trial.values[1] == pytest.approx(0.6 + excess)


def test_a_sampler_that_has_proposed_all_it_will_ends_the_search(tmp_path):
    grid = optuna.samplers.GridSampler({"which": SMALLEST[:3], "idle": [0]})
    played = new_run(tmp_path, space=Twelve(), sampler=grid, trials=50)
    assert len(played.play(50)) == 3
    assert set(played.results["status"]) == {"done"}


def test_any_optuna_sampler_can_be_given(tmp_path):
    sampler = optuna.samplers.RandomSampler(seed=1)
    played = new_run(tmp_path, sampler=sampler)
    assert played.study.sampler is sampler
    assert len(played.play(3)) == 3
    with pytest.raises(nas.NasError, match="sampler 'nsga' does not exist; did you mean 'nsga"):
        make_sampler("nsga", played.state.session.plan.problem, seed=0)


def test_the_log_has_a_line_for_every_proposal(tmp_path):
    played = new_run(tmp_path, limits=(parse_limit("macs_m<0.7"),), sampler="random")
    played.play(6)
    events = Counter(json.loads(line)["event"] for line in (played.run / TRIALS_FILE).read_text().splitlines())
    assert events == {"start": 6, "end": 6, "infeasible": played.tally.infeasible}
    assert played.tally.infeasible > 0


@pytest.mark.parametrize(("sampler", "most"), [("random", 20), ("tpe", 8), ("nsga2", 20)])
def test_few_proposals_are_infeasible_where_one_network_in_a_hundred_fits(tmp_path, sampler, most):
    """TPE learns what fits."""
    trials = 40 if sampler == "tpe" else 15
    played = new_run(tmp_path, sampler=sampler, limits=(parse_limit("macs_m<0.417"),), trials=trials)
    feasibility = played.state.session.plan.feasibility
    assert 0.5 < 100 * feasibility.num_feasible / feasibility.points < 2
    assert len(played.play(trials)) == trials
    assert played.tally.infeasible / trials < most


def test_random_search_stays_uniform_over_what_fits(tmp_path):
    """No network is moved inside the limits: every one is a random point."""
    played = new_run(tmp_path, sampler="random", limits=(parse_limit("macs_m<0.6"),), trials=30)
    played.play(30)
    problem, generator, fitting = played.state.session.plan.problem, random.Random(1), []
    while len(fitting) < 100:
        point = problem.examine(sample(problem.space.parameters, generator))
        fitting += [point.values["macs_m"]] if point.feasible else []
    searched = played.results.query("status == 'done' and source == 'search'")["macs_m"]
    assert ks_2samp(searched, fitting).pvalue > 0.001


def test_beside_what_a_sampler_repeats_lies_something_new(tmp_path):
    """And the sampler is not asked over and over."""
    point = first_choices(EXPERIMENT.space.parameters)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        stubborn = optuna.samplers.PartialFixedSampler(point, optuna.samplers.RandomSampler())
    played = new_run(tmp_path, sampler=stubborn)
    played.play(8)
    tried = played.results.query("status == 'done'").iloc[len(EXPERIMENT.space.references) :]
    changed = [sum(row[f"params.{name}"] != value for name, value in point.items()) for _, row in tried.iterrows()]
    assert changed == [0] + [1] * 6
    assert played.tally.duplicate == 2 * 6
