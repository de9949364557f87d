"""The searcher proposes only what is allowed and new, and everything it does is in the log. No Ray is started here."""

import json
import pickle
import random
import re
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from ray.tune.search import Searcher
from scipy.stats import ks_2samp

import nas
from nas.earlier import outcomes, starts
from nas.feasibility import Feasibility, check_limits, examine
from nas.files import read_lines
from nas.housekeeping import removable
from nas.keeper import Keeper
from nas.objectives import Objective, objective, parse_limit
from nas.pareto import dominates
from nas.plugins import load_plugin
from nas.recipe import Epoch, Outcome
from nas.runs import HISTORY_FILE, TRIALS_FILE, create_run, locked, mend_logs
from nas.searcher import ArchitectureSearcher
from nas.spaces import first_choices, sample
from nas.storage import TrialFolder
from nas.study import Journal, create_study, make_sampler
from nas.table import best, rows

SAMPLERS = ("random", "tpe", "nsga2", "nsga3", "gp", "qmc")
EXPERIMENT = replace(load_plugin("experiment", "digits_mobilenetv3"), trials=12)


@dataclass(frozen=True)
class Twelve:
    """Twelve parameter sets of six networks: one of the two parameters changes nothing."""

    name = "twelve"
    references: ClassVar = {}
    parameters: ClassVar = {
        "which": CategoricalDistribution(
            tuple(name for name in nas.references() if name.startswith(("mnasnet", "mobilenetv2_0")))[:6]
        ),
        "idle": CategoricalDistribution((0, 1)),
    }

    def decode(self, params):
        return nas.reference(params["which"])

    def encode(self, architecture):
        return {
            "which": next(name for name in self.parameters["which"].choices if nas.reference(name) == architecture),
            "idle": 0,
        }


def searcher(tmp_path, *, run=None, workers=8, session=0, **fields):
    """A searcher of a new run, or of one more session of a run that is there."""
    experiment = replace(EXPERIMENT, runs=str(tmp_path), **fields)
    past = () if run is None else rows(run)
    history = () if run is None else list(read_lines(run / HISTORY_FILE))
    run = run or create_run(experiment, "test")
    sampler = make_sampler(experiment, session=session)
    found = ArchitectureSearcher(
        experiment,
        create_study(experiment.objectives, sampler, run.name),
        Journal(run, experiment.objectives),
        run,
        feasible=check_limits(experiment),
        keeper=Keeper(run=run, folder=partial(TrialFolder.of, str(run / "checkpoints")), keep_all=False, trained=True),
        workers=workers,
        starts=starts(experiment),
        known=outcomes(experiment),
        past=past,
        history=history,
    )
    return found, run


def study(found):
    return found._proposer.study


