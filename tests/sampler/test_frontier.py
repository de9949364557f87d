"""FrontierSampler: Optuna's own contract for samplers, and what it adds to that."""

import itertools
import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial
from scipy.optimize import check_grad

from nas import FrontierSampler, NasError
from nas.runs.pareto import hypervolume
from nas.sampler.acquisition import ExactLosses, PredictedLosses, expected_hypervolume_improvement
from nas.sampler.candidates import CandidatePool, UserFunctions
from nas.sampler.encoding import Encoding
from nas.sampler.history import GROWTH, PREDICTED
from nas.sampler.settings import LEARNING_CURVE
from nas.sampler.surrogate import AMPLITUDE_PRIORS, LossScale, Surrogate, fit_hyperparameters, negative_log_posterior

SPACE = {f"x{i}": CategoricalDistribution((0, 1, 2)) for i in range(8)}


@pytest.mark.filterwarnings("ignore:no network was found")
class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: FrontierSampler({}, seed=0)


def price(params):
    return float(sum((1, 2, 4)[value] * (1 + i // 4) for i, value in enumerate(params.values())))


def accuracy(params):
    """Higher with the price, and by choices that matter together."""
    values = list(params.values())
    return 80 + 3 * math.log(price(params)) + sum((one - other) ** 2 for one, other in itertools.pairwise(values)) / 4


def costs_of(params):
    return None, price(params)


def searched(sampler, trials, *, workers=1, study=None):
    """Tell a study so many outcomes; trials end in the order in which they were asked for."""
    study = study or optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    pending = []
    for _ in range(trials):
        while len(pending) < workers:
            pending.append(study.ask(SPACE))
        trial = pending.pop(0)
        study.tell(trial, [accuracy(trial.params), price(trial.params)])
    return study


def volume(study):
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return hypervolume([(-trial.values[0], trial.values[1]) for trial in done], (-80.0, 48.0))


def test_it_finds_in_30_trials_more_than_random_search_in_150():
    ours = volume(searched(FrontierSampler(SPACE, costs=costs_of, seed=0), 30, workers=8))
    assert ours > volume(searched(optuna.samplers.RandomSampler(seed=0), 150))


def test_no_network_is_proposed_twice_or_beyond_the_limits():
    def identity(params):
        values = list(params.values())
        return (*sorted(values[:4]), *values[4:])

    def feasible(params):
        return 20 <= price(params) <= 30

    sampler = FrontierSampler(SPACE, costs=costs_of, identity=identity, feasible=feasible, seed=0)
    study = searched(sampler, 16, workers=4)
    assert all(feasible(trial.params) for trial in study.trials)
    assert len({identity(trial.params) for trial in study.trials}) == len(study.trials)


def test_where_one_point_in_a_thousand_is_inside_the_limits_an_enqueued_one_leads_to_others():
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(10)}

    def feasible(params):
        return sum(params.values()) < 1.5

    sampler = FrontierSampler(space, feasible=feasible, seed=0)
    study = optuna.create_study(sampler=sampler)
    with pytest.raises(NasError, match="no random network is feasible; enqueue one"):
        study.ask(space)
    study = optuna.create_study(sampler=FrontierSampler(space, feasible=feasible, seed=0))
    study.enqueue_trial(dict.fromkeys(space, 0.1))
    study.optimize(lambda trial: sum((trial.suggest_float(name, 0, 1) - 0.12) ** 2 for name in space), n_trials=10)
    assert all(feasible(trial.params) for trial in study.trials)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 10


def test_values_that_are_rounded_on_their_way_through_a_study_are_not_repeated():
    space = {"a": FloatDistribution(1e-5, 3e-2, log=True), "b": FloatDistribution(2.0, 2.0), "c": IntDistribution(0, 10**9)}
    space |= {"d": CategoricalDistribution((None, math.nan, "x"))}
    study = optuna.create_study(sampler=FrontierSampler(space, seed=0))
    for _ in range(15):
        trial = study.ask(space)
        study.tell(trial, trial.params["a"])
    assert len({tuple(map(str, trial.params.values())) for trial in study.trials}) == 15


def test_a_space_of_which_every_network_was_tried_ends_the_study():
    space = {"a": CategoricalDistribution((0, 1, 2)), "b": IntDistribution(0, 1)}
    study = optuna.create_study(sampler=FrontierSampler(space, seed=0))
    study.optimize(lambda trial: trial.suggest_categorical("a", (0, 1, 2)) + trial.suggest_int("b", 0, 1), n_trials=50)
    assert {tuple(trial.params.values()) for trial in study.trials} == set(itertools.product(range(3), range(2)))
    assert len(study.trials) == 6


def test_the_same_seed_proposes_the_same_and_a_study_goes_on_from_its_storage(tmp_path):
    def sampler():
        return FrontierSampler(SPACE, costs=costs_of, seed=3)

    whole = searched(sampler(), 11)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    first = optuna.create_study(storage=storage, study_name="s", directions=["maximize", "minimize"], sampler=sampler())
    searched(None, 8, study=first)
    again = optuna.load_study(storage=storage, study_name="s", sampler=sampler())
    searched(None, 3, study=again)
    assert [trial.params for trial in again.trials] == [trial.params for trial in whole.trials]
    other = searched(FrontierSampler(SPACE, costs=costs_of, seed=4), 11)
    assert [trial.params for trial in other.trials] != [trial.params for trial in whole.trials]


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "maximize", "minimize"], ["maximize"] * 4])
def test_any_number_of_objectives_in_any_directions(directions):
    """Of each kind of parameter, with the first and the last objective trained, and the others known."""
    space = {
        "kind": CategoricalDistribution(("a", None, True)),
        "depth": IntDistribution(1, 4),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "width": IntDistribution(16, 2048, log=True),
        "drop": FloatDistribution(0.0, 0.5, step=0.1),
    }
    signs = [1 if direction == "minimize" else -1 for direction in directions]

    def losses(params):
        rate, depth = (math.log10(params["rate"]) + 2) ** 2, params["depth"]
        each = [rate + (params["kind"] != "a") + params["drop"], depth, math.log(params["width"]), (depth - 3) ** 2 + rate]
        return [sign * loss for sign, loss in zip(signs, each, strict=False)]

    def costs(params):
        values = losses(params)
        return [None if i in (0, len(values) - 1) else value for i, value in enumerate(values)]

    found = {}
    for name, sampler in (
        ("ours", FrontierSampler(space, costs=costs, seed=0)),
        ("random", optuna.samplers.RandomSampler(seed=0)),
    ):
        study = optuna.create_study(directions=directions, sampler=sampler)
        for _ in range(16):
            trial = study.ask(space)
            study.tell(trial, losses(trial.params))
        points = [tuple(s * v for s, v in zip(signs, trial.values, strict=True)) for trial in study.trials]
        found[name] = hypervolume(points, (9.0, 5.0, 8.0, 14.0)[: len(directions)])
    assert found["ours"] > found["random"]


