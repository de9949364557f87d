"""What early stopping saves and what it loses, on learning curves of real trainings.

Each CSV file in the folder has a row per network, with the column num_params and the columns acc_0, acc_1, ..., its accuracy
after each epoch as a share. A search takes random networks of a file in random order, so many at a time, and each rule decides
after each epoch whether a training goes on; the cost is the number of parameters. Shown are the epochs saved, the share of the
front's networks that were trained to the end, and the share of the hypervolume that these have: means over the searches, with
the lowest hypervolume. All rules see the same searches. Before them, Kendall's tau between the order after a share of the
epochs, by the best accuracy so far, and the order at the end.

The other rules are Ray's ASHA, which knows the accuracy alone, and MO-ASHA (arXiv:2106.12639), which continues the third of the
trainings that come first by non-dominated sorting. Both judge after a ninth and a third of the epochs.

Usage: python -m experiments.benchmarks.early_stopping --curves FOLDER [--searches 40] [--networks 100] [--workers 1 4]
"""

import argparse
import itertools
import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

import pandas as pd
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from scipy.stats import kendalltau

from nas.runs.pareto import Box, non_dominated
from nas.searching.early_stopping import ForecastStopping, Traits

VAL_IMAGES: Final = (947, 5000)
SHARES: Final = (1 / 9, 1 / 3, 1 / 2, 2 / 3)  # of the epochs
REDUCTION_FACTOR: Final = 3

Judge: TypeAlias = Callable[[int, int], bool]  # (place in the search, epoch) → whether the training goes on


class Network(NamedTuple):
    """A real training."""

    cost: float
    top1_pct: tuple[float, ...]
    """After each epoch."""

    @property
    def losses(self) -> tuple[float, float]:
        """At the end."""
        return -self.top1_pct[-1], self.cost


class Rule(Protocol):
    """Makes the judge of one search."""

    def __call__(self, networks: Sequence[Network], epochs: int) -> Judge: ...


def read_curves(file: Path) -> list[Network]:
    """The networks in a file whose trainings are complete."""
    df = pd.read_csv(file)
    columns = sorted(filter(re.compile(r"acc_\d+").fullmatch, map(str, df)), key=lambda name: int(name.removeprefix("acc_")))
    whole = df[["num_params", *columns]].dropna().to_numpy(float)
    return [Network(cost, tuple(100 * share for share in shares)) for cost, *shares in whole.tolist()]


def ours(val_images: int) -> Rule:
    """The project's rule."""

    def begin(networks: Sequence[Network], epochs: int) -> Judge:
        stopping = ForecastStopping(epochs=epochs)

        def goes_on(place: int, epoch: int) -> bool:
            network = networks[place]
            stopping.add(place, epoch, network.top1_pct[epoch - 1], val_images=val_images, traits=Traits((network.cost,)))
            return stopping.should_continue(place, epoch)

        return goes_on

    return begin


