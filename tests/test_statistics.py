"""Intervals hold the truth about as often as they say."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.statistics import difference_interval, kendall_tau, proportion_interval, rank_agreement, standard_error_pct


@pytest.mark.parametrize("runs", [2, 5, 20])
def test_the_interval_of_a_difference_holds_the_truth_about_as_often_as_it_says(runs):
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        low, high = difference_interval(generator.normal(1.0, 1, runs), generator.normal(0.5, 1, runs))
        held += low <= 0.5 <= high
    assert held / 100 > 0.9
    assert difference_interval([0.5] * runs, [0.25] * runs) == (0.25, 0.25)


def test_the_interval_of_a_ranking_is_wide_where_seeds_disagree():
    steady = rank_agreement(range(8), [[i + 0.1, i - 0.1] for i in range(8)])
    noisy = rank_agreement(range(8), [[i + 6.0, i - 6.0] for i in range(8)])
    assert steady.kendall == noisy.kendall == pytest.approx(1)
    assert steady.interval == pytest.approx((1.0, 1.0))
    assert noisy.interval[0] < 0.5
    assert str(steady) == "1.00, 95 % from 1.00 to 1.00"


@pytest.mark.filterwarnings("error")
def test_rankings_without_an_order_or_of_few_networks_have_no_interval():
    ties = rank_agreement(range(6), [[1.0]] * 6)
    assert math.isnan(ties.kendall)
    assert all(map(math.isnan, ties.interval))
    assert rank_agreement(range(4), [[1.0], [2.0], [3.0], [4.0]]).interval is None


def test_tau_is_scipys_with_ties():
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 6, (2, 30))
    assert kendall_tau(one, other) == pytest.approx(kendalltau(one, other).statistic)


def test_a_share_has_wilsons_interval():
    assert proportion_interval(0, 4000) == pytest.approx((0, 1.96**2 / (4000 + 1.96**2)), rel=1e-3)
    assert proportion_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # by his formula


def test_a_standard_error_is_that_of_a_share():
    assert standard_error_pct(90.0, 100) == pytest.approx(3.0)
    assert standard_error_pct(100.0, 100) == 0
