"""A problem knows what a network costs before it is trained; what goes wrong in a user's own file is one sentence."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import nas
from nas.models.network import OwnNetwork, find_network
from nas.objectives import Objective, objective, parse_limit
from nas.searching.plan import problem_of
from nas.spaces import first_choices
from tests.simulated_search import EXPERIMENT, Twelve, new_run

PROBLEM = problem_of(EXPERIMENT)


def test_a_point_has_its_costs_and_how_far_outside_the_limits_it_is():
    params = first_choices(EXPERIMENT.space.parameters)
    network = EXPERIMENT.space.decode(params)
    macs = nas.cost(network, 10).macs / 1e6
    free = PROBLEM.examine(params)
    assert (free.id, free.text, free.feasible) == (network.id, network.to_json(), True)
    assert free.values == {"macs_m": macs}
    limit = parse_limit(f"macs_m<{macs - 1}")
    outside = problem_of(replace(EXPERIMENT, limits=(limit,))).examine(params)
    assert not outside.feasible
    assert outside.total_excess == pytest.approx(1)


def test_losses_are_the_lower_the_better_and_missing_where_a_value_is():
    assert PROBLEM.losses({"val_top1_pct": 80.0, "macs_m": 2.0}) == (-80.0, 2.0)
    assert PROBLEM.losses({"macs_m": 2.0}) is None


def test_a_network_of_timms_is_no_point_of_the_space_and_has_the_costs_that_are_known():
    point = PROBLEM.examine_network(find_network("timm:resnet18", resolution=32))
    assert not point.feasible
    assert point.values["macs_m"] == pytest.approx(1814 * (32 / 224) ** 2, rel=0.02)
    own = PROBLEM.examine_network(OwnNetwork(architecture=nas.reference("mobilenetv2_100")))
    assert not own.feasible


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
        new_run(tmp_path, objectives=(objective("val_top1_pct"), own))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [3, np.float32(3), np.int64(3), torch.tensor(3)])
def test_an_objective_may_give_any_kind_of_number(value):
    own = Objective(name="own_ms", direction="minimize", needs_training=False, measure=lambda candidate: value)
    problem = replace(PROBLEM, objectives=(own,))
    assert problem.examine(first_choices(EXPERIMENT.space.parameters)).values == {"own_ms": 3.0}


def test_a_space_of_ones_own_that_fails_ends_the_search_with_what_it_raised(tmp_path):
    class Broken(Twelve):
        def decode(self, params):
            raise ValueError("no such network")

    with pytest.raises(nas.NasError, match="space twelve: decode raised ValueError: no such network"):
        new_run(tmp_path, space=Broken())


def test_a_limit_on_something_that_is_no_objective_has_its_column(tmp_path):
    played = new_run(tmp_path, limits=(parse_limit("params_m<10"),), objectives=(objective("val_top1_pct"),))
    played.play(2)
    assert played.results["params_m"].between(0, 10).all()
