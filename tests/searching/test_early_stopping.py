"""Early stopping: on planted curves, what ends on the true front lives and half of the epochs are saved."""

import heapq
import math
import random
import statistics

import pytest

from nas.runs.pareto import non_dominated
from nas.searching.early_stopping import FIRST_EPOCH, MIN_ENDED, ForecastStopping, Traits

EPOCHS = 27
NETWORKS = 100
NOISE = 0.7  # percent points of top-1, as two seeds of one network differ
VAL_IMAGES = 2_100
STEADY = (4.0, 4.0)  # epochs after which a network has learned two thirds of what it will learn
CROSSING = (2.0, 8.0)


def planted(seed):
    """[(cost, final top-1)]: accuracy grows with the logarithm of the cost, and most networks lie well below what is possible."""
    generator = random.Random(seed)
    costs = [math.exp(generator.uniform(0, math.log(10))) for _ in range(NETWORKS)]
    return [(cost, 60 + 6 * math.log10(cost) - generator.expovariate(1 / 8)) for cost in costs]


def play(networks, goes_on, *, workers=4, seed=0, speeds=STEADY):
    """Train planted networks side by side, a costlier one slower: (epochs trained, the networks that were stopped).

    `speeds` is the range of the epochs that networks need; where it is wide, their curves cross.
    """
    generator, learning = random.Random(seed), random.Random(seed + 1)
    needed = [learning.uniform(*speeds) for _ in networks]
    queue, waiting, used, stopped = [], list(range(len(networks)))[::-1], 0, set()
    while queue or waiting:
        while waiting and len(queue) < workers:
            heapq.heappush(queue, (queue[0][0] if queue else 0.0, waiting.pop(), 1))
        at, network, epoch = heapq.heappop(queue)
        cost, final = networks[network]
        used += 1
        learned = (1 - math.exp(-epoch / needed[network])) / (1 - math.exp(-EPOCHS / needed[network]))
        top1 = final * learned + generator.gauss(0, NOISE) * (1 - epoch / EPOCHS)
        continues = goes_on(network, epoch, top1, cost)
        if epoch < EPOCHS and continues:
            heapq.heappush(queue, (at + math.sqrt(cost) * generator.uniform(0.9, 1.1), network, epoch + 1))
        elif epoch < EPOCHS:
            stopped.add(network)
    return used, stopped


def rule_of(stopping):
    """Whether a trial goes on, as the search asks it."""

    def goes_on(trial, epoch, top1, cost):
        stopping.add(trial, epoch, top1, val_images=VAL_IMAGES, traits=Traits((cost,)))
        return stopping.should_continue(trial, epoch)

    return goes_on


def play_many(speeds):
    """20 searches: the share of those that stopped nothing of their front, of front networks that lived, and of epochs saved."""
    clean, saved, lost, fronts = 0, [], 0, 0
    for seed in range(20):
        networks = planted(seed)
        front = {i for i, kept in enumerate(non_dominated([(-top1, cost) for cost, top1 in networks])) if kept}
        used, stopped = play(networks, rule_of(ForecastStopping(epochs=EPOCHS)), seed=seed, speeds=speeds)
        clean += not stopped & front
        lost, fronts = lost + len(stopped & front), fronts + len(front)
        saved.append(1 - used / (NETWORKS * EPOCHS))
    assert fronts / 20 > 8  # there is a front to lose
    return clean / 20, 1 - lost / fronts, statistics.mean(saved)


def test_what_ends_on_the_true_front_is_hardly_ever_stopped_and_half_the_epochs_are_saved():
    clean, _, saved = play_many(STEADY)
    assert clean >= 0.95
    assert saved >= 0.5


def test_fewer_epochs_are_saved_where_curves_cross_and_the_front_lives():
    _, kept, saved = play_many(CROSSING)
    assert kept >= 0.96
    assert 0.2 <= saved <= 0.5


def ended(top1s, costs, *, val_images=VAL_IMAGES, first=None):
    """A rule that has seen trainings to their end, which had the accuracies `first`, or half their last ones, before."""
    stopping = ForecastStopping(epochs=EPOCHS)
    for trial, (top1, cost) in enumerate(zip(top1s, costs, strict=True)):
        before = top1 / 2 if first is None else first[trial]
        for epoch, value in ((FIRST_EPOCH, before), (EPOCHS, top1)):
            stopping.add(trial, epoch, value, val_images=val_images, traits=Traits((cost,)))
    return stopping


