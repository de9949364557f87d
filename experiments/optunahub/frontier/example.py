"""Searches the widths of a network of seven layers for much accuracy with few weights, in a space of 5^7 = 78,125 networks.

The accuracy is made up, so that the example takes seconds; put a training in its place. Prints the front.
"""

from itertools import pairwise
from pathlib import Path

import optuna
import optunahub
from optuna.distributions import IntDistribution

SPACE = {f"width{i}": IntDistribution(16, 48, step=8) for i in range(7)}
LIMIT = 9_000  # weights


def num_weights(params: dict[str, int]) -> int:
    """The weights of the dense layers: exact, and computed without a training."""
    widths = list(params.values())
    return sum(before * after for before, after in pairwise(widths))


def accuracy(params: dict[str, int]) -> float:
    """What a training would measure: it saturates with each width, and the narrowest layer counts most."""
    widths = [width / 48 for width in params.values()]
    return 1 - 0.3 * sum((1 - width) ** 2 for width in widths) / len(widths) - 0.2 * (1 - min(widths))


def objective(trial: optuna.Trial) -> tuple[float, int]:
    """The accuracy and the weights of one network."""
    params = {name: trial.suggest_int(name, 16, 48, step=8) for name in SPACE}
    return accuracy(params), num_weights(params)


# After registration, `optunahub.load_module("samplers/frontier")` loads the package from the registry.
package = optunahub.load_local_module("samplers/frontier", registry_root=str(Path(__file__).resolve().parents[2]))
sampler = package.FrontierSampler(
    SPACE,
    costs=lambda params: (None, num_weights(params)),  # in the study's order; None for what needs a training
    feasible=lambda params: num_weights(params) <= LIMIT,
    seed=0,
)
study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
study.optimize(objective, n_trials=40)
for best in sorted(study.best_trials, key=lambda trial: trial.values[1]):
    print(f"{best.values[0]:.3f} with {best.values[1]:,.0f} weights: {tuple(best.params.values())}")
