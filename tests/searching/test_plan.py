"""A run is resumed with its own settings and images alone; the rest may change, and is recorded."""

from dataclasses import replace

import pytest

import nas
from tests.simulated_search import EXPERIMENT, new_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    played = new_run(tmp_path_factory.mktemp("resume"), trials=1)
    played.play(1)
    return played.run


@pytest.mark.parametrize("other", [{"seed": 9}, {"train": nas.TrainSettings(epochs=77)}])
def test_another_experiment_is_refused(run, other):
    experiment = replace(EXPERIMENT, trials=1, **other)
    with pytest.raises(nas.NasError, match=f"its {next(iter(other))} was .*, but the experiment passed has .*; begin a new"):
        nas.resume(run, experiment=experiment, trials=3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 3}, "change 'epochs' does not exist"),
        ({"seed": 3}, "seed cannot change"),
        ({"limits": ["macs_m<60"]}, "limits: 'macs_m<60' is a str"),
        ({}, "is finished: 1 of 1 trials have ended"),
    ],
)
def test_a_change_that_cannot_be_is_refused(run, changes, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        nas.resume(run, **changes)
