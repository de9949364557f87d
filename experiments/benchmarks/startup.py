"""How long the commands that only read take, as whole processes, in turn with an interpreter that does nothing.

Usage: python -m experiments.benchmarks.startup [--repeats 7] [--trials 1000]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from experiments.digits_mobilenetv3 import EXPERIMENT
from nas import reference
from nas.records import append_record
from nas.runs.run_folder import TRIALS_FILE, create_run


def made_up_run(folder: str, trials: int) -> Path:
    """A run folder of as many finished trials as asked for, each with a real architecture's text."""
    run = create_run(replace(EXPERIMENT, runs=folder), "made_up")
    text = reference("mobilenetv3_small_100").to_json()
    params = {f"stage{i}.layer{j}.kernel": 3 for i in range(2, 7) for j in range(1, 5)}
    for trial in range(trials):
        values = {"macs_m": 1.0 + trial % 97, "val_top1_pct": 50.0 + trial % 41}
        of_trial = {"trial": trial, "time": "2026-01-01T00:00:00+00:00", "values": values}
        start = {"id": f"{trial:016x}", "params": params, "source": "search", "architecture": text}
        append_record(run / TRIALS_FILE, {"event": "start"} | of_trial | start)
        append_record(run / TRIALS_FILE, {"event": "end", "status": "done", "epochs": 10} | of_trial)
    return run


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the medians, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="rounds; the commands take turns in each")
    parser.add_argument("--trials", type=int, default=1000, help="of the run that is read")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = str(made_up_run(folder, options.trials))
        commands = {
            "python -c pass": ["-c", "pass"],
            "nas --help": ["-m", "nas", "--help"],
            "nas search (the list)": ["-m", "nas", "search"],
            f"nas table, {options.trials} trials": ["-m", "nas", "table", run],
            f"nas table --front, {options.trials} trials": ["-m", "nas", "table", run, "--front"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.repeats + 1):
            for name, arguments in commands.items():
                times[name].append(seconds(arguments))
    medians = {}
    for name, taken in times.items():
        counted = sorted(taken[1:])  # the first round warms the disk
        medians[name] = round(statistics.median(counted), 3)
        print(f"{name:<34} median {medians[name]:.3f} s, {counted[0]:.3f} to {counted[-1]:.3f}")
    print(json.dumps({"seconds": medians, "repeats": options.repeats, "trials": options.trials}))


if __name__ == "__main__":
    main()
