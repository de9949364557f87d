"""FrontierSampler in studies as people have them: shared, interrupted, partly given, with trainings that fail or diverge."""

import itertools
import math
import pickle
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from nas import FrontierSampler
from nas.sampler.candidates import CandidatePool, UserFunctions
from nas.sampler.encoding import Encoding
from nas.sampler.history import learning_curve, read_history
from nas.sampler.settings import LEARNING_CURVE, SETTINGS

SHARING = Path(__file__).parents[1] / "data" / "share_study.py"
SPACE = {f"x{i}": CategoricalDistribution((0, 1, 2)) for i in range(8)}
SQUARE = {name: IntDistribution(0, 5) for name in "ab"}


def loss(params):
    """Between 0 and about 4, 0 at one network."""
    return sum((value - i % 3) ** 2 for i, value in enumerate(params.values())) / 4


def asked(sampler, trials, answer, space=SPACE):
    """A study that was told so many losses; what is None failed."""
    study = optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask(space)
        value = answer(trial.params)
        study.tell(trial, value, state=TrialState.FAIL if value is None else None)
    return study


def networks(study):
    return [tuple(trial.params.values()) for trial in study.trials if trial.params]


def test_where_trainings_fail_or_diverge_it_does_not_ask_on():
    def answer(params):
        if params["x0"] == 0 and params["x1"] != 2:
            return None
        return 1e6 * (1 + params["x3"]) if params["x4"] == 2 else loss(params)

    study = asked(FrontierSampler(SPACE, seed=0), 40, answer)
    late = study.trials[20:]
    assert sum(trial.state == TrialState.FAIL or trial.value >= 1e6 for trial in late) < 8
    assert study.best_value < 0.6


def test_trainings_that_all_fail_are_spread_over_the_space():
    study = asked(FrontierSampler(SQUARE, seed=0), 12, lambda params: None, SQUARE)
    assert len(set(networks(study))) == 12
    assert {a // 2 for a, _ in networks(study)} == {b // 2 for _, b in networks(study)} == {0, 1, 2}


@pytest.mark.parametrize("sign", [1, -1])
def test_costs_are_features_by_their_logarithms_whatever_their_sign(sign):
    def costs(params):
        return None, 10.0 ** sum(params.values())

    pool = CandidatePool(SPACE, (1, sign), UserFunctions(costs=costs), seed=0)
    exponents = np.arange(6.0, 11.0)
    shown = pool.features(pool.encoding.draw(np.random.default_rng(0), 5), sign * 10.0 ** exponents[:, None])[:, -1]
    assert np.allclose(np.diff(shown), sign * abs(shown[1] - shown[0]))


def best_by_level(cost):
    """The least loss at each value of a cost, after 40 networks of which those that cost more lose less."""
    sampler = FrontierSampler(SPACE, costs=lambda params: (None, cost(params)), seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    best = {}
    for _ in range(40):
        trial = study.ask(SPACE)
        values = loss(trial.params) - 2 * cost(trial.params), cost(trial.params)
        study.tell(trial, values)
        best[values[1]] = min(best.get(values[1], math.inf), values[0])
    return best


def test_where_a_cost_has_few_levels_the_dearest_is_searched_too():
    assert best_by_level(lambda params: params["x0"]) == {0: 0.0, 1: 0.25 - 2, 2: 1.0 - 4}


def test_a_cost_that_is_the_same_for_all_networks_does_not_blind_it():
    assert best_by_level(lambda _: 5.0) == {5.0: 0.0 - 10}


def test_processes_that_share_a_study_do_not_repeat_each_other(tmp_path):
    file = str(tmp_path / "journal")
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(file)))
    command = [sys.executable, "-W", "ignore", str(SHARING), file]
    shared = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for process in shared:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait() for process in shared] == [0, 0]
    assert len(networks(study)) == len(set(networks(study))) == 22


def test_threads_that_share_a_sampler_do_not_repeat_each_other():
    def objective(trial):
        a = trial.suggest_int("a", 0, 5)
        time.sleep(0.01)
        return a + trial.suggest_int("b", 0, 5)

    study = optuna.create_study(sampler=FrontierSampler(SQUARE, seed=0))
    study.optimize(objective, n_trials=30, n_jobs=4)
    assert len(networks(study)) == len(set(networks(study))) == 30


def light(params):
    return 4 <= sum(params.values()) <= 6


