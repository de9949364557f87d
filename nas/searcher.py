"""The driver's side of a trial: asks Optuna for architectures that are allowed and new, and tells it what became of them.

A Ray Tune Searcher, so that Ray runs the trials, around an Optuna study, so that any of its samplers proposes them. Read
`driver.py` next for how the two are run.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from nas.baselines import Baseline, of_network
from nas.earlier import Known, Start, reused
from nas.errors import NasError, users_code
from nas.experiment import Experiment
from nas.feasibility import Examined, Feasibility, examine
from nas.files import append_line
from nas.keeper import Keeper, Losses, losses_of
from nas.networks import parse_network
from nas.proposer import SEARCHED, Proposer
from nas.recipe import Outcome
from nas.record import CURVE
from nas.runs import HISTORY_FILE, TRIALS_FILE
from nas.scheduler import Halving, Standing
from nas.study import Journal
from nas.trials import Pending, Tally, told

logger = logging.getLogger(__name__)

UNDER_WAY: Final = ("running", "interrupted")


class ArchitectureSearcher(Searcher):
    """Proposes architectures that meet the limits and were never proposed before; writes the trial log.

    `study` is asked and told; `journal` is given each trial once it has ended, for others to look at.
    """

    def __init__(
        self,
        experiment: Experiment,
        study: optuna.Study,
        journal: Journal,
        run: Path,
        *,
        feasible: Feasibility,
        keeper: Keeper,
        workers: int,
        starts: Iterable[Start] = (),
        known: Mapping[str, Known] | None = None,
        past: Iterable[Mapping[str, Any]] = (),
        history: Iterable[Mapping[str, Any]] = (),
        baselines: Iterable[Baseline] = (),
        searches: bool = True,
    ) -> None:
        """`past` has the rows, and `history` the epochs, of the run's earlier sessions.

        `baselines` are trained first, beside the trials that are asked for; without `searches`, they alone.
        """
        super().__init__()
        self.experiment = experiment
        self.journal = journal
        self.run = run
        self.keeper = keeper
        self.workers = workers
        self.feasible = feasible
        self.tally = Tally()
        self.failure: Exception | None = None  # of the log or a user's file; the driver raises it, as Ray would bury it
        self.stopping = False  # no more trials; those under way stop after their epoch
        self.pending: dict[str, Pending] = {}  # by Ray's trial id
        self._halving = Halving(epochs=experiment.train.epochs)
        self._known = known or {}
        self._again: deque[Pending] = deque()  # to be gone on with, before anything new
        self._next = 0  # number of the next trial
        self._baselines = deque(baselines)
        self._searches = searches
        self._proposer = Proposer(experiment, study, self._turned_down)
        self._replay(past, history)
        if searches:
            self._proposer.begin_with([*reused(experiment, self._known.values()), *starts], feasible)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles searchers to resume from, and here the run folder holds the state."""
        return {}

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002 - Ray's
        """Whether the searcher itself keeps to the number of trials at a time: yes."""
        return True

    # What earlier sessions of the run had found.

    def _replay(self, past: Iterable[Mapping[str, Any]], history: Iterable[Mapping[str, Any]]) -> None:
        epochs: dict[int, dict[int, float]] = {}
        standings: list[tuple[int, int, float, int]] = []
        for line in history:
            epochs.setdefault(line["trial"], {})[line["epoch"]] = line["val_top1_pct"]
            standings.append((line["trial"], line["epoch"], line["val_top1_pct"], line["val_images"]))
        costs: dict[int, Losses] = {}
        left_alone: set[int] = set()
        ended: list[int] = []  # baselines
        for row in past:
            params = {name: row[f"params.{name}"] for name in self._proposer.distributions if f"params.{name}" in row}
            if row["status"] == "repeated":
                self.tally.count(row)
                continue
            if "baseline" in row:
                self._replay_baseline(row, epochs)
                if row["status"] == "done":
                    ended.append(int(row["trial"]))
                continue
            network = examine(self.experiment, params)
            if network.id != row["id"]:
                raise NasError(
                    f"space {self.experiment.space.name} has changed: parameters that meant architecture {row['id']} now mean "
                    f"{network.id}; begin a new run, with --reuse {self.run}"
                )
            if "trial" in row:
                number = self._note(row, network)
                costs[number] = self._costs(network)
            if row["status"] not in UNDER_WAY:
                self._tell_past(row, network, epochs.get(int(row.get("trial", -1)), {}))
            elif self._searches:
                self._go_on(row, network, epochs.get(number, {}))
            else:
                left_alone.add(number)
        under_way = {pending.number for pending in self._again} | left_alone
        self.keeper.settle([*(number for number in costs if number not in under_way), *ended])
        for trial, epoch, top1, images in (line for line in standings if line[0] in costs):
            self._halving.goes_on(trial, epoch, Standing.of(top1, images, costs[trial]))

    def _replay_baseline(self, row: Mapping[str, Any], epochs: Mapping[int, dict[int, float]]) -> None:
        network = of_network(self.experiment, row["name"], parse_network(row["architecture"]))
        number = self._note(row, network)
        self.keeper.pinned |= {number} if network.params else set()
        if row["status"] in UNDER_WAY:
            self._log("resume", number)
            self._again.append(_interrupted(row, None, network, epochs.get(number, {})))
        elif row["status"] == "done" and network.admitted and self._is_measured(row):
            self.keeper.note(number, losses_of(self.experiment.objectives, row))

    def _note(self, row: Mapping[str, Any], network: Examined | Baseline) -> int:
        """The number of an earlier trial, whose network is proposed no more."""
        number = int(row["trial"])
        self._next = max(self._next, number + 1)
        self._proposer.seen[network.id] = number
        if not network.values.items() <= row.items():  # a limit on something that was not measured before
            self._log("measured", number, values=dict(network.values))
        return number

    def _go_on(self, row: Mapping[str, Any], network: Examined, epochs: dict[int, float]) -> None:
        """A trial that had not ended: it is to be gone on with, unless a limit now forbids it."""
        trial, _ = self._proposer.given(network.params)
        pending = _interrupted(row, trial, network, epochs)
        known = self._known.get(network.id)
        if network.admitted and known is not None:
            self._take_over(pending, known)
        elif network.admitted:
            self._log("resume", pending.number)
            self._again.append(pending)
        else:
            self._end(pending, {"status": "stopped", "reason": "limit"})

    def _tell_past(self, row: Mapping[str, Any], network: Examined, epochs: Mapping[int, float]) -> None:
        self.tally.count(row)
        if row["status"] == "infeasible":
            self._proposer.refused.add(network.id)
        done, curve = row["status"] == "done", self._curve(epochs)
        values = [float(row[objective.name]) for objective in self.experiment.objectives] if done else None
        attributes = ({"trial": row["trial"]} if "trial" in row else {}) | ({CURVE: curve} if curve else {})
        with users_code(f"space {self.experiment.space.name} has changed: a trial of {self.run}"):
            frozen = self._proposer.tell_past(network, row["status"], values, attributes)
        if "trial" in row:
            self.journal.add(frozen)
        if values is not None and network.admitted:
            self.keeper.note(int(row["trial"]), losses_of(self.experiment.objectives, row))

    # What Ray asks and tells.

    def suggest(self, trial_id: str) -> Any:
        """The next architecture for Ray to run, None for not now, or FINISHED."""
        if self.failure is not None or self.stopping:
            return Searcher.FINISHED
        if len(self.pending) >= self.workers:
            return None
        try:
            pending = self._again.popleft() if self._again else self._new()
        except NasError as error:
            self.failure = error
            return Searcher.FINISHED
        if pending is None:
            return None if self.pending else Searcher.FINISHED  # one under way may have to be begun again
        pending.started = time.monotonic()
        self.pending[trial_id] = pending
        return {"trial": pending.number, "architecture": pending.network.text}

    def _new(self) -> Pending | None:
        """A trial of a network that is to be trained, written to the log; None if there is to be none."""
        if self._baselines:
            return self._baseline(self._baselines.popleft())
        while self._searches and self._begun < self.experiment.trials and not self.exhausted:
            asked = self._proposer.ask()
            if asked is None:
                logger.warning("no further network was found that meets the limits and is new; the search ends early")
                return None
            trial, network = asked
            pending = Pending(number=self._next, trial=trial, network=network)
            known = self._known.get(network.id)
            origin = {name: trial.user_attrs[name] for name in ("source", "name") if name in trial.user_attrs}
            if known is not None:
                origin = {"source": "reuse", "name": known.name}
            self._begin(pending, **SEARCHED | origin)
            if known is None:
                return pending
            self._take_over(pending, known)
        return None

    @property
    def _begun(self) -> int:
        """Trials of the search that have ended, or are under way."""
        return self.tally.ended + sum(pending.trial is not None for pending in self.pending.values())

    def _baseline(self, network: Baseline) -> Pending:
        pending = Pending(number=self._next, trial=None, network=network)
        self._begin(pending, source="reference", name=network.name, baseline=True)
        self.keeper.pinned |= {pending.number} if network.params else set()
        return pending

    def _begin(self, pending: Pending, **origin: Any) -> None:
        network = pending.network
        what = {"id": network.id, "values": dict(network.values), "params": network.params, "architecture": network.text}
        self._log("start", pending.number, **what | origin)
        self._next += 1
        self._proposer.seen[network.id] = pending.number

    def _take_over(self, pending: Pending, known: Known) -> None:
        """The outcome that another run had."""
        outcome = {"status": "done", "values": dict(known.values), "reused": True, **known.measured}
        self._end(pending, outcome, weights=known.weights)

    def _turned_down(self, what: str, network: Examined, origin: Mapping[str, str]) -> None:
        """Log an ask for what is not to be trained."""
        self.tally.count({"status": what})
        self._log(what, None, id=network.id, values=dict(network.values), params=network.params, **origin)

    def goes_on(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether a trial that has told of an epoch, or its outcome, goes on."""
        if "epoch" not in result:
            return True
        pending = self.pending.get(trial_id)
        if pending is None:
            return True
        if isinstance(pending.network, Baseline):
            return not self.stopping  # it is to be known to its end
        standing = Standing.of(result["val_top1_pct"], result["val_images"], self._costs(pending.network))
        judged = self._halving.goes_on(pending.number, result["epoch"], standing)
        return not self.stopping and (judged or not self.experiment.stops_early)

    def record(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Log what a trial tells: an epoch, or its outcome."""
        if trial_id not in self.pending or self.failure is not None:
            return
        if "outcome" in result:
            self._finish(trial_id, json.loads(result["outcome"]))
        elif "epoch" in result:
            fields = ("epoch", "train_loss", "val_top1_pct", "val_images", "seconds")
            with self._failing():
                self._epoch(self.pending[trial_id], {name: result[name] for name in fields})

    def on_trial_complete(  # the signature is Ray's
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Log that a trial was stopped; of one with an error, `lost` is told the reason next."""
        if not error and trial_id in self.pending and not self.stopping:
            self._finish(trial_id, {"status": "stopped"})

    def lost(self, trial_id: str, node: str | None, alive: Collection[str], *, reason: str = "crash") -> None:
        """A trial's worker process died, on a machine that is among those `alive` or was lost too: it begins again, or not.

        The reason is crash, or oom where it was ended as it took too much memory.
        """
        pending = self.pending.get(trial_id)
        if pending is None or self.failure is not None or self.stopping:
            return
        pending.lost_on.append(node)
        given_up = pending.given_up(alive, reason, self.experiment.trial_timeout)
        if given_up is not None:
            self._finish(trial_id, given_up.to_record())
            return
        with self._failing():
            self._log("retry", pending.number, retries=len(pending.lost_on), crashes=pending.crashes(alive))
            logger.info("trial %d begins again: the worker process died, or its machine was lost", pending.number)
            self._again.append(self.pending.pop(trial_id))

    def fail(self, trial_id: str, error: str) -> None:
        """A trial ended with an error of ours, or of what it was sent with: it would end so again."""
        if trial_id in self.pending and self.failure is None:
            self._finish(trial_id, Outcome(status="failed", reason="crash", error=error).to_record())

    @property
    def exhausted(self) -> bool:
        """Whether the space holds no further network that is allowed and new, or the sampler proposes none."""
        return self._proposer.exhausted

    def interrupt(self) -> bool:
        """Whether the search ended before its time; trials that had not ended can then be gone on with."""
        left = [*self.pending.values(), *self._again]
        early = bool(left or self._baselines)
        early |= self._searches and not self.exhausted and self.tally.ended < self.experiment.trials
        for pending in left:
            self._log("interrupt", pending.number, **pending.so_far)
        self.pending.clear()
        return early

    # What is written and told.

    def _epoch(self, pending: Pending, epoch: Mapping[str, Any]) -> None:
        if epoch["epoch"] not in pending.epochs:
            pending.epochs[epoch["epoch"]] = epoch["val_top1_pct"]
            append_line(self.run / HISTORY_FILE, {"trial": pending.number, **epoch})

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What cannot be written is the end of the search, which the driver raises."""
        try:
            yield
        except NasError as error:
            self.failure = error

    def _finish(self, trial_id: str, outcome: dict[str, Any]) -> None:
        with self._failing():
            pending = self.pending.pop(trial_id)
            for epoch in outcome.pop("history", ()):  # those that were trained, but not told before the worker died
                self._epoch(pending, epoch)
            self._end(pending, outcome)

    def _curve(self, epochs: Mapping[int, float]) -> list[tuple[int, float]]:
        """Epochs and the values after them of the objective that needs training, if that is what was measured."""
        trained = next((objective.name for objective in self.experiment.objectives if objective.needs_training), None)
        return list(epochs.items()) if trained == "val_top1_pct" else []

    def _end(self, pending: Pending, outcome: dict[str, Any], weights: Path | None = None) -> None:
        """Write the outcome of a trial to the logs, and tell it; keep its weights, from `weights` if they are there."""
        status, so_far = outcome["status"], pending.so_far
        values = so_far["values"] | outcome.get("values", {}) if status != "failed" else dict(pending.network.values)
        self._log("end", pending.number, **({"epochs": so_far["epochs"]} | outcome | {"values": values}))
        objectives = self.experiment.objectives
        if status == "done":
            candidate = pending.network.admitted and self._is_measured(values)
            self.keeper.done(pending.number, losses_of(objectives, values) if candidate else None, weights=weights)
        else:
            self.keeper.ended(pending.number)
        if pending.trial is not None:
            if curve := self._curve(pending.epochs):
                pending.trial.set_user_attr(CURVE, curve)
            state = {"done": None, "stopped": TrialState.PRUNED}.get(status, TrialState.FAIL)
            results = [values[objective.name] for objective in objectives] if status == "done" else None
            frozen = self._proposer.tell(pending.trial, results, state)
            frozen.set_user_attr("trial", pending.number)
            self.journal.add(frozen)
            self.tally.count(outcome)
        logger.info("%s", told(pending, outcome, values, self.experiment, self.tally))

    def _log(self, event: str, trial: int | None, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_line(self.run / TRIALS_FILE, {"event": event, "time": now} | ({} if trial is None else {"trial": trial}) | fields)

    def _is_measured(self, values: Mapping[str, Any]) -> bool:
        return all(objective.name in values for objective in self.experiment.objectives)

    def _costs(self, network: Examined) -> Losses:
        """The objectives that are known before training, each the lower the better."""
        return losses_of([objective for objective in self.experiment.objectives if not objective.needs_training], network.values)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state. Ray calls this after every trial."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the run folder holds the state."""


def _interrupted(
    row: Mapping[str, Any], trial: optuna.Trial | None, network: Examined | Baseline, epochs: dict[int, float]
) -> Pending:
    """A trial as an earlier session left it; where its processes died is no longer known."""
    lost_on: list[str | None] = [None] * int(row.get("crashes", 0))
    return Pending(number=int(row["trial"]), trial=trial, network=network, epochs=epochs, lost_on=lost_on)
