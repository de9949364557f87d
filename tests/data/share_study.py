"""Asks a study, which others ask too, for eleven networks once it is told to begin: `share_study.py JOURNAL`."""

import sys

import optuna
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas.sampler.frontier import FrontierSampler

optuna.logging.disable_default_handler()
space = {name: IntDistribution(0, 5) for name in "ab"}
storage = JournalStorage(JournalFileBackend(sys.argv[1]))
study = optuna.load_study(study_name="s", storage=storage, sampler=FrontierSampler(space))
input()
for _ in range(11):
    trial = study.ask()
    a = trial.suggest_int("a", 0, 5)
    study.tell(trial, (a - 3) ** 2 + (trial.suggest_int("b", 0, 5) - 2) ** 2)
