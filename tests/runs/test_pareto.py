"""Fronts are by the definition, and a hypervolume is what a count of cells gives."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.objectives import loss
from nas.runs.pareto import Box, hypervolume, non_dominated

SIDE = 5


def points(least, most):
    """Lists of points of so many whole losses."""
    point = st.integers(0, SIDE).map(float)
    return st.integers(least, most).flatmap(lambda losses: st.lists(st.tuples(*[point] * losses), min_size=1, max_size=30))


@given(points(1, 3))
def test_non_dominated_is_the_definition(losses):
    def beaten(point):
        return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in losses)

    assert non_dominated(losses) == [not beaten(point) for point in losses]


@settings(max_examples=60)
@given(points(1, 4))
def test_a_hypervolume_is_the_number_of_cells_that_points_dominate(losses):
    cells = itertools.product(range(SIDE), repeat=len(losses[0]))
    dominated = sum(any(all(a <= b for a, b in zip(point, cell, strict=True)) for point in losses) for cell in cells)
    assert hypervolume(losses, (float(SIDE),) * len(losses[0])) == dominated  # points at the reference count nothing


@given(points(1, 3))
def test_shares_grow_to_the_share_of_all(losses):
    box = Box.around(losses)
    shares = box.shares(losses)
    assert shares == sorted(shares)
    assert shares == pytest.approx([box.share(losses[: i + 1]) for i in range(len(losses))])
    assert all(0 < share <= 1 + 1e-9 for share in shares)


def test_the_box_reaches_a_tenth_beyond_the_worst():
    assert Box.around([(1.0, 7.0), (3.0, 7.0)]) == Box(best=(1.0, 7.0), reference=(pytest.approx(3.2), pytest.approx(7.1)))


def test_ten_thousand_points_find_their_front_and_volume():
    generator = random.Random(0)
    losses = [(generator.random(), generator.random(), generator.random()) for _ in range(10_000)]
    assert 2 <= sum(non_dominated(losses)) < 200
    assert 0.9 < Box.around(losses).share(losses) < 1


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_an_objective_has_the_loss_of_its_direction(direction, sign):
    objective = nas.Objective(name="own", direction=direction, needs_training=False, measure=lambda _: 0.0)
    assert objective.loss(2.0) == loss(2.0, direction) == sign * 2.0
