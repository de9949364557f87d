"""Random networks by shared weights that took T seconds, against each of them trained alone for an eighth of T."""

import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import torch

from experiments.benchmarks.shared_weights.measurements import Bench, Figures, Journal, Measurement
from experiments.benchmarks.shared_weights.pace import pace, read_pace, training_seconds, words
from experiments.benchmarks.shared_weights.searches import WORKERS, searched
from nas import Architecture, Experiment, build, cost
from nas.runs.run_folder import shared_weights_file
from nas.spaces import sample
from nas.statistics import rank_agreement
from nas.supernet.scoring import make_scorer, read_shared
from nas.training.loop import TrainSetup, train
from nas.training.settings import TrainReport

SECTION: Final = "means"
SECONDS: Final = (120, 300)  # of the training of the shared weights
ALONE_SHARE: Final = 1 / 8  # of these, for each network alone
NETWORKS: Final = 32
BLOCK: Final = 8  # networks of one measurement, so that a kill costs no more
TIMED_EPOCHS: Final = 3  # of which the last tells how many epochs fit into the time


def measurements(bench: Bench) -> Iterator[Measurement]:
    """For each experiment and T the shared weights with the scores, then the trainings alone, some networks at a time."""
    for name in bench.experiments:
        yield pace(bench, name)
        for seconds in bench.size(SECONDS, (8,)):
            run = partial(_by_shared_weights, bench, name, seconds)
            yield Measurement(key=_key(bench, name, seconds, "shared"), seconds=seconds + 40, run=run)
            for first in _blocks(bench):
                estimate = 10 + bench.size(BLOCK, 2) / WORKERS * (seconds * ALONE_SHARE + bench.size(5, 2))
                key, alone = _key(bench, name, seconds, first), partial(_alone, bench, name, seconds, first)
                yield Measurement(key=key, seconds=estimate, run=alone)


def _key(bench: Bench, name: str, seconds: int, part: str | int) -> Any:
    """The key of the shared weights, or of the block of trainings alone that begins with the network `part`."""
    return bench.key(SECTION, name, seconds=seconds, part=part)


def _blocks(bench: Bench) -> range:
    """The first network of each block."""
    return range(0, bench.size(NETWORKS, 4), bench.size(BLOCK, 2))


def networks(experiment: Experiment, num: int) -> list[Architecture]:
    """Different random networks of the space, always the same."""
    generator, different = random.Random(0), dict[str, Architecture]()
    while len(different) < num:
        network = experiment.space.decode(sample(experiment.space.parameters, generator))
        different[network.id] = network
    return list(different.values())


def _by_shared_weights(bench: Bench, name: str, seconds: int, journal: Journal) -> Figures:
    experiment = bench.experiment(name)
    epochs = max(1, round(seconds / read_pace(bench, journal, name).epoch))
    sizes = {"shared_epochs": epochs, "shared_trials": 1, "fine_tune": 0}
    with searched(bench, name, words(sizes)) as search:
        shared = read_shared(shared_weights_file(search.run), len(experiment.dataset.classes))
        took = training_seconds(search)
    torch.set_num_threads(WORKERS)
    scorer = make_scorer(shared, experiment.dataset)
    drawn = networks(experiment, bench.size(NETWORKS, 4))
    top1_pct = [scorer.score(network)[1].val_top1_pct for network in drawn]
    return {"seconds": took, "epochs": epochs, "top1_pct": top1_pct, "macs_m": [cost(one).macs / 1e6 for one in drawn]}


def _alone(bench: Bench, name: str, seconds: int, first: int, journal: Journal) -> Figures:
    experiment = bench.experiment(name)
    block = networks(experiment, bench.size(NETWORKS, 4))[first : first + bench.size(BLOCK, 2)]
    budget = journal[_key(bench, name, seconds, "shared")]["seconds"] * ALONE_SHARE
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as processes:
        pairs = list(processes.map(partial(train_alone, experiment, budget), block))
    return {"top1_pct": [top1_pct for top1_pct, _ in pairs], "seconds": [took for _, took in pairs]}


def train_alone(experiment: Experiment, seconds: float, network: Architecture) -> tuple[float, float]:
    """(top-1 on the search validation part, seconds) of a network trained from new weights for about so long, by one thread."""
    torch.set_num_threads(1)

    def trained(epochs: int) -> TrainReport:
        torch.manual_seed(experiment.seed)
        settings = replace(experiment.train, epochs=epochs)
        setup = TrainSetup(dataset=experiment.dataset, settings=settings, resolution=network.resolution, seed=experiment.seed)
        return train(build(network, len(experiment.dataset.classes)), setup)

    epoch = trained(TIMED_EPOCHS).history[-1].seconds
    report = trained(max(1, round(seconds / epoch)))
    return report.val_top1_pct, report.seconds


def summary(bench: Bench, journal: Journal) -> Iterator[str]:
    """For each experiment and T the two means, the best, and how well the two rankings agree."""
    for name in bench.experiments:
        for seconds in bench.size(SECONDS, (8,)):
            shared = journal[_key(bench, name, seconds, "shared")]
            blocks = [journal[_key(bench, name, seconds, first)] for first in _blocks(bench)]
            alone, times = ([value for block in blocks for value in block[column]] for column in ("top1_pct", "seconds"))
            yield from _compared(f"{name}, T = {seconds} s", shared, alone, times)


def _compared(title: str, shared: Figures, alone: Sequence[float], times: Sequence[float]) -> Iterator[str]:
    scores, means = shared["top1_pct"], [statistics.fmean(values) for values in (shared["top1_pct"], alone)]
    yield f"{title}: {len(alone)} random networks, top-1 on the search validation part"
    yield f"  shared weights, trained for {shared['seconds']:.0f} s: mean {means[0]:.2f} %, best {max(scores):.2f} %"
    yield f"  each alone for {statistics.fmean(times):.1f} s: mean {means[1]:.2f} %, best {max(alone):.2f} %"
    yield f"  ratio of the means {means[0] / means[1]:.3f}"
    for ranking, values in (("scores", scores), ("MACs", shared["macs_m"])):
        yield f"  Kendall's tau of {ranking} with the trainings alone: {rank_agreement(values, [[value] for value in alone])}"