def finish(found, trial_id, top1):
    """End a trial as its worker would, with weights in its folder."""
    pending = found.pending[trial_id]
    folder = Path(found.keeper.folder(pending.number).uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_text(str(pending.number))
    outcome = Outcome(status="done", values={"val_top1_pct": top1}, seconds=1.0, device="cpu", precision="float32")
    found.record(trial_id, {"outcome": json.dumps(outcome.to_record())})


def tell(found, trial_id, epoch, top1, images=10**12):
    """An epoch of a trial, as Ray passes it on: whether it goes on is asked first; one that does not is ended."""
    result = {"epoch": epoch, "train_loss": 1.0, "val_top1_pct": top1, "val_images": images, "seconds": 1.0}
    goes_on = found.goes_on(trial_id, result)
    found.record(trial_id, result)
    if not goes_on:
        found.on_trial_complete(trial_id, result)
    return goes_on


def play(found, trials):
    """Ask for trials and finish each with an accuracy made up from its text."""
    configs = []
    for i in range(trials):
        config = found.suggest(f"t{i}")
        if config == Searcher.FINISHED:
            break
        configs.append(config)
        finish(found, f"t{i}", 50 + len(config["architecture"]) % 40)
    return configs


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_proposes_only_new_networks_within_the_limits(tmp_path, sampler):
    limit = parse_limit("macs_m<0.8")
    found, run = searcher(tmp_path, sampler=sampler, limits=(limit,))
    configs = play(found, 12)
    architectures = [nas.Architecture.from_json(config["architecture"]) for config in configs]
    assert len({architecture.id for architecture in architectures}) == 12
    assert all(nas.cost(architecture, 10).macs <= 0.8e6 for architecture in architectures)
    df = nas.results(run)
    assert Counter(df["status"]) == {"done": 12} | ({"infeasible": found.tally.infeasible} if found.tally.infeasible else {})
    assert df[df["status"] == "infeasible"]["macs_m"].min() > 0.8 or not found.tally.infeasible
    assert {trial.state.name for trial in study(found).trials} <= {"COMPLETE", "PRUNED", "FAIL"}


def test_the_same_seed_proposes_the_same_networks(tmp_path):
    one, other = (play(searcher(tmp_path / name, seed=3)[0], 8) for name in "ab")
    assert [config["architecture"] for config in one] == [config["architecture"] for config in other]
    assert play(searcher(tmp_path / "c", seed=4)[0], 8) != one


def test_a_network_is_trained_once_and_an_exhausted_space_ends_the_search(tmp_path):
    found, run = searcher(tmp_path, space=Twelve(), trials=50)
    configs = play(found, 50)
    assert len(configs) == 6
    assert found.suggest("more") == Searcher.FINISHED
    assert len({config["architecture"] for config in configs}) == 6
    assert found.tally.repeated > 0
    assert Counter(nas.results(run)["status"]) == {"done": 6, "repeated": found.tally.repeated}


def test_the_references_within_the_limits_come_first(tmp_path):
    space = nas.space("mobilenetv3")
    found, run = searcher(tmp_path, space=space, limits=(parse_limit("macs_m<100"),))
    play(found, 4)
    df = nas.results(run)
    done = df[df["status"] == "done"]
    assert list(done["name"][:2]) == ["mobilenetv3_small_100", "tf_mobilenetv3_small_minimal_100"]
    small, small_run = searcher(tmp_path)
    play(small, 2)
    assert list(nas.results(small_run)["source"]) == ["reference", "search"]
    assert nas.results(small_run)["name"][0] == "like mobilenetv3_small_100"  # at another width and resolution
    assert list(done["architecture"][:1]) == [nas.reference("mobilenetv3_small_100").to_json()]
    assert "mobilenetv3_large_100" not in set(done["name"])


def test_a_failed_trial_is_a_row_and_is_told_to_optuna_as_failed(tmp_path):
    found, run = searcher(tmp_path)
    found.suggest("a"), found.suggest("b"), found.suggest("c")
    failed = Outcome(status="failed", reason="nan", error="the loss was nan")
    found.record("a", {"outcome": json.dumps(failed.to_record())})
    found.on_trial_complete("b", None, error=True)
    found.fail("b", "ImportError: no module")
    with locked(run):
        df = nas.results(run)
    assert list(df["status"]) == ["failed", "failed", "running"]
    assert list(df["reason"][:2]) == ["nan", "crash"]
    assert [trial.state.name for trial in study(found).trials] == ["FAIL", "FAIL", "RUNNING"]


def test_optuna_learns_each_objective_in_its_own_direction_and_how_far_outside_a_limit_an_ask_was(tmp_path):
    found, _ = searcher(tmp_path, sampler="random", limits=(parse_limit("macs_m<0.6"),))
    play(found, 5)
    assert [direction.name for direction in study(found).directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in study(found).trials:
        (excess,) = trial.constraints.values()
        assert (excess <= 0) == (trial.state.name == "COMPLETE")
        if trial.values:
            assert trial.values[1] == pytest.approx(0.6 + excess)


def test_optunas_journal_can_be_opened_by_others(tmp_path):
    found, run = searcher(tmp_path)
    play(found, 3)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run / "optuna.log")))
    opened = optuna.load_study(study_name=run.name, storage=storage)
    assert [trial.values for trial in opened.trials] == [trial.values for trial in study(found).trials]
    assert [trial.user_attrs["trial"] for trial in opened.trials] == [0, 1, 2]
    assert opened.trials[0].params == study(found).trials[0].params
    assert opened.metric_names == ["val_top1_pct", "macs_m"]


def test_limits_that_nothing_meets_are_refused_with_what_there_is(tmp_path):
    experiment = replace(EXPERIMENT, limits=(parse_limit("macs_m<0.1"), parse_limit("params_m<0.001")))
    with pytest.raises(
        nas.NasError,
        match=r"meets macs_m<=0\.1 and params_m<=0\.001: over the [\d,]+ nearest and random points tried macs_m goes from 0\.",
    ):
        check_limits(experiment)
    assert str(check_limits(replace(EXPERIMENT, limits=()))).startswith("100.0 % ± ")
    feasible = check_limits(replace(EXPERIMENT, limits=(parse_limit("macs_m<0.8"),)))
    assert 0 < feasible.fitting < feasible.points == 4_000