def continues(stopping, top1, cost, *, trial=99, val_images=VAL_IMAGES):
    stopping.add(trial, FIRST_EPOCH, top1, val_images=val_images, traits=Traits((cost,)))
    return stopping.should_continue(trial, FIRST_EPOCH)


def test_a_cheap_network_is_not_held_against_giants():
    stopping = ended([70.0 + i % 3 for i in range(8)], [100.0 + i for i in range(8)])
    assert continues(stopping, 5.0, 1.0)  # far less accurate, and the cheapest
    assert not continues(stopping, 5.0, 200.0, trial=100)


def test_a_difference_that_chance_makes_stops_nothing():
    """With 25 images, a standard error is 9.1 points."""
    top1s = [70.0 + i / 10 for i in range(8)]
    assert continues(ended(top1s, [5.0] * 8, val_images=25), 33.5, 5.0, val_images=25)
    assert not continues(ended(top1s, [5.0] * 8, val_images=25), 30.0, 5.0, val_images=25)
    assert not continues(ended(top1s, [5.0] * 8, val_images=10**6), 33.5, 5.0, val_images=10**6)


def test_nothing_stops_while_the_order_says_little_or_too_few_have_ended():
    top1s, costs = [70.0 + 2 * i for i in range(10)], [5.0] * 10
    told = [10.0 + 2 * i for i in range(10)]
    untold = [told[place] for place in (5, 2, 9, 0, 7, 4, 1, 8, 3, 6)]  # agrees with the end by a tau of 0.02
    assert not continues(ended(top1s, costs, first=told), 10.0, 5.0)
    assert continues(ended(top1s, costs, first=untold), 10.0, 5.0)
    few = MIN_ENDED - 1
    assert continues(ended(top1s[:few], costs[:few], first=told[:few]), 10.0, 5.0)


def test_the_best_epoch_so_far_counts_and_one_reported_again_changes_nothing():
    stopping = ended([70.0 + 2 * i for i in range(10)], [5.0] * 10, first=[50.0 + 2 * i for i in range(10)])
    stopping.add(50, FIRST_EPOCH - 1, 68.0, val_images=VAL_IMAGES, traits=Traits((5.0,)))
    assert continues(stopping, 40.0, 5.0, trial=50)
    for _ in range(2):
        assert not continues(stopping, 40.0, 5.0, trial=51)
    assert not continues(stopping, 40.0, 5.0, trial=52)


def test_with_one_objective_only_the_best_counts():
    stopping = ForecastStopping(epochs=EPOCHS)
    for trial in range(10):
        for epoch, top1 in ((FIRST_EPOCH, 50.0 + trial), (EPOCHS, 80.0 + trial)):
            stopping.add(trial, epoch, top1, val_images=VAL_IMAGES, traits=Traits(()))
    decisions = []
    for trial, top1 in ((20, 62.0), (21, 50.0)):
        stopping.add(trial, FIRST_EPOCH, top1, val_images=VAL_IMAGES, traits=Traits(()))
        decisions.append(stopping.should_continue(trial, FIRST_EPOCH))
    assert decisions == [True, False]


@pytest.mark.parametrize("top1", [0.0, 50.0, 100.0])
def test_networks_that_all_tie_go_on(top1):
    stopping = ForecastStopping(epochs=EPOCHS)
    for trial in range(300):
        for epoch in range(1, EPOCHS + 1):
            stopping.add(trial, epoch, top1, val_images=40, traits=Traits((1.0 + trial % 7,)))
            assert stopping.should_continue(trial, epoch)


def test_a_network_beyond_a_limit_set_later_is_no_rival():
    def stopping(feasible):
        ended = ForecastStopping(epochs=EPOCHS)
        for trial in range(10):
            traits = Traits((1.0,), feasible=feasible or trial < 2)
            for epoch, top1 in ((FIRST_EPOCH, 20.0 + 5 * trial), (EPOCHS, 50.0 + 5 * trial)):
                ended.add(trial, epoch, top1, val_images=VAL_IMAGES, traits=traits)
        return ended

    assert not continues(stopping(feasible=True), 30.0, 2.0)
    assert continues(stopping(feasible=False), 30.0, 2.0)


def test_a_training_whose_first_epochs_are_lost_is_left_out():
    stopping = ended([70.0 + 2 * i for i in range(10)], [5.0] * 10, first=[10.0 + 2 * i for i in range(10)])
    stopping.add(50, EPOCHS, 90.0, val_images=VAL_IMAGES, traits=Traits((1.0,)))
    assert not continues(stopping, 10.0, 5.0)
