"""Searches that are played without Ray: networks are asked for and ended as Ray and a worker would."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import nas
from nas.plugins import load_plugin
from nas.runs.run_folder import create_run
from nas.runs.trial import Outcome, Status, Weights
from nas.runs.trial_log import read_history, read_trials
from nas.searching.early_stopping import EarlyStopping
from nas.searching.plan import Session, make_plan, with_latency
from nas.searching.searcher import ArchitectureSearcher
from nas.searching.state import make_state
from nas.training.settings import Epoch

EXPERIMENT: Final = replace(load_plugin("experiment", "digits_mobilenetv3"), trials=12)
SMALLEST: Final = [name for name in nas.references() if name.startswith(("mnasnet", "mobilenetv2_0"))][:6]


@dataclass(frozen=True)
class Twelve(nas.SearchSpace):
    """Twelve parameter sets of six networks: one of the two parameters changes nothing."""

    name = "twelve"
    references: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    parameters: ClassVar[Mapping[str, BaseDistribution]] = {
        "which": CategoricalDistribution(SMALLEST),
        "idle": CategoricalDistribution((0, 1)),
    }

    def decode(self, params: Mapping[str, Any]) -> nas.Architecture:
        return nas.reference(params["which"])

    def encode(self, architecture: nas.Architecture) -> dict[str, Any]:
        return {"which": next(name for name in SMALLEST if nas.reference(name) == architecture), "idle": 0}


@dataclass
class RaysTrial:
    """As much of a trial as Ray's schedulers read."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)


class Played:
    """One session of a run, with a searcher as the driver makes it."""

    def __init__(self, session: Session, *, workers: int) -> None:
        self.run = session.run
        self.state = make_state(session)
        self.searcher = ArchitectureSearcher(self.state, workers=workers)
        stops = session.experiment.stops_early
        self.scheduler = EarlyStopping(self.state.stopping, enabled=stops, interrupted=self.state.interrupted)
        self.configs: dict[str, dict[str, Any]] = {}

    @property
    def tally(self):
        return self.state.log.tally

    @property
    def study(self):
        return self.state.proposer.study

    @property
    def results(self):
        """The table of the run."""
        return nas.results(self.run)

    def ask(self, trial_id):
        """The network of a new trial as text, or what Ray gets instead."""
        config = self.searcher.suggest(trial_id)
        if not isinstance(config, dict):
            return config
        self.configs[trial_id] = config
        return config["networks"][0][1]

    def end(self, trial_id, outcome):
        self.searcher.record(trial_id, {"outcome": json.dumps(outcome.to_record())})

    def finish(self, trial_id, top1, val_loss=1.0):
        """End a trial, of a batch the one under way, as its worker does, with weights in its folder."""
        pending = self.searcher.pending[trial_id][0]
        number, experiment = pending.number, self.state.session.experiment
        epochs = experiment.fine_tune if pending.weights is Weights.FINE_TUNED else 0
        folder = Path(self.state.front_weights.folder(number).uri)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_text(str(number))
        values = {"val_top1_pct": float(top1)}
        outcome = Outcome(status=Status.DONE, values=values, epochs=epochs, seconds=1.0, device="cpu", val_loss=val_loss)
        self.end(trial_id, outcome)

    def epoch(self, trial_id, epoch, top1, images=10**12):
        """An epoch of a trial, as Ray passes it on; whether the trial goes on."""
        result = asdict(Epoch(epoch=epoch, train_loss=1.0, val_top1_pct=top1, val_images=images, seconds=1.0))
        trial = RaysTrial(trial_id, self.configs[trial_id])
        goes_on = self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
        self.searcher.record(trial_id, result)
        if not goes_on:
            self.searcher.on_trial_complete(trial_id, result)
        return goes_on

    def play(self, trials):
        """Ask for networks and finish each with an accuracy made up from its text: their texts."""
        texts = []
        for i in range(trials):
            text = self.ask(f"t{i}")
            if text == Searcher.FINISHED:
                break
            texts.append(text)
            self.finish(f"t{i}", 50 + len(text) % 40)
        return texts

    def cost(self, trial_id):
        """Multiply-adds of a trial, in millions."""
        return self.searcher.pending[trial_id][0].point.values["macs_m"]


def new_run(folder, *, workers=8, **fields) -> Played:
    """The first session of a new run in a folder; `fields` are those of the experiment."""
    experiment = with_latency(replace(EXPERIMENT, runs=str(folder), **fields))
    plan = make_plan(experiment)
    return Played(Session(experiment=experiment, run=create_run(experiment, "test"), plan=plan), workers=workers)


def next_session(run, *, workers=8, **fields) -> Played:
    """Another session of a run, whose experiment is that of `new_run` with other fields."""
    experiment = with_latency(replace(EXPERIMENT, runs=str(run.parent), **fields))
    plan = make_plan(experiment)
    session = Session(experiment=experiment, run=run, plan=plan, number=1, past=read_trials(run), history=read_history(run))
    return Played(session, workers=workers)