def test_the_rest_of_a_trial_that_was_partly_enqueued_is_chosen_for_what_was_given():
    study = optuna.create_study(sampler=FrontierSampler(SPACE, feasible=light, seed=0))
    for _ in range(6):
        study.enqueue_trial({"x0": 2, "x1": 2})
    for _ in range(6):
        trial = study.ask(SPACE)
        assert (trial.params["x0"], trial.params["x1"]) == (2, 2)
        assert light(trial.params)
        study.tell(trial, loss(trial.params))
    assert len(set(networks(study))) == 6


def test_what_no_network_inside_the_limits_has_is_kept_nonetheless():
    study = optuna.create_study(sampler=FrontierSampler(SPACE, feasible=light, seed=0))
    study.enqueue_trial(dict.fromkeys(list(SPACE)[:5], 2))
    with pytest.warns(UserWarning, match="with these parameters fixed, no feasible network was found; this one is infeasible"):
        trial = study.ask(SPACE)
    assert list(trial.params.values())[:5] == [2] * 5
    study.tell(trial, 1.0)
    assert light(study.ask(SPACE).params)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_parameters_that_another_sampler_fixes_count_for_limits_and_repeats():
    inner = FrontierSampler(SPACE, feasible=light, costs=lambda params: [None], seed=0)
    study = asked(optuna.samplers.PartialFixedSampler({"x0": 2, "x5": 1}, inner), 20, loss)
    assert all(trial.params["x0"] == 2 and trial.params["x5"] == 1 and light(trial.params) for trial in study.trials)
    assert len(set(networks(study))) == 20


def test_a_network_that_is_enqueued_is_not_proposed_before_its_turn():
    study = optuna.create_study(sampler=FrontierSampler(SQUARE, seed=0))
    first = study.ask(SQUARE)
    for a in range(6):
        for b in range(6):
            if (a, b) not in {(1, 4), tuple(first.params.values())}:
                study.enqueue_trial({"a": a, "b": b})
    again = FrontierSampler(SQUARE, seed=1)
    position = again.sample_relative(study, study.trials[0], SQUARE)
    assert position in ({"a": 1, "b": 4}, first.params)


def test_sums_of_steps_are_known_as_the_values_they_stand_for():
    space = {name: FloatDistribution(0.0, 0.4, step=0.1) for name in "ab"}
    study = optuna.create_study(sampler=FrontierSampler(space, seed=0))
    study.enqueue_trial({"a": 0.1 + 0.2, "b": 0.1 + 0.2})
    study.optimize(lambda trial: sum(trial.suggest_float(name, 0.0, 0.4, step=0.1) for name in "ab"), n_trials=50)
    assert len(study.trials) == len({tuple(np.round(point, 6)) for point in networks(study)}) == 25


@pytest.mark.parametrize("distribution", [FloatDistribution(1e-6, 1.0, log=True), FloatDistribution(-1e9, 3.0)])
def test_values_of_continuous_parameters_are_known_as_they_were_proposed(distribution):
    encoding = Encoding({"x": distribution})
    for position in encoding.draw(np.random.default_rng(0), 1000):
        params = encoding.params(position)
        found = encoding.position(params)
        assert (found, encoding.params(found)) == (position, params)


def test_tiny_steps_stay_apart():
    space = {"a": FloatDistribution(0.0, 6e-12, step=1e-12)}
    study = asked(FrontierSampler(space, seed=0), 6, lambda params: params["a"], space)
    assert len(set(networks(study))) == 6


def test_integers_on_a_logarithmic_scale_are_drawn_and_modelled_on_it():
    encoding = Encoding({"width": IntDistribution(1, 60, log=True), "depth": IntDistribution(1, 60)})
    widths, depths = encoding.draw(np.random.default_rng(0), 10_000).T + 1
    assert 5 <= np.median(widths) <= 8
    assert 28 <= np.median(depths) <= 33
    assert widths.max() == depths.max() == 60
    points = np.array([encoding.position({"width": width, "depth": 1}) for width in (1, 2, 4, 8)])
    ranks = encoding.features(points)[:, -2]
    assert np.allclose(np.diff(ranks), ranks[1] - ranks[0])


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_choices_that_a_storage_gives_back_as_lists_are_known():
    choices = [CategoricalDistribution(((1, 2), (3, 4), kind)) for kind in ((5, 6), (7, None))]
    space = dict(zip("ab", choices, strict=True))
    encoding = Encoding(space)
    assert encoding.position({"a": [3, 4], "b": [7, None]}).tolist() == [1, 2]