def test_limits_that_chance_would_not_meet_are_found_to_be_met_and_searched(tmp_path):
    limit = parse_limit("macs_m<0.275")  # of 1,000 random networks the smallest has 0.32
    assert check_limits(replace(EXPERIMENT, limits=(limit,))).fitting == 0
    found, run = searcher(tmp_path, limits=(limit,), sampler="random")
    assert len(play(found, 1)) == 1
    assert nas.results(run).query("status == 'done'")["macs_m"].max() <= 0.275


@pytest.mark.parametrize(
    ("measure", "sentence"),
    [
        (lambda candidate: float("nan"), "objective own_ms gave nan for a network; it must give a finite number"),
        (lambda candidate: None, "objective own_ms gave None for a network"),
        (lambda candidate: 1 / 0, "objective own_ms raised ZeroDivisionError: division by zero"),
        (lambda candidate: open("/nowhere"), "objective own_ms raised FileNotFoundError: "),  # noqa: PTH123, SIM115
    ],
)
def test_an_objective_of_ones_own_that_fails_before_training_is_one_sentence(tmp_path, measure, sentence):
    own = Objective(name="own_ms", direction="minimize", needs_training=False, measure=measure)
    with pytest.raises(nas.NasError, match=sentence):
        searcher(tmp_path, objectives=(objective("val_top1_pct"), own))


def test_a_space_of_ones_own_that_fails_ends_the_search_with_what_it_raised(tmp_path):
    class Broken(Twelve):
        def decode(self, params):
            raise ValueError("no such network")

    with pytest.raises(nas.NasError, match="space twelve: decode raised ValueError: no such network"):
        searcher(tmp_path, space=Broken())


def test_a_sampler_that_has_proposed_all_it_will_ends_the_search(tmp_path):
    grid = {"which": Twelve.parameters["which"].choices[:3], "idle": [0]}
    found, run = searcher(tmp_path, space=Twelve(), sampler=optuna.samplers.GridSampler(grid), trials=50)
    assert len(play(found, 50)) == 3
    assert set(nas.results(run)["status"]) == {"done"}


def test_trials_under_way_when_a_search_is_interrupted_end_as_that(tmp_path):
    found, run = searcher(tmp_path)
    play(found, 1)
    found.suggest("x")
    assert found.interrupt()
    assert list(nas.results(run)["status"]) == ["done", "interrupted"]
    found, _ = searcher(tmp_path, trials=1)
    play(found, 1)
    assert not found.interrupt()


