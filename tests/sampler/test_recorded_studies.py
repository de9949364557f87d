"""FrontierSampler proposes in eight studies what it proposed when they were recorded, to the last bit.

A change that means to propose otherwise records them anew: `python -m tests.sampler.test_recorded_studies`. A processor whose
sums round otherwise may break a tie otherwise; record on the commit before, then.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

import nas
from nas import FrontierSampler
from search_spaces.mobilenetv3 import MobileNetV3Space

FILE = Path(__file__).parents[1] / "data" / "recorded_studies.json"
CHOICES = {f"x{i}": CategoricalDistribution((0, 1, 2)) for i in range(8)}
FLOATS = {f"x{i}": FloatDistribution(0, 1) for i in range(5)}
MIXED = {
    "kind": CategoricalDistribution(("a", None, True)),
    "depth": IntDistribution(1, 4),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "width": IntDistribution(16, 2048, log=True),
    "drop": FloatDistribution(0.0, 0.5, step=0.1),
}
LAYERS = {"depth": IntDistribution(1, 3)} | {f"kernel{i}": CategoricalDistribution((3, 5, 7)) for i in range(1, 4)}


def price(params):
    return float(sum((1, 2, 4)[value] * (1 + i // 4) for i, value in enumerate(params.values())))


def accuracy(params):
    """Higher with the price, and by choices that matter together."""
    values = list(params.values())
    return 80 + 3 * math.log(price(params)) + sum((one - other) ** 2 for one, other in itertools.pairwise(values)) / 4


def loss(params):
    return sum((value - i % 3) ** 2 for i, value in enumerate(params.values())) / 4


def searched(sampler, space, directions, answer, *, trials, workers=1, before=()):
    """The parameters of each trial; they end in the order in which they were asked for."""
    study = optuna.create_study(directions=directions, sampler=sampler)
    for trial in before:
        study.enqueue_trial(trial) if isinstance(trial, dict) else study.add_trial(trial)
    first, pending = len(study.get_trials(states=(TrialState.COMPLETE,))), []
    for _ in range(trials):
        while len(pending) < workers:
            pending.append(study.ask(space))
        answer(study, pending.pop(0))
    return [trial.params for trial in study.trials[first:]]


def values(measure):
    return lambda study, trial: study.tell(trial, measure(trial.params))


def one_objective():
    return searched(FrontierSampler(CHOICES, seed=0), CHOICES, ["minimize"], values(loss), trials=30)


def costs_and_limits_and_four_workers():
    def identity(params):
        every = list(params.values())
        return (*sorted(every[:4]), *every[4:])

    sampler = FrontierSampler(
        CHOICES,
        costs=lambda params: (None, price(params)),
        identity=identity,
        feasible=lambda params: 20 <= price(params) <= 36,
        seed=1,
    )
    answer = values(lambda params: [accuracy(params), price(params)])
    return searched(sampler, CHOICES, ["maximize", "minimize"], answer, trials=36, workers=4)


def four_objectives_over_parameters_of_every_kind():
    def measure(params):
        rate, depth = (math.log10(params["rate"]) + 2) ** 2, params["depth"]
        return [rate + (params["kind"] != "a") + params["drop"], depth, math.log(params["width"]), -((depth - 3) ** 2) - rate]

    sampler = FrontierSampler(MIXED, costs=lambda params: [None, *measure(params)[1:3], None], seed=2)
    return searched(sampler, MIXED, ["minimize", "maximize", "minimize", "maximize"], values(measure), trials=30, workers=2)


def failures_and_stopped_trials():
    def answer(study, trial):
        end = loss(trial.params)
        for step in range(1, 4):
            trial.report(end + 3 - step, step)
            if trial.number % 3 == 0 and end > 1 and step == 2:
                return study.tell(trial, state=TrialState.PRUNED)
        if trial.params["x0"] == 0 and trial.params["x1"] != 2:
            return study.tell(trial, state=TrialState.FAIL)
        return study.tell(trial, 1e6 if trial.params["x2"] == 1 and trial.params["x3"] == 1 else end)

    return searched(FrontierSampler(CHOICES, seed=3), CHOICES, ["minimize"], answer, trials=40, workers=3)


def floats():
    def answer(study, trial):
        params = trial.params
        trial.set_user_attr("learning_curve", [[1, params["x0"]], [2, 0.5 + (params["x0"] - 0.3) ** 2]])
        if trial.number % 7 == 6:
            return study.tell(trial, state=TrialState.PRUNED)
        return study.tell(trial, [sum((x - 0.3) ** 2 for x in params.values()), 10 + sum(params.values()) ** 3])

    sampler = FrontierSampler(
        FLOATS,
        costs=lambda params: (None, 10 + sum(params.values()) ** 3),
        feasible=lambda params: sum(params.values()) < 2.5,
        seed=4,
    )
    return searched(sampler, FLOATS, ["minimize", "maximize"], answer, trials=30)


def fixed_parameters():
    inner = FrontierSampler(CHOICES, feasible=lambda params: 4 <= sum(params.values()) <= 9, seed=5)
    before = [{"x1": 2, "x2": 2}, {"x6": 1}, dict.fromkeys(CHOICES, 1)]
    sampler = optuna.samplers.PartialFixedSampler({"x0": 2, "x5": 1}, inner)
    return searched(sampler, CHOICES, ["minimize"], values(loss), trials=30, before=before)


def a_small_space_after_many_trials():
    """All is tried in the end but what is enqueued; more trials are told than are modelled."""

    def identity(params):
        return tuple(params[f"kernel{i}"] for i in range(1, params["depth"] + 1))

    def measure(params):
        return [sum(identity(params)) - 3.5 * params["depth"], float(params["depth"])]

    points = [dict(zip(LAYERS, point, strict=True)) for point in itertools.product((1, 2, 3), *[(3, 5, 7)] * 3)]
    some = [point for point in points if sum(identity(point)) < 12]
    told = [create_trial(params=point, distributions=LAYERS, values=measure(point)) for point in (some * 9)[:420]]
    sampler = FrontierSampler(LAYERS, costs=lambda params: (None, float(params["depth"])), identity=identity, seed=6)
    return searched(sampler, LAYERS, ["minimize", "minimize"], values(measure), trials=12, before=told)


def mobilenetv3():
    space = MobileNetV3Space(width_multiple=0.35, resolutions=(32,), stem_stride=1, skeletons=("small",))

    def macs(params):
        return nas.cost(space.decode(params), 10).macs / 1e6

    sampler = FrontierSampler(
        space.parameters,
        costs=lambda params: (None, macs(params)),
        identity=lambda params: space.decode(params).id,
        feasible=lambda params: macs(params) < 4,
        seed=7,
    )
    deep = [name for name in space.parameters if name.endswith("depth")]
    answer = values(lambda params: [math.log(macs(params)) + 0.1 * sum(params[name] for name in deep), macs(params)])
    return searched(sampler, dict(space.parameters), ["maximize", "minimize"], answer, trials=30, workers=2)


STUDIES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    study.__name__: study
    for study in (
        one_objective,
        costs_and_limits_and_four_workers,
        four_objectives_over_parameters_of_every_kind,
        failures_and_stopped_trials,
        floats,
        fixed_parameters,
        a_small_space_after_many_trials,
        mobilenetv3,
    )
}


def digests(proposals: list[dict[str, Any]]) -> Iterator[str]:
    """One for each parameter set; equal for equal bits alone."""
    for params in proposals:
        yield hashlib.sha256(json.dumps(params).encode()).hexdigest()[:8]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore:no network was found")
@pytest.mark.parametrize("name", STUDIES)
def test_the_proposals_are_the_recorded_ones(name):
    assert list(digests(STUDIES[name]())) == json.loads(FILE.read_text())[name]


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    FILE.write_text(json.dumps({name: list(digests(study())) for name, study in STUDIES.items()}, indent=1) + "\n")