@pytest.mark.parametrize("size", [3, 64])
def test_the_last_network_of_a_large_space_ends_the_study(size):
    """That few are inside the limits is not known before all were tried."""
    space = {name: IntDistribution(0, size) for name in "abcd"}
    study = optuna.create_study(sampler=FrontierSampler(space, feasible=lambda params: sum(params.values()) <= 1, seed=0))
    study.enqueue_trial(dict.fromkeys("abcd", 0))
    with pytest.warns(UserWarning, match="this one is a duplicate") if size > 3 else pytest.MonkeyPatch.context():
        study.optimize(lambda trial: sum(trial.suggest_int(name, 0, size) for name in "abcd"), n_trials=50)
    assert len(set(networks(study))) == 5
    assert len(study.trials) == 5 + (size > 3)


def test_the_few_that_are_inside_the_limits_are_all_found_before_the_study_ends(caplog):
    """A few in a thousand of 4,096 points, which no random draws find all of."""
    space = {f"width{i}": CategoricalDistribution((16, 24, 32, 48)) for i in range(6)}

    def feasible(params):
        return zlib.crc32(repr(tuple(params.values())).encode()) % 1000 < 6

    def objective(trial):
        return sum(trial.suggest_categorical(name, (16, 24, 32, 48)) for name in space)

    study = optuna.create_study(sampler=FrontierSampler(space, feasible=feasible, seed=0))
    study.optimize(objective, n_trials=200)
    every = [dict(zip(space, widths, strict=True)) for widths in itertools.product((16, 24, 32, 48), repeat=6)]
    assert sorted(networks(study)) == sorted(tuple(params.values()) for params in every if feasible(params))
    assert "every feasible network that was found has a trial" in caplog.text


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_where_few_are_inside_the_limits_others_are_found_beside_one_that_did_not_end_well(state):
    space = {f"width{i}": CategoricalDistribution((16, 24, 32, 48)) for i in range(20)}

    def feasible(params):
        return sum(params.values()) <= 360

    study = optuna.create_study(sampler=FrontierSampler(space, feasible=feasible, seed=0))
    study.enqueue_trial(dict.fromkeys(space, 16))
    study.tell(study.ask(space), state=state)
    trial = study.ask(space)
    assert feasible(trial.params)
    assert set(trial.params.values()) != {16}


def test_trials_that_a_pruner_hides_are_not_repeated():
    study = optuna.create_study(sampler=FrontierSampler(SQUARE, seed=0), pruner=optuna.pruners.HyperbandPruner(1, 9))

    def objective(trial):
        value = trial.suggest_int("a", 0, 5) + trial.suggest_int("b", 0, 5)
        for step in range(1, 10):
            trial.report(value + 1 / step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=30)
    assert len(set(networks(study))) == len(study.trials) == 30


@pytest.mark.parametrize("curve", ["rising", 7, [1, 2, 3], [["a", "b"]], {"1": 0.5}, None])
def test_an_attribute_of_the_same_name_that_is_no_curve_is_left_alone(curve):
    study = optuna.create_study(sampler=FrontierSampler(SPACE, seed=0))
    for i in range(8):
        params, state = dict.fromkeys(SPACE, i % 3), TrialState.COMPLETE if i % 2 else TrialState.PRUNED
        options = {"params": params, "distributions": SPACE, "user_attrs": {LEARNING_CURVE: curve}, "state": state}
        study.add_trial(create_trial(value=1.0 if i % 2 else None, **options))
    assert study.ask(SPACE).params.keys() == SPACE.keys()


def test_a_sampler_that_was_pickled_proposes_the_same():
    study = asked(FrontierSampler(SPACE, seed=0), 10, loss)
    sampler = pickle.loads(pickle.dumps(study.sampler))
    params = study.ask(SPACE).params
    assert sampler.sample_relative(study, study.trials[-1], SPACE) == params


def test_of_trials_without_an_end_the_last_are_modelled_and_none_repeated():
    study = optuna.create_study(sampler=FrontierSampler(SPACE, seed=0))
    generator = np.random.default_rng(0)
    for state in (TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL):
        for _ in range(SETTINGS.max_unfinished + 50):
            params = {name: int(generator.integers(3)) for name in SPACE}
            study.add_trial(
                create_trial(params=params, distributions=SPACE, state=state, intermediate_values={1: 0.5, 2: math.nan})
            )
    pool = CandidatePool(SPACE, (1,), UserFunctions(), seed=0)
    history = read_history(study, pool, exclude=-1)
    assert len(history.pending) == len(history.stopped) == len(history.failed) == SETTINGS.max_unfinished
    assert len(history.seen) == len(set(networks(study)))
    assert learning_curve(history.stopped[0].trial) == {1: 0.5}


