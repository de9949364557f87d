"""How fast this machine trains, scores and fine-tunes, from one short search; the sections choose their sizes by it."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from experiments.benchmarks.shared_weights.measurements import Bench, Figures, Journal, Key, Measurement
from experiments.benchmarks.shared_weights.searches import WORKERS, Search, searched
from nas.runs.shared_weights import read_shared_record

TRAINING_SHARE: Final = 0.6  # of a budget, for the shared weights; scores and fine-tunings share the rest
MAX_SCORED: Final = 1000
MIN_SCORED: Final = 8
FRONT: Final = 16  # networks of a front by shared weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds on two cores; two trials run at a time."""

    start: float
    """Start-up, and all else that is none of the following."""
    epoch: float
    """An epoch of the shared weights."""
    score: float
    """A score, and half of two at a time."""
    fine_tuning: float
    """An epoch of a fine-tuning, and half of two at a time."""

    def options(self, seconds: float, max_fine_tune: int) -> dict[str, int]:
        """Sizes of a search by shared weights that takes so long, with at most so many epochs of fine-tuning."""
        left = max(0.0, seconds - self.start)
        rest = (1 - TRAINING_SHARE) / 2 * left
        scored = max(MIN_SCORED, min(MAX_SCORED, round(rest / self.score)))
        fine_tune = max(1, min(max_fine_tune, round(rest / (FRONT * self.fine_tuning))))
        left -= scored * self.score + fine_tune * FRONT * self.fine_tuning
        return {"shared_epochs": max(1, round(left / self.epoch)), "shared_trials": scored, "fine_tune": fine_tune}


def words(sizes: dict[str, int]) -> list[str]:
    """The options of `nas search` for a search by shared weights of these sizes."""
    options = [word for name, size in sizes.items() for word in (f"--{name.replace('_', '-')}", str(size))]
    return ["--shared-weights", "train", *options]


def key_of(bench: Bench, name: str) -> Key:
    """The key of an experiment's pace."""
    return bench.key("pace", name)


def read_pace(bench: Bench, journal: Journal, name: str) -> Pace:
    """The pace of an experiment, which is measured before."""
    return Pace(**journal[key_of(bench, name)])


def pace(bench: Bench, name: str) -> Measurement:
    """The measurement of an experiment's pace."""
    return Measurement(key=key_of(bench, name), seconds=bench.size(90, 30), run=partial(_measure, bench, name))


def _measure(bench: Bench, name: str, _: Journal) -> Figures:
    sizes = {"shared_epochs": bench.size(4, 1), "shared_trials": bench.size(48, MIN_SCORED), "fine_tune": bench.size(2, 1)}
    with searched(bench, name, words(sizes)) as search:
        training = training_seconds(search)
        scored, tuned = (search.rows[search.rows["weights"] == weights] for weights in ("shared", "fine-tuned"))
        score = scored["seconds"].mean() / WORKERS
        fine_tuning = (tuned["seconds"] / tuned["epochs"]).mean() / WORKERS
        start = search.seconds - training - (scored["seconds"].sum() + tuned["seconds"].sum()) / WORKERS
    return {"start": start, "epoch": training / sizes["shared_epochs"], "score": score, "fine_tuning": fine_tuning}


def training_seconds(search: Search) -> float:
    """Seconds of the training of a search's shared weights."""
    record = read_shared_record(search.run)
    assert record is not None, "the search has ended"
    return record.seconds