def test_parameters_that_a_trial_lacks_and_values_that_are_not_finite_do_no_harm():
    space = {"depth": IntDistribution(1, 2), "second": CategoricalDistribution((3, 5, 7)), "rate": FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=FrontierSampler(space, seed=0))

    def objective(trial):
        depth, rate = trial.suggest_int("depth", 1, 2), trial.suggest_float("rate", 0, 1)
        if trial.number == 5:
            return math.inf
        if trial.number == 6:
            raise ValueError("broken")
        second = trial.suggest_categorical("second", (3, 5, 7)) if depth == 2 else 0
        return (rate - 0.3) ** 2 + abs(second - 5) + trial.suggest_float("own", 0, 1e-3)

    study.optimize(objective, n_trials=30, catch=ValueError)
    assert study.best_params["second"] == 5
    assert study.best_value < 0.02


def test_a_parameter_that_matters_only_with_a_value_of_another_is_found():
    space = {"depth": IntDistribution(1, 3)}
    space |= {f"kernel{i}": CategoricalDistribution((3, 5, 7)) for i in range(1, 4)}

    def identity(params):
        return tuple(params[f"kernel{i}"] for i in range(1, params["depth"] + 1))

    encoding = Encoding(space, identity)
    short = {"depth": 1, "kernel1": 5, "kernel2": 7, "kernel3": 5}
    position = encoding.position(short)
    assert encoding.params(encoding.canonical(position[None])[0]) == short | {"kernel2": 3, "kernel3": 3}
    others = [encoding.position(short | {"kernel3": kernel}) for kernel in (3, 7)]
    assert np.allclose(encoding.features(np.array(others)), encoding.features(position[None]))
    deep = np.array([encoding.position(short | {"depth": 3, "kernel3": kernel}) for kernel in (3, 7)])
    assert not np.allclose(*encoding.features(deep))


