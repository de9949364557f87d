"""What it costs to look at networks by shared weights, and to search them again for another limit."""

from collections.abc import Iterator
from functools import partial
from typing import Final

from experiments.benchmarks.shared_weights.measurements import Bench, Figures, Journal, Measurement
from experiments.benchmarks.shared_weights.pace import training_seconds, words
from experiments.benchmarks.shared_weights.searches import WORKERS, searched

SECTION: Final = "looking"
SCORED: Final = 1000  # networks
SCORED_AGAIN: Final = 50  # networks of the second search, beside the scores of the first, which it reuses
ALONE: Final = 8  # networks
PER_TRAINING: Final = {"digits_mobilenetv3": 8.0, "imagenette_cpu": 20.0}  # estimate, seconds


def measurements(bench: Bench) -> Iterator[Measurement]:
    """For each experiment a search with its default trainings and a second one by its weights; then some trainings alone."""
    for name in bench.experiments:
        each = bench.size(PER_TRAINING[name], 4.0)
        for part, trainings, run in (("searches", bench.size(60, 10), _searches), ("alone", ALONE / WORKERS, _alone)):
            key = bench.key(SECTION, name, part=part)
            yield Measurement(key=key, seconds=20 + trainings * each, run=partial(run, bench, name))


def _searches(bench: Bench, name: str, _: Journal) -> Figures:
    """A search, and another one by its weights for networks below its median MACs."""
    sizes = {"shared_trials": bench.size(SCORED, 8)} | bench.size({}, {"shared_epochs": 1, "fine_tune": 1})
    with searched(bench, name, words(sizes)) as first:
        scored = first.rows[first.rows["weights"] == "shared"]
        phase, limit = scored["ended"].max() - scored["started"].min(), float(scored["macs_m"].median())
        figures = {
            "seconds": first.seconds,
            "training_seconds": training_seconds(first),
            "scored": len(scored),
            "scoring_seconds": phase.total_seconds(),
            "macs_m_limit": round(limit, 2),
        }
        more = words({"shared_trials": bench.size(SCORED_AGAIN, 8)})[2:]
        with searched(bench, name, ["--shared-weights", str(first.run), *more, "--limit", f"macs_m<{limit:.2f}"]) as second:
            scores = second.rows[second.rows["weights"] == "shared"]
            reused = int((scores["source"] == "reuse").sum())
            return figures | {"second_seconds": second.seconds, "second_scored": len(scores) - reused, "reused": reused}


def _alone(bench: Bench, name: str, _: Journal) -> Figures:
    """Random networks trained alone to the end, two at a time."""
    options = ["--trials", str(bench.size(ALONE, 2)), "--sampler", "random", "--early-stopping", "False"]
    with searched(bench, name, options) as search:
        return {"mean_seconds": float(search.rows["seconds"].mean()), "networks": len(search.rows)}


def summary(bench: Bench, journal: Journal) -> Iterator[str]:
    """For each experiment, scores against trainings, and the second search against the first."""
    for name in bench.experiments:
        searches, alone = (journal[bench.key(SECTION, name, part=part)] for part in ("searches", "alone"))
        seconds = searches["scoring_seconds"] * SCORED / searches["scored"]
        trainings = SCORED * alone["mean_seconds"] / WORKERS
        yield f"{name}: scoring {searches['scored']:,} networks took {searches['scoring_seconds']:.0f} s, two at a time"
        yield (
            f"  {SCORED:,} networks: {seconds:.0f} s; trained alone, two at a time, {trainings:,.0f} s "
            f"({alone['mean_seconds']:.1f} s each, mean of {alone['networks']}); ratio {seconds / trainings:.4f}"
        )
        yield (
            f"  a second search, macs_m<{searches['macs_m_limit']:g}, by the same weights, {searches['second_scored']} scores "
            f"and {searches['reused']} reused: {searches['second_seconds']:.0f} s; "
            f"the first took {searches['seconds']:.0f} s; ratio {searches['second_seconds'] / searches['seconds']:.3f}"
        )
