"""How much of a space meets the limits is known before anything is trained, and so is that nothing does."""

import random
import re
from dataclasses import replace

import pytest

import nas
from nas.objectives import parse_limit
from nas.searching.feasibility import Feasibility, check_limits
from nas.searching.plan import problem_of
from nas.spaces import sample
from tests.simulated_search import EXPERIMENT, new_run


def problem(*limits):
    return problem_of(replace(EXPERIMENT, limits=tuple(map(parse_limit, limits))))


def test_limits_that_nothing_meets_are_refused_with_what_there_is():
    with pytest.raises(
        nas.NasError,
        match=r"meets macs_m<=0\.1 and params_m<=0\.001: over the [\d,]+ nearest and random points tried macs_m goes from 0\.",
    ):
        check_limits(problem("macs_m<0.1", "params_m<0.001"), 0)
    assert str(check_limits(problem(), 0)).startswith("100.0 % ± ")


def test_limits_that_chance_would_not_meet_are_found_to_be_met_and_searched(tmp_path):
    limit = "macs_m<0.275"  # of 1,000 random networks the smallest has 0.32
    assert check_limits(problem(limit), 0).num_feasible == 0
    played = new_run(tmp_path, limits=(parse_limit(limit),), sampler="random")
    assert len(played.play(1)) == 1
    assert played.results.query("status == 'done'")["macs_m"].max() <= 0.275


def test_the_share_that_fits_comes_with_its_confidence_interval():
    some = problem("macs_m<0.8")
    feasibility = check_limits(some, 0)
    assert 0 < feasibility.num_feasible < feasibility.points
    share, half = map(float, re.fullmatch(r"([\d.]+) % ± ([\d.]+)", str(feasibility)).groups())
    generator = random.Random(99)
    points = 4_000
    true = 100 * sum(some.examine(sample(some.space.parameters, generator)).feasible for _ in range(points)) / points
    assert abs(share - true) < 2 * half
    assert 1.0 < half < 2.0  # 1.96 standard errors of a share near a half, over 4,000 points
    nothing = Feasibility(num_feasible=0, points=4_000, example={})
    assert str(nothing) == "less than 0.1 %"