@pytest.mark.parametrize("names", [[f"kernel{i}" for i in range(8)], list("abcdefgh")])
def test_what_one_parameter_taught_is_believed_of_others_of_its_kind(names):
    """Networks of which the last parameter was never changed, and each other choice of 7 makes one point less of loss."""
    space = {name: CategoricalDistribution((3, 5, 7)) for name in names}
    generator, encoding = np.random.default_rng(0), Encoding(space)
    points = generator.integers(3, size=(15, 8)).astype(float)
    points[:, 7] = 0
    losses = -(points == 2).sum(axis=1) + 0.01 * generator.standard_normal(15)
    features, scale = encoding.features(points), LossScale.of(losses)
    theta = fit_hyperparameters(features, encoding.groups, losses)
    model = Surrogate(theta, features, encoding.groups, scale.transform(losses), np.zeros(15))
    mean, deviation = model.predict(encoding.features(np.array([[1.0] * 7 + [last] for last in range(3)])))
    believed = mean[0] - mean[2] > 0.4 * deviation[2]
    assert believed == (names[0] == "kernel0")


def test_it_learns_from_stopped_trials_but_believes_them_less_than_trained_ones():
    space = {"good": CategoricalDistribution(tuple("abcdef")), "rest": FloatDistribution(0, 1)}

    def trial(good, rest, value, *, last=3):
        curve = [(step, value - 10 * (3 - step)) for step in range(1, last + 1)]
        ended = {"value": value, "state": TrialState.COMPLETE} if last == 3 else {"state": TrialState.PRUNED}
        params = {"good": good, "rest": rest}
        return create_trial(params=params, distributions=space, user_attrs={LEARNING_CURVE: curve}, **ended)

    def asked(*more):
        """How many of so many studies try the last choice next."""
        count = 0
        for seed in range(6):
            study = optuna.create_study(direction="maximize", sampler=FrontierSampler(space, seed=seed))
            generator = np.random.default_rng(seed)
            study.add_trials([trial(good, generator.random(), 50 + generator.random()) for good in "abcd" for _ in range(2)])
            study.add_trials(list(more))
            count += study.ask(space).params["good"] == "f"
        return count

    promising = asked(trial("f", 0.2, 60, last=1), trial("f", 0.7, 60, last=1))
    poor = asked(trial("f", 0.2, 30, last=1), trial("f", 0.7, 30, last=1))
    assert promising > poor
    assert promising > 3
    assert poor < 2


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"costs": lambda params: [None]},
            r"costs returned \[None\]; it must return one entry for each of the 2 objectives",
        ),
        ({"costs": lambda params: 7}, "costs raised TypeError: 'int' object is not iterable"),
        ({"costs": lambda params: [None, math.nan]}, "costs returned .*; it must return finite numbers"),
        ({"costs": lambda params: params["nothing"]}, "costs raised KeyError"),
        ({"costs": lambda params: [None, "x"]}, "costs raised ValueError"),
        ({"identity": lambda params: 1 / 0}, "identity raised ZeroDivisionError"),
        ({"identity": lambda params: [1]}, "identity raised TypeError"),
        ({"feasible": lambda params: 1 / 0}, "feasible raised ZeroDivisionError"),
        ({"feasible": lambda params: False}, "none of the 6,561 parameter sets of the space is feasible"),
    ],
)
def test_a_function_that_answers_wrongly_is_named(functions, message):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontierSampler(SPACE, **functions))
    with pytest.raises(NasError, match=message):
        study.ask(SPACE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distributions": ["a"]}, r"distributions: \['a'\] is not a mapping from names to Optuna distributions"),
        ({"distributions": {"a": [1, 2]}}, r"distributions\['a'\]: \[1, 2\] is not an Optuna distribution"),
        ({"costs": (None, 1)}, r"costs: \(None, 1\) is not a function of the parameters"),
        ({"seed": 1.5}, "seed: 1.5 is not an integer of 0 or more, or None"),
        ({"max_trials_per_network": 0}, "max_trials_per_network: 0 is not an integer of 1 or more"),
        ({"max_trials_per_network": "2"}, "max_trials_per_network: '2' is not an integer of 1 or more"),
        ({"seed": -1}, "seed: -1 is not an integer of 0 or more, or None"),
    ],
)
def test_what_no_sampler_can_be_made_of_is_refused(arguments, message):
    with pytest.raises(NasError, match=message):
        FrontierSampler(**{"distributions": SPACE} | arguments)