def test_ray_pickles_nothing_of_a_searcher(tmp_path):
    """A sampler may hold what cannot be pickled, such as a lock."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    sampler.lock = threading.Lock()
    found, _ = searcher(tmp_path, sampler=sampler)
    assert pickle.loads(pickle.dumps(found)).__dict__ == {}


def test_a_limit_on_something_that_is_no_objective_has_its_column(tmp_path):
    found, run = searcher(tmp_path, limits=(parse_limit("params_m<10"),), objectives=(objective("val_top1_pct"),))
    play(found, 2)
    assert nas.results(run)["params_m"].between(0, 10).all()


def test_any_optuna_sampler_can_be_given(tmp_path):
    sampler = optuna.samplers.RandomSampler(seed=1)
    assert make_sampler(replace(EXPERIMENT, sampler=sampler)) is sampler
    assert len(play(searcher(tmp_path, sampler=sampler)[0], 3)) == 3
    with pytest.raises(nas.NasError, match="sampler 'nsga' does not exist; did you mean 'nsga"):
        make_sampler(replace(EXPERIMENT, sampler="nsga"))


def test_the_log_has_a_line_for_every_ask_but_repeats(tmp_path):
    found, run = searcher(tmp_path, limits=(parse_limit("macs_m<0.7"),), sampler="random")
    play(found, 6)
    events = Counter(event["event"] for event in read_lines(run / TRIALS_FILE))
    assert events == {"start": 6, "end": 6, "infeasible": found.tally.infeasible}
    assert found.tally.infeasible > 0


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_few_asks_are_turned_down_where_one_network_in_a_hundred_fits(tmp_path, sampler):
    """Over 200 trials, fewer than 20 a trial."""
    found, _ = searcher(tmp_path, sampler=sampler, limits=(parse_limit("macs_m<0.417"),), trials=200)
    assert 0.5 < 100 * found.feasible.fitting / found.feasible.points < 2
    assert len(play(found, 200)) == 200
    assert found.tally.infeasible / 200 < 20
    if sampler == "tpe":  # which learns what fits
        assert found.tally.infeasible / 200 < 8


def test_random_search_stays_uniform_over_what_fits(tmp_path):
    """No network is moved inside the limits: every one is a random point."""
    limits = (parse_limit("macs_m<0.45"),)
    found, run = searcher(tmp_path, sampler="random", limits=limits, trials=60)
    play(found, 60)
    generator, fitting = random.Random(1), []
    while len(fitting) < 60:
        network = examine(found.experiment, sample(found.experiment.space.parameters, generator))
        fitting += [network.values["macs_m"]] if network.admitted else []
    searched = nas.results(run).query("status == 'done' and source == 'search'")["macs_m"]
    assert ks_2samp(searched, fitting).pvalue > 0.001


def test_the_share_that_fits_comes_with_its_confidence_interval(tmp_path):
    limits = (parse_limit("macs_m<0.8"),)
    feasible = check_limits(replace(EXPERIMENT, limits=limits))
    share, half = map(float, re.fullmatch(r"([\d.]+) % ± ([\d.]+)", str(feasible)).groups())
    generator = random.Random(99)
    experiment = replace(EXPERIMENT, limits=limits)
    points = [sample(experiment.space.parameters, generator) for _ in range(20_000)]
    true = 100 * sum(examine(experiment, point).admitted for point in points) / len(points)
    assert abs(share - true) < 1.5 * half
    assert 1.0 < half < 2.0  # 1.96 standard errors of a share near a half, over 4,000 points
    nothing = Feasibility(fitting=0, points=4_000, example={}, worst={})
    assert str(nothing) == "less than 0.1 %"


def test_a_repeated_network_is_a_row_that_names_its_trial(tmp_path):
    found, run = searcher(tmp_path, space=Twelve(), trials=50)
    play(found, 50)
    df = nas.results(run)
    repeated, done = df[df["status"] == "repeated"], df[df["status"] == "done"].set_index("id")
    assert len(repeated) == found.tally.repeated > 0
    for row in repeated.itertuples():
        assert row.name == f"trial {done.loc[row.id, 'trial']}"
    assert not repeated["is_front"].any()


def test_beside_what_a_sampler_repeats_lies_something_new(tmp_path):
    """And it is not asked over and over."""
    point = first_choices(EXPERIMENT.space.parameters)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        stubborn = optuna.samplers.PartialFixedSampler(point, optuna.samplers.RandomSampler())
    found, run = searcher(tmp_path, sampler=stubborn)
    play(found, 8)
    df = nas.results(run)
    tried = df[df["status"] == "done"].iloc[len(EXPERIMENT.space.references) :]
    changed = [sum(row[f"params.{name}"] != value for name, value in point.items()) for _, row in tried.iterrows()]
    assert changed == [0] + [1] * 6
    assert found.tally.repeated == 2 * 6


def test_an_outcome_of_another_run_is_taken_over_and_not_trained(tmp_path):
    first, run = searcher(tmp_path / "a", trials=4)
    play(first, 4)
    df = nas.results(run).set_index("id")
    # the same seed asks for the same networks first
    found, second = searcher(tmp_path / "b", trials=3, reuse=(str(run),))
    configs = play(found, 3)
    assert len(configs) == 3
    assert found.tally.reused >= 1
    again = nas.results(second)
    reused = again[again["source"] == "reuse"]
    assert len(reused) == found.tally.reused
    for row in reused.itertuples():
        assert row.status == "done"
        assert row.val_top1_pct == df.loc[row.id, "val_top1_pct"]
        assert row.name == f"{run.name} trial {df.loc[row.id, 'trial']}"
        assert row.seconds == 1.0
    trained = {nas.Architecture.from_json(config["architecture"]).id for config in configs}
    assert trained.isdisjoint(df.index)
    kept = {path.stem for path in (second / "checkpoints").iterdir()}
    assert kept == set(map(str, again["trial"][again["is_front"]]))
    assert study(found).trials[0].values == list(df.iloc[0][["val_top1_pct", "macs_m"]])  # the sampler learns of it


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"train": nas.TrainSettings(epochs=3)}, "reuse .*: its train.epochs is 10, and here it is 3; its outcomes are of other"),
        ({"dataset": nas.dataset("mnist")}, "its dataset.name is 'digits', and here it is 'mnist'"),
        ({"reuse": ("nowhere",)}, "nowhere is not a run folder"),
        (
            {
                "objectives": (
                    Objective(name="own_ms", direction="minimize", needs_training=True, measure=len),
                    objective("macs_m"),
                )
            },
            "objective own_ms was not measured there; it has macs_m, val_top1_pct",
        ),
    ],
)
def test_outcomes_of_other_trainings_are_refused(tmp_path, fields, sentence):
    first, run = searcher(tmp_path / "a", trials=1)
    play(first, 1)
    with pytest.raises(nas.NasError, match=sentence):
        outcomes(replace(EXPERIMENT, **({"reuse": (str(run),)} | fields)))


def test_networks_that_the_user_names_come_after_the_references(tmp_path):
    space = nas.space("mobilenetv3")
    generator = random.Random(3)
    drawn = [space.decode(sample(space.parameters, generator)) for _ in range(2)]
    (tmp_path / "net.json").write_text(drawn[0].to_json())
    first, run = searcher(tmp_path / "a", space=space, trials=6)
    play(first, 6)
    front = nas.front(nas.results(run))
    found, second = searcher(
        tmp_path / "b", space=space, trials=40, start=(str(tmp_path / "net.json"), drawn[1].to_json(), str(run))
    )
    play(found, 20)
    df = nas.results(second)
    references = len([start for start in starts(found.experiment) if start.source != "start"])
    assert list(df["id"][references : references + 2]) == [network.id for network in drawn]
    new = [start for start in front["id"] if start not in set(df["id"][:references])]
    assert list(df["id"][references + 2 : references + 2 + len(new)]) == new
    assert df.loc[references, ["source", "name"]].tolist() == ["start", str(tmp_path / "net.json")]
    assert df.loc[references + 1, "name"] == drawn[1].id  # and not its text of some kilobytes


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("efficientnet_b0", "start efficientnet_b0: architecture .* is not in space mobilenetv3"),
        ("efficientnet_b", "network 'efficientnet_b' does not exist; did you mean 'efficientnet_b"),
        ("timm:resnet18", "start timm:resnet18: it is timm's own network"),
    ],
)
def test_a_start_that_is_not_in_the_space_is_refused(name, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        starts(replace(EXPERIMENT, start=(name,)))


def test_weights_are_kept_for_the_front_alone(tmp_path):
    found, run = searcher(tmp_path, workers=1)
    for i in range(8):
        found.suggest(f"t{i}")
        finish(found, f"t{i}", 50 + 7 * i % 30)
        df = nas.results(run)
        kept = {path.name for path in (run / "checkpoints").iterdir()}
        assert kept == {f"{trial}.safetensors" for trial in df["trial"][df["is_front"]]}
    assert 0 < len(kept) < 8
    assert all((run / "checkpoints" / name).read_text() == name.partition(".")[0] for name in kept)


def test_an_early_stopped_trial_is_a_row_with_what_it_had_and_is_told_as_pruned(tmp_path):
    found, run = searcher(tmp_path, sampler="random", train=replace(EXPERIMENT.train, epochs=27))
    for i in range(5):
        found.suggest(f"t{i}")
    costs = [found.pending[f"t{i}"].network.values["macs_m"] for i in range(5)]
    last = f"t{costs.index(max(costs))}"  # the costliest, and the worst
    for i in range(5):
        if f"t{i}" != last:
            assert all(tell(found, f"t{i}", epoch, 60.0 + i) for epoch in (1, 2, 3))
    assert [tell(found, last, epoch, 20.0) for epoch in (1, 2, 3)] == [True, True, False]
    row = nas.results(run).set_index("trial").loc[costs.index(max(costs))]
    assert (row["status"], row["epochs"], row["val_top1_pct"], row["macs_m"]) == ("stopped", 3, 20.0, max(costs))
    assert not row["is_front"]
    assert study(found).trials[costs.index(max(costs))].state.name == "PRUNED"
    off, _ = searcher(tmp_path / "off", sampler="random", train=replace(EXPERIMENT.train, epochs=27), early_stopping=False)
    off.suggest("a"), off.suggest("b"), off.suggest("c"), off.suggest("d")
    assert all(tell(off, name, 3, top1) for name, top1 in (("a", 90.0), ("b", 80.0), ("c", 70.0), ("d", 1.0)))


def test_early_stopping_is_refused_where_an_objective_is_known_at_the_end_alone():
    own = Objective(name="own_ms", direction="minimize", needs_training=True, measure=len)
    both = (objective("val_top1_pct"), own)
    assert not replace(EXPERIMENT, objectives=both).stops_early
    assert EXPERIMENT.stops_early
    with pytest.raises(nas.NasError, match=r"early-stopping: .* the one objective that needs training; given: val_top1_pct, own"):
        replace(EXPERIMENT, objectives=both, early_stopping=True)


def test_a_network_that_kills_its_worker_twice_is_given_up_and_never_asked_again(tmp_path):
    found, run = searcher(tmp_path, space=Twelve(), workers=1, trials=50)
    poisoned = found.suggest("a")["architecture"]
    found.lost("a", "m", {"m"})
    assert found.suggest("b")["architecture"] == poisoned  # once more, before anything new
    with locked(run):
        assert list(nas.results(run)["status"]) == ["running"]
    found.lost("b", "m", {"m"})
    others = play(found, 50)
    assert poisoned not in [config["architecture"] for config in others]
    row = nas.results(run).iloc[0]
    assert (row["status"], row["reason"], row["error"], row["retries"]) == ("failed", "crash", "the worker process died", 1)
    # nor in another session
    again, _ = searcher(tmp_path, run=run, session=1, space=Twelve(), workers=1, trials=50)
    assert poisoned not in [config["architecture"] for config in play(again, 50)]


def test_a_lost_machine_is_no_fault_of_the_network(tmp_path):
    """Even if that the machine is lost is known only when the next one is lost too."""
    found, run = searcher(tmp_path, workers=1)
    text = found.suggest("t0")["architecture"]
    for i in range(3):
        found.lost(f"t{i}", f"m{i}", {f"m{j}" for j in range(i, 9)})
        assert found.suggest(f"t{i + 1}")["architecture"] == text
    finish(found, "t3", 77.0)
    row = nas.results(run).iloc[0]
    assert (row["status"], row["retries"], row["val_top1_pct"]) == ("done", 3, 77.0)
    found.suggest("u0")
    for i in range(4):
        found.lost(f"u{i}", f"m{i}", {f"m{j}" for j in range(i + 1, 9)})
        if i < 3:
            found.suggest(f"u{i + 1}")
    assert nas.results(run)["reason"].iloc[1] == "node"


def test_a_worker_that_does_not_answer_after_its_time_has_timed_out(tmp_path):
    found, run = searcher(tmp_path, trial_timeout=0.01)
    found.suggest("a")
    time.sleep(0.02)
    found.lost("a", "m", {"m"})
    assert nas.results(run).iloc[0][["status", "reason"]].tolist() == ["failed", "timeout"]


def killed_after(run, lines, tmp_path):
    """A copy of a run folder as a driver killed after so many lines of its log, and some bytes of the next, leaves it."""
    copy = tmp_path / f"killed{lines}"
    shutil.copytree(run, copy)
    whole = (run / TRIALS_FILE).read_bytes().splitlines(keepends=True)
    torn = whole[lines][: len(whole[lines]) // 2] if lines < len(whole) else b""
    (copy / TRIALS_FILE).write_bytes(b"".join(whole[:lines]) + torn)
    return copy


def test_a_run_killed_at_any_moment_goes_on_without_losing_or_repeating_a_finished_trial(tmp_path):
    common = {"limits": (parse_limit("macs_m<0.9"),), "trials": 5, "workers": 2, "sampler": "random"}
    first, run = searcher(tmp_path, **common)
    play(first, 5)
    whole = nas.results(run)
    for lines in range(len((run / TRIALS_FILE).read_bytes().splitlines()) + 1):
        copy = killed_after(run, lines, tmp_path)
        mend_logs(copy)
        before = nas.results(copy)
        found, _ = searcher(tmp_path, run=copy, session=1, **common)
        proposed = [found.suggest(f"t{i}") for i in range(2)]
        for i, config in enumerate(proposed):
            if isinstance(config, dict):
                finish(found, f"t{i}", 70.0)
        play(found, 5)
        after = nas.results(copy)
        kept = after[after["trial"].isin(before["trial"][before["status"] == "done"])]
        assert kept["val_top1_pct"].tolist() == whole["val_top1_pct"][whole["trial"].isin(kept["trial"])].tolist()
        assert Counter(after["status"])["done"] == 5
        done = after[after["status"] == "done"]
        assert done["id"].is_unique
        assert sorted(done["trial"]) == list(range(5))
        interrupted = before["id"][before["status"] == "interrupted"]
        assert set(interrupted) <= set(done["id"])  # went on, under its own number
        assert len([trial for trial in study(found).trials if trial.state.name == "COMPLETE"]) == 5
        shutil.rmtree(copy)


def test_weights_are_brought_in_order_after_a_kill_between_outcome_and_weights(tmp_path):
    found, run = searcher(tmp_path, workers=1)
    play(found, 3)
    df = nas.results(run)
    (best,) = df["trial"][df["is_front"]][:1]
    folder = run / "checkpoints" / f"trial{best}"
    folder.mkdir()
    (run / "checkpoints" / f"{best}.safetensors").rename(folder / "weights.safetensors")
    losses = list(zip(-df["val_top1_pct"], df["macs_m"], strict=True))
    was_front = [not any(dominates(other, loss) for other in losses[:i]) for i, loss in enumerate(losses)]
    off = set(df["trial"][was_front]) - set(df["trial"][df["is_front"]])
    assert off
    for trial in off:
        (run / "checkpoints" / f"{trial}.safetensors").write_text("left over")
    searcher(tmp_path, run=run, session=1)
    assert {path.stem for path in (run / "checkpoints").iterdir()} == set(map(str, df["trial"][df["is_front"]]))


def test_a_run_goes_on_with_another_sampler_more_trials_and_a_tighter_limit(tmp_path):
    found, run = searcher(tmp_path, trials=6, workers=1)
    play(found, 6)
    before = nas.results(run)
    limit = parse_limit("macs_m<0.7")
    again, _ = searcher(tmp_path, run=run, session=1, trials=12, sampler="nsga2", limits=(limit,))
    told = study(again).trials
    assert [trial.values for trial in told] == [trial.values for trial in study(found).trials]
    assert all((trial.constraints[str(limit)] <= 0) == (trial.values[1] <= 0.7) for trial in told)
    assert len(play(again, 12)) == 6
    after = nas.results(run)
    new = after[(after["status"] == "done") & (after["trial"] > 5)]
    assert len(new) == 6
    assert new["macs_m"].max() <= 0.7
    assert set(new["id"]).isdisjoint(before["id"])


def test_what_fits_no_longer_is_not_gone_on_with(tmp_path):
    found, run = searcher(tmp_path, workers=2, sampler="random")
    found.suggest("a"), found.suggest("b")
    tell(found, "a", 1, 33.0)
    small, large = sorted(found.pending[name].network.values["macs_m"] for name in "ab")
    found.interrupt()
    again, _ = searcher(tmp_path, run=run, session=1, limits=(parse_limit(f"macs_m<{(small + large) / 2}"),))
    df = nas.results(run).sort_values("macs_m")
    assert list(df["status"]) == ["interrupted", "stopped"]
    assert df["reason"].iloc[1] == "limit"
    assert again.suggest("c")["trial"] == df["trial"].iloc[0]


def test_epochs_told_before_a_kill_are_not_logged_twice(tmp_path):
    found, run = searcher(tmp_path, workers=1)
    found.suggest("a")
    for epoch in (1, 2):
        tell(found, "a", epoch, 20.0 * epoch)
    found.lost("a", "m", {"m"})
    found.suggest("b")
    for epoch in (2, 3):  # its checkpoint was of the first
        tell(found, "b", epoch, 20.0 * epoch)
    history = tuple(Epoch(epoch=i, train_loss=1.0, val_top1_pct=20.0 * i, val_images=5, seconds=1.0) for i in (1, 2, 3, 4))
    done = Outcome(status="done", values={"val_top1_pct": 80.0}, history=history, seconds=4.0)
    found.record("b", {"outcome": json.dumps(done.to_record())})
    assert [line["epoch"] for line in read_lines(run / HISTORY_FILE)] == [1, 2, 3, 4]
    assert nas.results(run)["epochs"].tolist() == [4]


def test_a_space_that_has_changed_is_not_gone_on_with(tmp_path):
    found, run = searcher(tmp_path, space=Twelve(), trials=6)
    play(found, 2)

    class Other(Twelve):
        def decode(self, params):
            return nas.reference("mobilenetv2_100")

    with pytest.raises(nas.NasError, match="space twelve has changed: parameters that meant architecture"):
        searcher(tmp_path, run=run, session=1, space=Other())


def test_a_limit_on_something_new_is_measured_for_what_was_found_before(tmp_path):
    found, run = searcher(tmp_path, trials=5, workers=1)
    play(found, 5)
    before = nas.results(run)
    limit = parse_limit("params_m<10")
    record(run, limits=[{"objective": {"name": "params_m"}, "low": "-inf", "high": 10.0}])
    assert nas.results(run)["is_front"].tolist() == before["is_front"].tolist()  # nothing is known of it yet
    searcher(tmp_path, run=run, session=1, limits=(limit,))
    after = nas.results(run)
    assert after["params_m"].between(0, 10).all()
    assert after["is_front"].tolist() == before["is_front"].tolist()
    assert not [path for path in removable(run) if path.stem in set(map(str, before["trial"][before["is_front"]]))]


def test_a_tighter_limit_takes_networks_off_the_front_and_removes_no_weights(tmp_path):
    found, run = searcher(tmp_path, trials=6, workers=1)
    play(found, 6)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    df = nas.results(run)
    bound = df["macs_m"].min()
    record(run, limits=[{"objective": {"name": "macs_m"}, "low": "-inf", "high": bound}])
    searcher(tmp_path, run=run, session=1, limits=(parse_limit(f"macs_m<{bound}"),))
    assert set(kept) <= {path.name for path in (run / "checkpoints").iterdir()}
    after = nas.results(run)
    assert after["macs_m"][after["is_front"]].tolist() == [bound]
    assert best(after, "val_top1_pct")["macs_m"] == bound


def record(run, **fields):
    """Write fields of experiment.json, as another session does."""
    described = json.loads((run / "experiment.json").read_text()) | fields
    (run / "experiment.json").write_text(json.dumps(described))


def test_a_wider_limit_tries_the_references_that_it_lets_in(tmp_path):
    space = nas.space("mobilenetv3")
    found, run = searcher(tmp_path, space=space, limits=(parse_limit("macs_m<100"),), trials=3)
    play(found, 3)
    again, _ = searcher(tmp_path, run=run, session=1, space=space, limits=(parse_limit("macs_m<1000"),), trials=8)
    play(again, 8)
    assert "mobilenetv3_large_100" in set(nas.results(run).query("status == 'done'")["name"])


def test_a_network_named_twice_is_tried_once(tmp_path):
    text = EXPERIMENT.space.decode(sample(EXPERIMENT.space.parameters, random.Random(5))).to_json()
    found, _ = searcher(tmp_path, start=(text,) * 130, trials=6)
    assert len({config["architecture"] for config in play(found, 6)}) == 6


def test_a_failed_trial_does_not_keep_the_accuracy_it_had_when_it_was_interrupted(tmp_path):
    found, run = searcher(tmp_path, workers=1)
    found.suggest("a")
    tell(found, "a", 1, 33.0)
    found.interrupt()
    assert nas.results(run)["val_top1_pct"].tolist() == [33.0]
    again, _ = searcher(tmp_path, run=run, session=1, workers=1)
    again.suggest("b")
    again.record("b", {"outcome": json.dumps(Outcome(status="failed", reason="nan", error="nan").to_record())})
    df = nas.results(run)
    assert df["status"].tolist() == ["failed"]
    assert df["val_top1_pct"].isna().all()


def test_a_network_reused_from_another_run_is_not_trained_after_a_kill_between_its_lines(tmp_path):
    first, run = searcher(tmp_path / "a", trials=1)
    play(first, 1)
    found, second = searcher(tmp_path / "b", trials=1, reuse=(str(run),))
    play(found, 1)
    lines = (second / TRIALS_FILE).read_bytes().splitlines(keepends=True)
    (second / TRIALS_FILE).write_bytes(lines[0])  # its start alone
    again, _ = searcher(tmp_path / "b", run=second, session=1, trials=1, reuse=(str(run),))
    row = nas.results(second).iloc[0]
    assert (row["status"], row["source"]) == ("done", "reuse")
    assert again.tally.reused == 1


@pytest.mark.parametrize(
    "damage", ['{"trial": 0}', '{"event": "end", "trial": 0, "values": 3}', '{"event": "infeasible", "id": [1']
)
def test_a_log_with_a_damaged_event_is_one_sentence(tmp_path, damage):
    found, run = searcher(tmp_path)
    play(found, 1)
    with (run / TRIALS_FILE).open("a") as file:
        file.write(damage + "\n")
    for read in (nas.results, rows):
        with pytest.raises(nas.NasError, match="damaged"):
            read(run)


def test_a_run_is_resumed_with_its_own_recipe_and_images_alone(tmp_path):
    found, run = searcher(tmp_path, trials=1)
    play(found, 1)
    for other in ({"seed": 9}, {"train": nas.TrainSettings(epochs=77)}, {"dataset": nas.dataset("mnist")}):
        with pytest.raises(
            nas.NasError, match=f"its {next(iter(other))} was .*, and the experiment that is given has .*; begin a new run"
        ):
            nas.resume(run, experiment=replace(found.experiment, **other), trials=3)
    with pytest.raises(nas.NasError, match="change 'epochs' does not exist"):
        nas.resume(run, epochs=3)
    with pytest.raises(nas.NasError, match="limits: 'macs_m<60' is a str"):
        nas.resume(run, limits=["macs_m<60"])
    with pytest.raises(nas.NasError, match="is finished: 1 of 1 trials have ended"):
        nas.resume(run, trials=None)
