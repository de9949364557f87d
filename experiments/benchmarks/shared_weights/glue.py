"""How long searches take to the hypervolume that a search written by hand with Ray Tune and OptunaSearch reaches."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from experiments.benchmarks.shared_weights.measurements import NEEDS_ROOT, Bench, Figures, Journal, Measurement, spread
from experiments.benchmarks.shared_weights.pace import pace, read_pace, words
from experiments.benchmarks.shared_weights.searches import ENDLESS, searched, seconds_until, share_pct

SECTION: Final = "glue"
CHANCE_PCT: Final = 10.0
MACS_M: Final = {"digits_mobilenetv3": 2.2, "imagenette_cpu": 12.0}  # the reference point's, near those of the largest network
NETWORKS: Final = 24
PER_NETWORK: Final = {"digits_mobilenetv3": 10.0, "imagenette_cpu": 18.0}  # estimate, seconds by hand
SHORT: Final = 0.5  # of the seconds by hand, for which the search by shared weights is sized
OURS: Final[Mapping[str, str]] = {"shared": "nas search --shared-weights train", "alone": "nas search"}


def measurements(bench: Bench) -> Iterator[Measurement]:
    """For each experiment and seed the search by hand, then ours with its seconds as the limit."""
    for name in _experiments(bench):
        yield pace(bench, name)
        by_hand = 20 + bench.size(NETWORKS, 2) / 2 * bench.size(PER_NETWORK[name], 4.0)
        for seed in bench.seeds:
            sides = {"by hand": _by_hand, "shared": _by_shared_weights, "alone": _alone}
            for side, run in sides.items():
                seconds = by_hand * SHORT if side == "shared" else by_hand
                yield Measurement(key=_key(bench, name, side, seed), seconds=seconds, run=partial(run, bench, name, seed))


def _experiments(bench: Bench) -> Sequence[str]:
    """The photographs alone, if they are there."""
    return [NEEDS_ROOT] if NEEDS_ROOT in bench.experiments else bench.experiments


def _key(bench: Bench, name: str, side: str, seed: int) -> Any:
    return bench.key(SECTION, name, side=side, seed=seed)


def _by_hand(bench: Bench, name: str, seed: int, _: Journal) -> Figures:
    options = ["--trials", str(bench.size(NETWORKS, 2)), "--seed", str(seed)]
    options += (["--root", str(bench.root)] if name == NEEDS_ROOT else []) + bench.size([], ["--epochs", "1"])
    line = [sys.executable, "-m", "experiments.benchmarks.shared_weights.by_hand", name, *options]
    began = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"the search by hand failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    points = [tuple(point) for point in json.loads(done.stdout.splitlines()[-1])]
    return {"seconds": seconds, "networks": len(points), "share_pct": share_pct(points, CHANCE_PCT, MACS_M[name])}


def _by_shared_weights(bench: Bench, name: str, seed: int, journal: Journal) -> Figures:
    target = journal[_key(bench, name, "by hand", seed)]
    sizes = read_pace(bench, journal, name).options(SHORT * target["seconds"], bench.experiment(name).train.epochs)
    return _until(bench, name, [*words(sizes), "--seed", str(seed)], target) | sizes


def _alone(bench: Bench, name: str, seed: int, journal: Journal) -> Figures:
    target = journal[_key(bench, name, "by hand", seed)]
    return _until(bench, name, [*ENDLESS, "--seed", str(seed)], target)


def _until(bench: Bench, name: str, options: Sequence[str], target: Figures) -> dict[str, Any]:
    """When a search had as much of the hypervolume as that by hand, if it did within the same time."""
    with searched(bench, name, options, seconds=target["seconds"]) as search:
        return {
            "seconds": search.seconds,
            "networks": len(search.rows),
            "share_pct": share_pct(
                list(zip(search.rows["val_top1_pct"], search.rows["macs_m"], strict=True)), CHANCE_PCT, MACS_M[name]
            ),
            "seconds_until": seconds_until(search.rows, target["share_pct"], CHANCE_PCT, MACS_M[name]),
        }


def summary(bench: Bench, journal: Journal) -> Iterator[str]:
    """For each experiment the search by hand, then the seconds of ours to as good a front."""
    for name in _experiments(bench):
        hands = [journal[_key(bench, name, "by hand", seed)] for seed in bench.seeds]
        shares, seconds = ([hand[figure] for hand in hands] for figure in ("share_pct", "seconds"))
        yield f"{name}: hypervolume on the search validation part, % above {CHANCE_PCT:g} % and below {MACS_M[name]:g} M MACs"
        yield f"  by hand, {hands[0]['networks']} networks: {spread(shares, 2)} in {spread(seconds, 0)} s; mean (range) of seeds"
        for side, command in OURS.items():
            ours = [journal[_key(bench, name, side, seed)] for seed in bench.seeds]
            pairs = [(one["seconds_until"], hand) for one, hand in zip(ours, seconds, strict=True)]
            there = [(until, until / hand) for until, hand in pairs if until is not None]
            ends = spread([one["share_pct"] for one in ours], 2)
            yield f"  {command}: as much in {len(there)} of {len(ours)} searches; at its end {ends}"
            if there:
                times, ratios = zip(*there, strict=True)
                yield f"    there after {spread(times, 0)} s, {spread(ratios, 3)} of the seconds by hand"