NOISE = 1.0  # points of accuracy; the best networks of a price differ by less


def noisy_search(trials, *, seed=0, **options):
    """(sampler, study) of as many noisy trainings."""
    sampler, generator = FrontierSampler(SPACE, costs=costs_of, seed=seed, **options), np.random.default_rng(seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, [accuracy(trial.params) + NOISE * generator.standard_normal(), price(trial.params)])
    return sampler, study


def tried(study):
    """Parameters → the values measured."""
    values = {}
    for trial in study.trials:
        values.setdefault(tuple(trial.params.values()), []).append(trial.values[0])
    return values


def test_networks_are_trained_again_only_where_that_is_allowed_and_no_more_often():
    _, once = noisy_search(60)
    _, again = noisy_search(60, max_trials_per_network=3)
    assert len(tried(once)) == 60
    numbers = [len(values) for values in tried(again).values()]
    assert 30 < len(numbers) < 60
    assert max(numbers) <= 3


def test_what_is_believed_of_a_network_is_nearer_to_the_truth_than_what_was_measured():
    sampler, study = noisy_search(60, max_trials_per_network=2)
    beliefs, measured = sampler.beliefs(study), tried(study)
    assert beliefs.keys() == measured.keys()
    truth = {key: accuracy(dict(zip(SPACE, key, strict=True))) for key in measured}
    errors = np.array([[np.mean(values) - truth[key], beliefs[key].mean - truth[key]] for key, values in measured.items()])
    of_measured, of_believed = np.sqrt((errors**2).mean(axis=0))
    assert of_believed < 0.8 * of_measured
    deviations = np.array([beliefs[key].deviation for key in measured])
    assert 0.5 < np.sqrt(((errors[:, 1] / deviations) ** 2).mean()) < 2


def test_before_a_surrogate_is_fitted_nothing_is_believed():
    sampler, study = noisy_search(2)
    assert sampler.beliefs(study) == {}


def test_what_a_trial_is_expected_to_measure_and_to_gain_is_stored():
    _, study = noisy_search(60)
    first, later = study.trials[:6], study.trials[6:]
    assert not any(PREDICTED in trial.system_attrs for trial in first)
    z = [(trial.values[0] - mean) / deviation for trial in later for mean, deviation in [trial.system_attrs[PREDICTED]]]
    assert 0.5 < np.sqrt(np.mean(np.square(z))) < 2
    growth = [trial.system_attrs[GROWTH] for trial in later]
    assert min(growth) > 0
    assert np.mean(growth[-10:]) < 0.5 * np.mean(growth[:10])


def test_functions_may_change_the_parameters_that_they_are_given():
    def identity(params):
        return (params.pop("x0"), *params.values())

    def costs(params):
        assert len(params) == 8
        return None, price(params)

    study = searched(FrontierSampler(SPACE, costs=costs, identity=identity, seed=0), 12)
    assert all(len(trial.params) == 8 for trial in study.trials)


def test_a_value_on_the_way_that_is_not_finite_teaches_nothing():
    space = {"a": FloatDistribution(0, 1)}

    def asked(first):
        study = optuna.create_study(sampler=FrontierSampler(space, seed=0))
        for i in range(10):
            curve = {1: first if i == 0 else i / 10, 2: i / 10}
            study.add_trial(create_trial(params={"a": i / 10}, distributions=space, value=i / 10, intermediate_values=curve))
        stopped = {"params": {"a": 0.4}, "distributions": space, "intermediate_values": {1: 0.4}}
        study.add_trial(create_trial(state=TrialState.PRUNED, **stopped))
        return study.ask(space).params["a"]

    assert asked(math.nan) < 0.1
    assert asked(math.inf) < 0.1


def test_costs_far_outside_the_limits_do_no_harm():
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(4)}

    def costs(params):
        total = sum(params.values())
        return None, 10 + total if total < 2 else 1e6 * total**3

    def feasible(params):
        return sum(params.values()) < 2

    sampler = FrontierSampler(space, costs=costs, feasible=feasible, seed=0)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    for i in range(5):
        study.enqueue_trial(dict.fromkeys(space, 0.6 + i / 20))
    for _ in range(15):
        trial = study.ask(space)
        study.tell(trial, [sum(trial.params.values()), costs(trial.params)[1]])
    assert all(feasible(trial.params) for trial in study.trials[5:])


