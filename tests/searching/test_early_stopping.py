"""Early stopping on planted curves: what ends on the true front lives, most of the epochs are saved, one objective is ASHA."""

import heapq
import math
import random
import statistics

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from nas.runs.pareto import non_dominated
from nas.searching.early_stopping import RungResult, SuccessiveHalving, rungs

EPOCHS = 27
NETWORKS = 100
NOISE = 0.7  # percent points of top-1, as two seeds of one network differ
VAL_IMAGES = 2_100  # two standard errors are then 2 percent points


def planted(seed):
    """[(cost, final top-1)]: accuracy grows with the logarithm of the cost, and most networks lie well below what is possible."""
    generator = random.Random(seed)
    costs = [math.exp(generator.uniform(0, math.log(10))) for _ in range(NETWORKS)]
    return [(cost, 60 + 6 * math.log10(cost) - generator.expovariate(1 / 8)) for cost in costs]


def play(networks, goes_on, *, workers=4, seed=0):
    """Train planted networks side by side, a costlier one slower: (epochs trained, the networks that were stopped)."""
    generator = random.Random(seed)
    queue, waiting, used, stopped = [], list(range(len(networks)))[::-1], 0, set()
    while queue or waiting:
        while waiting and len(queue) < workers:
            heapq.heappush(queue, (queue[0][0] if queue else 0.0, waiting.pop(), 1))
        at, network, epoch = heapq.heappop(queue)
        cost, final = networks[network]
        used += 1
        learned = (1 - math.exp(-epoch / 4)) / (1 - math.exp(-EPOCHS / 4))
        top1 = final * learned + generator.gauss(0, NOISE) * (1 - epoch / EPOCHS)
        if epoch < EPOCHS and goes_on(network, epoch, top1, cost):
            heapq.heappush(queue, (at + math.sqrt(cost) * generator.uniform(0.9, 1.1), network, epoch + 1))
        elif epoch < EPOCHS:
            stopped.add(network)
    return used, stopped


def test_what_ends_on_the_true_front_is_never_stopped_and_half_the_epochs_are_saved():
    runs, clean, saved, sizes = 20, 0, [], []
    for seed in range(runs):
        networks = planted(seed)
        front = {i for i, kept in enumerate(non_dominated([(-top1, cost) for cost, top1 in networks])) if kept}
        halving = SuccessiveHalving(epochs=EPOCHS)

        def goes_on(trial, epoch, top1, cost, halving=halving):
            return halving.should_continue(trial, epoch, RungResult.of(top1, VAL_IMAGES, (cost,)))

        used, stopped = play(networks, goes_on, seed=seed)
        clean += not stopped & front
        saved.append(1 - used / (NETWORKS * EPOCHS))
        sizes.append(len(front))
    assert statistics.mean(sizes) > 8  # there is a front to lose
    assert clean / runs >= 0.95
    assert statistics.mean(saved) >= 0.5


class RaysTrial:
    """As much of a trial as Ray's scheduler reads."""

    def __init__(self, trial_id):
        self.trial_id = trial_id


def test_with_one_objective_it_stops_what_rays_asha_stops():
    alike, judged = 0, 0
    for seed in range(8):
        networks = planted(seed)
        rays = ASHAScheduler(metric="top1", mode="max", time_attr="epoch", max_t=EPOCHS, grace_period=3, reduction_factor=3)
        halving, trials, decisions = SuccessiveHalving(epochs=EPOCHS), {}, []

        def goes_on(number, epoch, top1, cost, *, rays=rays, halving=halving, trials=trials, decisions=decisions):
            if number not in trials:
                trials[number] = RaysTrial(str(number))
                rays.on_trial_add(None, trials[number])
            theirs = rays.on_trial_result(None, trials[number], {"epoch": epoch, "top1": top1}) == TrialScheduler.CONTINUE
            ours = halving.should_continue(number, epoch, RungResult.of(top1, 1e15, ()))
            if epoch in rungs(EPOCHS):
                decisions.append((ours, theirs))
            return theirs  # both see the same trials

        play(networks, goes_on, seed=seed)
        alike += sum(ours == theirs for ours, theirs in decisions)
        judged += len(decisions)
    assert judged > 800
    assert alike / judged > 0.97  # Ray judges the second trial already, and interpolates between two values


def test_a_cheap_network_is_not_held_against_giants():
    halving = SuccessiveHalving(epochs=EPOCHS)
    for trial in range(20):
        assert halving.should_continue(trial, 3, RungResult.of(70.0, VAL_IMAGES, (100.0 + trial,))) or trial > 2
    assert halving.should_continue(20, 3, RungResult.of(30.0, VAL_IMAGES, (1.0,)))  # far less accurate, and the cheapest
    assert not halving.should_continue(21, 3, RungResult.of(30.0, VAL_IMAGES, (200.0,)))


def test_a_difference_that_chance_makes_stops_nothing():
    halving = SuccessiveHalving(epochs=EPOCHS)
    for trial in range(10):
        assert halving.should_continue(trial, 3, RungResult.of(70.0, 100, (5.0,)))
    assert halving.should_continue(10, 3, RungResult.of(62.0, 100, (5.0,)))  # two standard errors are 9.2
    assert not halving.should_continue(11, 3, RungResult.of(55.0, 100, (5.0,)))


@pytest.mark.parametrize(("epochs", "at"), [(1, ()), (2, ()), (6, ()), (9, (3,)), (10, (4,)), (27, (3, 9)), (80, (9, 27))])
def test_networks_are_judged_at_a_ninth_and_a_third(epochs, at):
    assert rungs(epochs) == at


def test_a_trial_that_comes_again_after_a_kill_counts_once():
    halving = SuccessiveHalving(epochs=EPOCHS)
    for trial in range(4):
        halving.should_continue(trial, 3, RungResult.of(50.0 + 10 * trial, 10**9, (1.0,)))
    ranks = dict(halving.ranks[3])
    halving.should_continue(3, 3, RungResult.of(80.0, 10**9, (1.0,)))
    assert halving.ranks[3] == ranks
