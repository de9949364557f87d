"""Fronts on the test part after the same seconds: shared weights, FrontierSampler's trainings alone, and random search.

Each search by shared weights is sized for its budget. The trainings alone run for the longest, and are cut where it has ended.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from experiments.benchmarks.shared_weights.measurements import Bench, Figures, Journal, Measurement, spread
from experiments.benchmarks.shared_weights.pace import pace, read_pace, words
from experiments.benchmarks.shared_weights.searches import (
    ENDLESS,
    Point,
    Search,
    ever_on_front,
    front_at,
    searched,
    share_pct,
    test_points,
)
from nas.datasets import Dataset

SECTION: Final = "equal-time"
SHARED: Final = "shared weights"
ALONE: Final[Mapping[str, Sequence[str]]] = {
    "FrontierSampler, alone": ("--sampler", "frontier"),
    "random search, alone": ("--sampler", "random"),
}
TEST_SECONDS: Final = 90  # estimate, for a front on the test part


def measurements(bench: Bench) -> Iterator[Measurement]:
    """For each experiment and seed a search by shared weights of each budget, then searches by trainings alone."""
    for name in bench.experiments:
        yield pace(bench, name)
        for seed in bench.seeds:
            for minutes in bench.minutes:
                run = partial(_by_shared_weights, bench, name, minutes, seed)
                key = _key(bench, name, SHARED, minutes, seed)
                yield Measurement(key=key, seconds=60 * minutes + bench.size(TEST_SECONDS, 5), run=run)
            for method in ALONE:
                key, run = _key(bench, name, method, max(bench.minutes), seed), partial(_alone, bench, name, method, seed)
                yield Measurement(key=key, seconds=60 * max(bench.minutes) + bench.size(2 * TEST_SECONDS, 10), run=run)


def _key(bench: Bench, name: str, method: str, minutes: float, seed: int) -> Any:
    return bench.key(SECTION, name, method=method, minutes=minutes, seed=seed)


def _by_shared_weights(bench: Bench, name: str, minutes: float, seed: int, journal: Journal) -> Figures:
    experiment = bench.experiment(name)
    sizes = read_pace(bench, journal, name).options(60 * minutes, experiment.train.epochs)
    with searched(bench, name, [*words(sizes), "--seed", str(seed)]) as search:
        front = search.rows[search.rows["is_front"]]
        return _figures(search, test_points(search, front, experiment.dataset), experiment.dataset) | sizes


def _alone(bench: Bench, name: str, method: str, seed: int, journal: Journal) -> Figures:
    dataset = bench.experiment(name).dataset
    budgets = [60.0 * max(bench.minutes)]
    budgets += [journal[_key(bench, name, SHARED, minutes, seed)]["seconds"] for minutes in bench.minutes]
    options = [*ENDLESS, "--keep-all", "--seed", str(seed), *ALONE[method]]
    with searched(bench, name, options, seconds=max(budgets)) as search:
        return _figures(search, test_points(search, ever_on_front(search.rows), dataset), dataset)


def _figures(search: Search, points: Sequence[Point], dataset: Dataset) -> dict[str, Any]:
    return {
        "seconds": round(search.seconds, 1),
        "networks": len(search.rows),
        "max_macs_m": float(search.rows["macs_m"].max()) if len(search.rows) else 0.0,
        "chance_pct": 100.0 / len(dataset.classes),
        "points": [list(point) for point in points],
    }


def summary(bench: Bench, journal: Journal) -> Iterator[str]:
    """For each experiment and budget, the share of the hypervolume that each method's front has on the test part."""
    for name in bench.experiments:
        keys = [one.key for one in measurements(bench) if one.key["section"] == SECTION and one.key["experiment"] == name]
        macs_m = max(journal[key]["max_macs_m"] for key in keys)
        yield f"{name}: hypervolume on the test part, % above chance and below {macs_m:.2f} M MACs; mean (range) of seeds"
        for minutes in bench.minutes:
            shared = [journal[_key(bench, name, SHARED, minutes, seed)] for seed in bench.seeds]
            shares = {SHARED: [_share(figures, figures["seconds"], macs_m) for figures in shared]}
            for method in ALONE:
                alone = [journal[_key(bench, name, method, max(bench.minutes), seed)] for seed in bench.seeds]
                shares[method] = [_share(one, cut["seconds"], macs_m) for one, cut in zip(alone, shared, strict=True)]
            yield f"  {minutes:g} min, really {spread([figures['seconds'] for figures in shared], 0)} s"
            for method, values in shares.items():
                ratios = [one / other if other else float("inf") for one, other in zip(shares[SHARED], values, strict=True)]
                behind = "" if method == SHARED else f"; shared weights have {spread(ratios, 3)} times as much"
                yield f"    {method:<24}{spread(values, 2)}{behind}"


def _share(figures: Figures, seconds: float, macs_m: float) -> float:
    front = front_at([Point(*point) for point in figures["points"]], seconds)
    return share_pct([(point.test_top1_pct, point.macs_m) for point in front], figures["chance_pct"], macs_m)
