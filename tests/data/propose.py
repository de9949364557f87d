"""Writes as JSON what the sampler of a registry's package proposes in a short study: propose.py REGISTRY/package."""

import json
import sys

import optuna
import optunahub
from optuna.distributions import CategoricalDistribution, IntDistribution

SPACE = {f"x{i}": CategoricalDistribution((0, 1, 2)) for i in range(6)} | {"size": IntDistribution(4, 12)}
TRIALS = 30


def cost(params):
    return params["size"] * (1 + sum(params.values()))


def proposals(sampler_class, seed=3):
    """The parameters of each trial, of which the tenth fails."""
    sampler = sampler_class(
        SPACE,
        costs=lambda params: (None, cost(params)),
        identity=lambda params: (*sorted(params[f"x{i}"] for i in range(6)), params["size"]),
        feasible=lambda params: cost(params) <= 150,
        max_trials_per_network=2,
        seed=seed,
    )
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(TRIALS):
        trial = study.ask(SPACE)
        values = (trial.params["size"] - abs(trial.params["x0"] - 1) - 0.1 * trial.params["x3"], cost(trial.params))
        study.tell(trial, *((None, optuna.trial.TrialState.FAIL) if trial.number == 9 else (values,)))
    return [trial.params for trial in study.trials]


if __name__ == "__main__":
    package = optunahub.load_local_module("samplers/frontier", registry_root=sys.argv[1])
    sys.stdout.write(json.dumps(proposals(package.FrontierSampler)))