def test_enqueued_and_fixed_parameters_are_kept():
    study = optuna.create_study(sampler=FrontierSampler(SPACE, costs=lambda params: (None,), seed=0))
    point = dict.fromkeys(SPACE, 2)
    study.enqueue_trial(point)
    assert study.ask(SPACE).params == point
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        inner, study.sampler = study.sampler, optuna.samplers.PartialFixedSampler({"x0": 1}, study.sampler)
    assert study.ask(SPACE).params["x0"] == 1
    assert inner.infer_relative_search_space(study, study.trials[-1]) == SPACE


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_expected_improvement_of_exact_losses_is_the_growth_of_the_hypervolume(number):
    generator = np.random.default_rng(number)
    front, candidates = generator.random((4, number)), generator.random((20, number))
    reference = np.ones(number)
    losses = [ExactLosses(column) for column in candidates.T]
    gains = expected_hypervolume_improvement(losses, front, reference, along=0)
    before = [tuple(map(float, point)) for point in front]
    for candidate, gain in zip(candidates, gains, strict=True):
        after = hypervolume([*before, tuple(map(float, candidate))], tuple(reference.tolist()))
        assert gain == pytest.approx(after - hypervolume(before, tuple(reference.tolist())), abs=1e-9)


def test_the_expected_improvement_of_predicted_losses_is_the_mean_over_their_distribution():
    generator = np.random.default_rng(0)
    scale = LossScale.of(generator.random(20))
    front = np.array([[0.2, 0.8], [0.5, 0.4], [0.9, 0.1]])
    belief = PredictedLosses(scale, np.array([0.3]), np.array([0.4]))
    losses = [belief, ExactLosses(np.array([0.3]))]
    gain = expected_hypervolume_improvement(losses, front, np.ones(2), along=0)
    drawn = scale.inverse(0.3 + 0.4 * generator.standard_normal(40_000))
    samples = [ExactLosses(drawn), ExactLosses(np.full(40_000, 0.3))]
    each = expected_hypervolume_improvement(samples, front, np.ones(2), along=0)
    assert gain[0] == pytest.approx(each.mean(), rel=0.03)
    across = expected_hypervolume_improvement(losses, front, np.ones(2), along=1)
    assert across[0] == pytest.approx(gain[0], rel=1e-6)


def test_the_gradient_of_the_fit_is_right():
    generator = np.random.default_rng(0)
    features, groups = generator.standard_normal((15, 6)), np.array([0, 0, 1, 2, 2, 2])
    targets = generator.standard_normal(15)
    prior = np.array([(-1.0, 1.0)] * 3 + list(AMPLITUDE_PRIORS))
    error = check_grad(
        lambda logs: negative_log_posterior(logs, features, groups, targets, prior)[0],
        lambda logs: negative_log_posterior(logs, features, groups, targets, prior)[1],
        prior[:, 0],
        epsilon=1e-2,
    )
    slope = np.linalg.norm(negative_log_posterior(prior[:, 0], features, groups, targets, prior)[1])
    assert error < 0.05 * slope


def test_the_surrogate_is_good_from_twenty_observations_and_knows_what_it_does_not_know():
    generator = np.random.default_rng(0)
    encoding, off, right = CandidatePool(SPACE, (1,), UserFunctions(), seed=0).encoding, [], []
    for _ in range(4):
        points = encoding.draw(generator, 320)
        losses = np.array([-3 * math.log(price(encoding.params(point))) + (point[0] - point[1]) ** 2 / 8 for point in points])
        features, seen = encoding.features(points), losses[:20] + 0.1 * generator.standard_normal(20)
        scale = LossScale.of(seen)
        theta = fit_hyperparameters(features[:20], encoding.groups, seen)
        model = Surrogate(theta, features[:20], encoding.groups, scale.transform(seen), np.zeros(20))
        mean, deviation = model.predict(features[20:])
        off.append(np.mean(((scale.transform(losses[20:]) - mean) / deviation) ** 2))
        right.append(np.corrcoef(mean, losses[20:])[0, 1])
    assert np.mean(right) > 0.8
    assert 0.3 < np.mean(off) < 3


@pytest.mark.parametrize("diverged", [2, 8])
def test_trainings_that_diverge_do_not_set_the_scale_of_losses(diverged):
    losses = np.append(np.linspace(1, 2, 12 - diverged), np.full(diverged, 1e6))
    good = LossScale.of(losses).transform(losses)[: 12 - diverged]
    assert np.ptp(good) > 0.05  # 1e-6 by the median of the eight