def test_layers_that_a_trial_never_asked_for_do_not_make_it_another_network():
    space = {"depth": IntDistribution(1, 3)} | {f"kernel{i}": IntDistribution(0, 3) for i in (1, 2, 3)}

    def identity(params):
        return (params["depth"], *(params[f"kernel{i}"] for i in range(1, params["depth"] + 1)))

    def objective(trial):
        depth = trial.suggest_int("depth", 1, 3)
        return depth + sum((trial.suggest_int(f"kernel{i}", 0, 3) - 2) ** 2 for i in range(1, depth + 1))

    study = optuna.create_study(sampler=FrontierSampler(space, identity=identity, seed=0))
    study.optimize(objective, n_trials=25)
    assert len(networks(study)) == len(set(networks(study))) == 25

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"depth": 1, "kernel1": 3})
    study.optimize(objective, n_trials=20)
    before = set(networks(study))
    study.sampler = FrontierSampler(space, identity=identity, seed=0)
    study.enqueue_trial({"depth": 1, "kernel1": 3})
    study.optimize(objective, n_trials=20)
    assert before.isdisjoint(networks(study)[21:])  # what another sampler tried, or somebody asked for
    assert len(set(networks(study)[21:])) == 19


def test_what_a_sampler_of_another_space_left_under_way_does_no_harm():
    study = optuna.create_study(sampler=FrontierSampler({"a": IntDistribution(0, 9), "b": IntDistribution(0, 3)}, seed=0))
    for _ in range(5):
        study.ask({"a": IntDistribution(0, 9), "b": IntDistribution(0, 3)})
    space = {"b": IntDistribution(-3, 3), "a": IntDistribution(4, 9)}
    study.sampler = FrontierSampler(space, seed=0)
    params = study.ask(space).params
    assert params not in [trial.params for trial in study.trials[:5]]


def test_many_choices_of_a_kind_take_no_more_than_each_alone():
    names = ("p1", "p2")
    encoding = Encoding({name: CategoricalDistribution(tuple(f"choice_{i}" for i in range(2000))) for name in names})
    assert encoding.features(encoding.draw(np.random.default_rng(0), 2)).shape == (2, 4000)


@pytest.mark.parametrize("seed", range(4))
def test_a_parameter_is_not_taken_to_depend_on_one_of_many_values_that_were_met_once(seed):
    space = {"width": IntDistribution(1, 60), "depth": IntDistribution(1, 2), "kernel": IntDistribution(0, 9)}

    def identity(params):
        return params["width"], params["depth"], params["kernel"] if params["depth"] == 2 else None

    pool = CandidatePool(space, (1,), UserFunctions(identity=identity), seed=seed)
    assert len(pool.random(pool.all_free)) == 60 * 11


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
@pytest.mark.parametrize("choices", [((1, 2), (3, 4)), ([1, 2], [3, 4]), ({"kernel": 3}, {"kernel": 5})])
def test_choices_that_are_no_single_values_can_be_searched(choices):
    space = {"a": CategoricalDistribution(choices), "b": IntDistribution(0, 5)}
    study = optuna.create_study(sampler=FrontierSampler(space, seed=0))

    def objective(trial):
        a = trial.suggest_categorical("a", choices)
        if trial.number == 1:
            raise ValueError
        return list(choices).index(a) + trial.suggest_int("b", 0, 5)

    study.optimize(objective, n_trials=8, catch=ValueError)
    assert len({str(trial.params) for trial in study.trials}) == 8


def test_what_is_enqueued_after_a_space_was_searched_whole_is_tried():
    study = asked(FrontierSampler(SQUARE, seed=0), 36, lambda params: params["a"], SQUARE)
    for b in range(4):
        study.enqueue_trial({"a": 1, "b": b})
    study.optimize(lambda trial: trial.suggest_int("a", 0, 5) + trial.suggest_int("b", 0, 5), n_trials=4)
    assert len(study.trials) == 40


def test_enqueued_values_of_numpy_are_kept_within_the_limits():
    space = {"a": IntDistribution(0, 9), "b": IntDistribution(0, 9)}
    for seed in range(4):
        study = optuna.create_study(sampler=FrontierSampler(space, feasible=lambda p: p["a"] + p["b"] < 9, seed=seed))
        study.enqueue_trial({"a": np.int64(8)})
        assert study.ask(space).params == {"a": 8, "b": 0}


def test_costs_are_asked_of_networks_inside_the_limits_alone():
    space = {"a": IntDistribution(0, 1), "b": IntDistribution(0, 9)}
    for seed in range(4):
        sampler = FrontierSampler(space, costs=lambda p: (None, p["b"] // p["a"]), feasible=lambda p: p["a"] > 0, seed=seed)
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        assert study.ask(space).params["a"] == 1