class RaysTrial:
    """As much of a trial as Ray's scheduler reads."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def asha(networks: Sequence[Network], epochs: int) -> Judge:
    """Ray's own."""
    first = -(-epochs // REDUCTION_FACTOR**2)
    scheduler = ASHAScheduler(
        metric="top1", mode="max", time_attr="epoch", max_t=epochs, grace_period=first, reduction_factor=REDUCTION_FACTOR
    )
    trials: dict[int, RaysTrial] = {}

    def goes_on(place: int, epoch: int) -> bool:
        if place not in trials:
            trials[place] = RaysTrial(str(place))
            scheduler.on_trial_add(None, trials[place])
        result = {"epoch": epoch, "top1": networks[place].top1_pct[epoch - 1]}
        return bool(scheduler.on_trial_result(None, trials[place], result) == TrialScheduler.CONTINUE)

    return goes_on


def mo_asha(networks: Sequence[Network], epochs: int) -> Judge:
    """A training goes on if it is among the first third by non-dominated sorting."""
    rungs = {-(-epochs // REDUCTION_FACTOR**power) for power in (1, 2)}
    seen: dict[int, dict[int, tuple[float, float]]] = {rung: {} for rung in rungs}

    def goes_on(place: int, epoch: int) -> bool:
        if epoch not in rungs:
            return True
        seen[epoch][place] = -networks[place].top1_pct[epoch - 1], networks[place].cost
        ahead, left = 0, dict(seen[epoch])
        while place in left:
            front = [one for one, kept in zip(left, non_dominated(list(left.values())), strict=True) if kept]
            if place in front:
                break
            ahead += len(front)
            left = {one: losses for one, losses in left.items() if one not in front}
        return ahead * REDUCTION_FACTOR <= len(seen[epoch])

    return goes_on


RULES: Final[Mapping[str, Rule]] = {
    **{f"ours, {images:,} validation images": ours(images) for images in VAL_IMAGES},
    "ASHA": asha,
    "MO-ASHA": mo_asha,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule did in one search."""

    saved: float
    """Share of the epochs."""
    kept: float
    """Share of the networks on the front that were trained to the end."""
    hypervolume: float
    """That of the networks trained to the end, as a share of that of all."""


def search(networks: Sequence[Network], rule: Rule, workers: int) -> Outcome:
    """Train the networks in their order, so many at a time, an epoch each in turn."""
    epochs = len(networks[0].top1_pct)
    goes_on, waiting, running = rule(networks, epochs), list(range(len(networks)))[::-1], dict[int, int]()
    used, ended = 0, []
    while waiting or running:
        while waiting and len(running) < workers:
            running[waiting.pop()] = 0
        for place in list(running):
            used, running[place] = used + 1, running[place] + 1
            continues = goes_on(place, running[place])
            if running[place] == epochs:
                ended.append(place)
            if running[place] == epochs or not continues:
                del running[place]
    losses = [one.losses for one in networks]
    front = {place for place, kept in enumerate(non_dominated(losses)) if kept}
    box = Box.around(losses)
    return Outcome(
        saved=1 - used / (epochs * len(networks)),
        kept=len(front.intersection(ended)) / len(front),
        hypervolume=box.share(losses[place] for place in ended) / box.share(losses),
    )


def show(file: Path, *, searches: int, size: int, workers: Sequence[int]) -> None:
    """Print the figures of a file."""
    networks = read_curves(file)
    epochs, size = len(networks[0].top1_pct), min(size, len(networks))
    ends = [one.top1_pct[-1] for one in networks]
    print(f"{file.name}: {len(networks)} networks, {epochs} epochs")
    for epoch in (round(share * epochs) for share in SHARES):
        tau = kendalltau([max(one.top1_pct[:epoch]) for one in networks], ends).statistic
        print(f"  after {epoch} epochs the order agrees with the end by tau {tau:.2f}")
    print(f"  {searches} searches of {size}; epochs saved, front networks kept, hypervolume kept (lowest)")
    for (name, rule), number in itertools.product(RULES.items(), workers):
        generator = random.Random(0)
        outcomes = [search(generator.sample(networks, size), rule, number) for _ in range(searches)]
        saved, kept, volume = (
            statistics.mean(getattr(one, column) for one in outcomes) for column in ("saved", "kept", "hypervolume")
        )
        lowest = min(one.hypervolume for one in outcomes)
        print(f"  {name}, {number} at a time: {saved:.3f}, {kept:.3f}, {volume:.3f} ({lowest:.3f})", flush=True)


def main() -> None:
    """Print the figures of every file of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--searches", type=int, default=40)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    files = [file for file in sorted(options.curves.glob("*.csv")) if "num_params" in pd.read_csv(file, nrows=0).columns]
    if not files:
        parser.error(f"{options.curves} has no CSV file with the columns num_params and acc_0, acc_1, ...")
    for file in files:
        show(file, searches=options.searches, size=options.networks, workers=options.workers)


if __name__ == "__main__":
    main()
