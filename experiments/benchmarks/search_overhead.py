"""What a search costs beside its trainings, and what its samplers find: four parts, in one run.

1. A whole search of networks that are not trained, on two workers, in turn with plain `ray.tune.Tuner` and `OptunaSearch` with
   their defaults on the same space and the same two objectives; each in a process of its own, timed from after its imports to
   the end of `ray.shutdown`.
2. The searcher alone, without Ray: asking for a trial and recording its outcome, with logs, journal and kept weights; each case
   in a process of its own.
3. `nas table` as a whole process, and `nas.results` in a warm one, on a made-up run.
4. With --bench, a replay of NAS-Bench-Macro (arXiv:2103.11922): each trial is answered with the mean of the table's three
   CIFAR-10 accuracies; its multiply-adds, by our own count, must be the table's. Shown is the hypervolume of the front found
   after so many different networks as a share of the true front's, its reference point the table's smallest accuracy and largest
   multiply-adds. Beside our samplers two of Optuna's with their defaults, through ask and tell alone: what these propose again is
   answered again, and counts once. A network is one Architecture, whatever parameters it was proposed by.

Usage: python -m experiments.benchmarks.search_overhead [--repeats 3] [--trials 100] [--bench FILE] [--seeds 20] [--gp-seeds 5]
FILE is nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from experiments.digits_mobilenetv3 import EXPERIMENT
from nas import Architecture, Experiment, cost, objective, results
from nas.models.architecture import Head, Stem
from nas.models.stages import Row, make_stages
from nas.runs.pareto import hypervolume
from nas.runs.run_folder import TRIALS_FILE, WEIGHTS, create_run
from nas.runs.trial import Outcome, Status, Trial
from nas.searching.plan import problem_of
from nas.searching.samplers import SAMPLERS
from nas.searching.trial_writer import TrialLog
from nas.spaces import Params, SearchSpace, check_encoding, grid_values, sample

if TYPE_CHECKING:
    from nas.searching.searcher import ArchitectureSearcher

Losses = tuple[float, ...]
Round = dict[str, float]  # figure → what one round measured
Spread = dict[str, float]

NUM_CLASSES: Final = len(EXPERIMENT.dataset.classes)  # CIFAR-10 has as many
UNTRAINED: Final = replace(EXPERIMENT, objectives=(objective("params_m"), objective("macs_m")), sampler="random", workers=2)
NUM_TRIALS: Final = 1000  # trials of the searcher alone
NUM_LAST: Final = 100  # of these, whose time is shown too
NUM_LISTED: Final = 10_000  # trials of the made-up run
BUDGETS: Final = (50, 100, 200)  # different networks, after which the front is measured
OPTUNA_SAMPLERS: Final[Mapping[str, Callable[..., optuna.samplers.BaseSampler]]] = {
    f"plain {sampler.__name__}": sampler for sampler in (optuna.samplers.NSGAIISampler, optuna.samplers.TPESampler)
}

# NAS-Bench-Macro, arXiv:2103.11922: width and layers of each stage; the first layer of a stage halves the resolution.
MACRO_STAGES: Final = ((64, 2), (128, 3), (256, 3))
# Its choices for a layer. The first is an identity: left out, but for a pointwise convolution where a stage begins.
MACRO_CHOICES: Final = (
    Row(0, op="conv", kernel=1, activation="relu6"),
    Row(0, kernel=3, expansion=3, activation="relu6"),
    Row(0, kernel=5, expansion=6, activation="relu6"),
)


@dataclass(frozen=True)
class MacroSpace(SearchSpace):
    """NAS-Bench-Macro's 6,561 parameter sets, of fewer networks: where an identity stands in a stage changes nothing."""

    name: ClassVar[str] = "nas_bench_macro"
    references: ClassVar[Mapping[str, Params]] = {}
    parameters: ClassVar[Mapping[str, BaseDistribution]] = {f"layer{i}": CategoricalDistribution((0, 1, 2)) for i in range(1, 9)}

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network at CIFAR's 32 pixels."""
        choices = iter(params[name] for name in self.parameters)
        table = []
        for width, depth in MACRO_STAGES:
            layers = enumerate(next(choices) for _ in range(depth))
            rows = (MACRO_CHOICES[c]._replace(width=width, stride=1 if i else 2) for i, c in layers if c or not i)
            table.append(tuple(rows))
        stem, head, stages = Stem(width=32, stride=1), Head(kind="efficientnet", width=1280), make_stages(32, tuple(table))
        return Architecture(resolution=32, convention="torch", activation="relu6", stem=stem, stages=stages, head=head)

    def encode(self, architecture: Architecture) -> Params:
        """The parameters with the identities at the end of each stage."""
        choices: list[int] = []
        for stage, (_, depth) in zip(architecture.stages, MACRO_STAGES, strict=False):
            choices += [*(block.kernel // 2 for block in stage), *[0] * depth][:depth]
        return check_encoding(self, architecture, dict(zip(self.parameters, choices, strict=False)))


MACRO: Final = Experiment(space=MacroSpace(), dataset=EXPERIMENT.dataset, objectives=EXPERIMENT.objectives)


def heading(title: str, columns: Iterable[str]) -> None:
    """Print what the rows that follow are."""
    print(f"\n{title}\n{'':<25}" + "".join(f"{column:<26}" for column in columns), flush=True)


def row(name: str, rounds: Sequence[Round], middle: Callable[[list[float]], float] = statistics.median) -> dict[str, Spread]:
    """Median or mean, smallest and largest of every figure, printed."""
    spreads = {}
    for figure in rounds[0]:
        values = [one[figure] for one in rounds]
        spread = {middle.__name__: middle(values), "min": min(values), "max": max(values)}
        spreads[figure] = {end: float(f"{value:.4g}") for end, value in spread.items()}
    cells = ("{:g} ({:g} to {:g})".format(*spread.values()) for spread in spreads.values())
    print(f"{name:<25}" + "".join(f"{cell:<26}" for cell in cells), flush=True)
    return spreads


def alone(*arguments: str) -> tuple[Round, float]:
    """What a part says of itself in a process of its own, and the seconds of that process."""
    command = [sys.executable, "-m", "experiments.benchmarks.search_overhead", "--alone", *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1]), seconds


def search_ours(trials: str) -> Round:
    """Seconds of nas.search."""
    from nas.searching.tuner import search

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = search(replace(UNTRAINED, trials=int(trials), runs=folder))
        seconds = time.perf_counter() - started
        assert (results(run)["status"] == "done").sum() == int(trials)
    return {"seconds": seconds}


def measure(params: Mapping[str, Any]) -> None:
    """A trial of plain Ray Tune: the network's costs, reported."""
    from ray import tune

    costs = cost(EXPERIMENT.space.decode(params), NUM_CLASSES)
    tune.report({"params_m": costs.params / 1e6, "macs_m": costs.macs / 1e6})


def search_plain(trials: str) -> Round:
    """Seconds of ray.tune.Tuner with OptunaSearch."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    space = {name: tune.choice(grid_values(choices)) for name, choices in EXPERIMENT.space.parameters.items()}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ray.init(num_cpus=2)
        algorithm = OptunaSearch(metric=["params_m", "macs_m"], mode=["min", "min"])
        config = tune.TuneConfig(search_alg=algorithm, num_samples=int(trials), max_concurrent_trials=2)
        results = tune.Tuner(measure, param_space=space, tune_config=config, run_config=tune.RunConfig(storage_path=folder)).fit()
        ray.shutdown()
        seconds = time.perf_counter() - started
    assert results.num_terminated == int(trials)
    return {"seconds": seconds}


def whole_search(repeats: int, trials: int) -> dict[str, Any]:
    """Part 1, printed."""
    sides = {"nas.search": "search_ours", "Tuner + OptunaSearch": "search_plain"}
    rounds: dict[str, list[Round]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, part in sides.items():
            figures, whole = alone(part, str(trials))
            rounds[name].append(figures | {"seconds_a_trial": figures["seconds"] / trials, "process_seconds": whole})
    columns = ("seconds", "seconds a trial", "seconds, whole process")
    heading(f"1. A search of {trials} networks, none trained, 2 workers; median (min to max) of {repeats}", columns)
    spreads: dict[str, Any] = {name: row(name, values) for name, values in rounds.items()}
    pairs = zip(*rounds.values(), strict=True)
    return spreads | row("ratio", [{"ratio": plain["seconds"] / ours["seconds"]} for ours, plain in pairs])


def make_searcher(experiment: Experiment) -> "ArchitectureSearcher":
    """A searcher on a run folder of its own, as a search makes it."""
    from nas.searching.plan import Session, make_plan
    from nas.searching.searcher import ArchitectureSearcher
    from nas.searching.state import make_state

    session = Session(experiment=experiment, run=create_run(experiment, experiment.space.name), plan=make_plan(experiment))
    return ArchitectureSearcher(make_state(session), workers=1)


def made_up(top1_pct: float) -> Outcome:
    """What a trial ends as."""
    return Outcome(
        status=Status.DONE,
        values={"val_top1_pct": top1_pct},
        seconds=12.3456789,
        fingerprint="p0123456789abcde",
        device="cpu",
        precision="float32",
    )


def record(searcher: "ArchitectureSearcher", trial_id: str, top1_pct: float) -> None:
    """Tell a searcher that a trial is done."""
    searcher.record(trial_id, {"outcome": json.dumps(made_up(top1_pct).to_record())})
    if searcher.failure is not None:
        raise searcher.failure


def resident_mb() -> float:
    """What this process holds in memory now, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def ask_and_record(space: str, sampler: str) -> Round:
    """Milliseconds a trial, over all and over the last, asks a trial, and how much the process grew."""
    from nas.searching.checkpoint_storage import WEIGHTS_FILE

    experiments: dict[str, Experiment] = {"mobilenetv3": EXPERIMENT, "macro": MACRO}
    generator, times = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        searcher = make_searcher(replace(experiments[space], sampler=sampler, trials=NUM_TRIALS, runs=folder))
        before = resident_mb()
        for i in range(NUM_TRIALS):
            started = time.perf_counter()
            trial = searcher.suggest(f"t{i}")["trial"]
            suggest_seconds = time.perf_counter() - started
            weights = (
                searcher.state.session.run / WEIGHTS / f"trial{trial}" / WEIGHTS_FILE
            )  # a worker's to write, so this is not timed
            weights.parent.mkdir()
            weights.touch()
            top1_pct, started = generator.gauss(90.0, 3.0), time.perf_counter()
            record(searcher, f"t{i}", top1_pct)
            times.append(1e3 * (suggest_seconds + time.perf_counter() - started))
        grown = resident_mb() - before
    figures = {
        "ms": statistics.fmean(times),
        "last_ms": statistics.fmean(times[-NUM_LAST:]),
        "mb_a_1000_trials": 1000 * grown / NUM_TRIALS,
    }
    return figures | {"asks_a_trial": 1 + searcher.state.log.tally.duplicate / NUM_TRIALS}


def searcher_alone(repeats: int) -> dict[str, Any]:
    """Part 2, printed."""
    cases = [(space, sampler) for space in ("mobilenetv3", "macro") for sampler in ("random", "nsga2")]
    rounds: dict[str, list[Round]] = {" ".join(case): [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            rounds[" ".join(case)].append(alone("ask_and_record", *case)[0])
    columns = ("ms a trial", f"ms a trial, last {NUM_LAST}", "MB more a 1,000 trials", "asks a trial")
    heading(f"2. The searcher alone, {NUM_TRIALS:,} trials; median (min to max) of {repeats}", columns)
    return {name: row(name, values) for name, values in rounds.items()}


def made_up_run(folder: str) -> Path:
    """A run folder of finished trials of random networks, with everything that a search writes of them."""
    experiment, generator = replace(EXPERIMENT, runs=folder), random.Random(0)
    problem, log = problem_of(experiment), TrialLog(run=create_run(experiment, "made_up"))
    for number in range(NUM_LISTED):
        params = sample(experiment.space.parameters, generator)
        point = problem.examine(params)
        log.start(
            Trial(
                number=number,
                id=point.id,
                status=Status.RUNNING,
                params=params,
                values=point.values,
                architecture=point.text,
            )
        )
        outcome = made_up(generator.gauss(90.0, 3.0))
        log.end(number, replace(outcome, values={**point.values, **outcome.values}, epochs=10))
    return log.run


def table(repeats: int) -> dict[str, Any]:
    """Part 3, printed."""
    rounds: dict[str, list[Round]] = {"nas table": [], "nas.results, warm": []}
    with tempfile.TemporaryDirectory() as folder:
        run = made_up_run(folder)
        size_mb = (run / TRIALS_FILE).stat().st_size / 1e6
        results(run)  # imports, and reads the file once
        for _ in range(repeats):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "nas", "table", str(run)], check=True, capture_output=True)
            rounds["nas table"].append({"seconds": time.perf_counter() - started})
            started = time.perf_counter()
            results(run)
            rounds["nas.results, warm"].append({"seconds": time.perf_counter() - started})
    heading(f"3. A run of {NUM_LISTED:,} trials, {size_mb:.0f} MB; median (min to max) of {repeats}", ["seconds"])
    return {name: row(name, values) for name, values in rounds.items()}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """NAS-Bench-Macro by network."""

    losses: Mapping[str, Losses]
    """Architecture's text → top-1 (percent, negated) and multiply-adds (millions)."""
    reference: Losses
    volume: float
    """Hypervolume of the true front."""


def read_bench(file: str) -> Bench:
    """The table, with its parameters and MACs checked against our count."""
    losses: dict[str, Losses] = {}
    for choices, entry in json.loads(Path(file).read_text(encoding="utf-8")).items():
        network = MacroSpace().decode(dict(zip(MacroSpace.parameters, map(int, choices), strict=True)))
        costs = cost(network, NUM_CLASSES)
        assert (costs.params, costs.macs) == (entry["params"], entry["flops"]), choices
        here = (-statistics.fmean(entry["test_acc"]), costs.macs / 1e6)
        assert losses.setdefault(network.to_json(), here) == here, f"{choices}: another row of the same network differs"
    points = list(losses.values())
    reference = tuple(max(column) for column in zip(*points, strict=True))
    return Bench(losses=losses, reference=reference, volume=hypervolume(points, reference))


def replay_ours(bench: Bench, sampler: str, seed: int) -> tuple[list[Losses], int]:
    """The losses of the networks that a search of ours tries, in order, and the number of its proposals."""
    tried = []
    with tempfile.TemporaryDirectory() as folder:
        searcher = make_searcher(replace(MACRO, sampler=sampler, seed=seed, trials=BUDGETS[-1], runs=folder))
        for i in range(BUDGETS[-1]):
            losses = bench.losses[searcher.suggest(f"t{i}")["network"]]
            record(searcher, f"t{i}", -losses[0])
            tried.append(losses)
    return tried, len(tried) + searcher.state.log.tally.duplicate


def replay_plain(bench: Bench, sampler: str, seed: int) -> tuple[list[Losses], int]:
    """The losses of the networks that Optuna tries, in order and without duplicates, and the number of its proposals."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=OPTUNA_SAMPLERS[sampler](seed=seed))
    tried: dict[str, Losses] = {}
    while len(tried) < BUDGETS[-1]:
        trial = study.ask(dict(MacroSpace.parameters))
        text = MacroSpace().decode(trial.params).to_json()
        tried[text] = bench.losses[text]
        study.tell(trial, [-tried[text][0], tried[text][1]])
    return list(tried.values()), len(study.trials)


def replayed(bench: Bench, sampler: str, seed: int) -> Round:
    """What one search finds, and its cost."""
    started = time.perf_counter()
    losses, asks = (replay_plain if sampler in OPTUNA_SAMPLERS else replay_ours)(bench, sampler, seed)
    seconds = time.perf_counter() - started
    volumes = {f"after_{budget}": hypervolume(losses[:budget], bench.reference) for budget in BUDGETS}
    return {name: 100.0 * volume / bench.volume for name, volume in volumes.items()} | {"asks": asks, "seconds": seconds}


def replay(file: str, seeds: int, gp_seeds: int) -> dict[str, Any]:
    """Part 4, printed."""
    bench, figures = read_bench(file), {}
    columns = (*(f"% after {budget}" for budget in BUDGETS), f"asks for {BUDGETS[-1]}", "seconds")
    heading(f"4. NAS-Bench-Macro, {len(bench.losses):,} networks; hypervolume, mean (min to max) over seeds", columns)
    numbers = dict.fromkeys((*SAMPLERS, *OPTUNA_SAMPLERS), seeds) | {"gp": gp_seeds}
    for sampler, num in numbers.items():
        rounds = [replayed(bench, sampler, seed) for seed in range(num)]
        figures[sampler] = {"seeds": num} | (row(f"{sampler}, {num}", rounds, statistics.mean) if rounds else {})
    return figures


ALONE: Final[Mapping[str, Callable[..., Round]]] = {part.__name__: part for part in (search_ours, search_plain, ask_and_record)}


def main() -> None:
    """Print every part, and all figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the sides take turns in each")
    parser.add_argument("--trials", type=int, default=100, help="of the whole search")
    parser.add_argument("--bench", help="NAS-Bench-Macro's JSON file; without it the fourth part is left out")
    parser.add_argument("--seeds", type=int, default=20, help="replays of each sampler")
    parser.add_argument("--gp-seeds", type=int, default=5, help="replays of gp, which is slow; 0 leaves it out")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)  # the part that this process was started for
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.alone:
        print(json.dumps(ALONE[options.alone[0]](*options.alone[1:])))
        return
    figures = {"whole_search": whole_search(options.repeats, options.trials)}
    figures |= {"searcher_alone": searcher_alone(options.repeats), "table": table(options.repeats)}
    if options.bench:
        figures["nas_bench_macro"] = replay(options.bench, options.seeds, options.gp_seeds)
    print(json.dumps(figures | {"trials": options.trials, "repeats": options.repeats}))


if __name__ == "__main__":
    main()
