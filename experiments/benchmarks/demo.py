"""The whole flow in one run: search on handwritten digits, print the front, export the best network, load it in a fresh process.

Usage: python -m experiments.benchmarks.demo [--runs FOLDER]
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from experiments.digits_mobilenetv3 import EXPERIMENT
from nas import export, front, results, search

# Run in a process of its own: load the folder as a user would, and tell how it classifies the validation images.
CLASSIFY = """
import json, sys
import torch, nas
from nas.training.predict import Preprocess, fingerprint, num_correct, predict
folder = sys.argv[1]
torch.set_num_threads(1)
card = json.load(open(folder + "/card.json"))
dataset = nas.dataset(card["accuracy"]["dataset"])
data = dataset.load("val")
preprocess = Preprocess(resolution=card["preprocess"]["resolution"], mean=dataset.mean, std=dataset.std)
logits = predict(nas.load(folder), data, preprocess)
print(json.dumps({"fingerprint": fingerprint(logits), "val_top1_pct": 100.0 * num_correct(logits, data) / len(data)}))
"""


def classify(folder: Path) -> dict[str, object]:
    """Which classes a fresh process gives the validation images with an exported network, and how many are right."""
    answer = subprocess.run([sys.executable, "-c", CLASSIFY, str(folder)], capture_output=True, text=True, check=True)
    return dict(json.loads(answer.stdout))


def main() -> None:
    """Print each step, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs", help="the folder that run folders are made in")
    runs = parser.parse_args().runs
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("nas").setLevel(logging.INFO)
    started = time.perf_counter()

    run = search(replace(EXPERIMENT, runs=runs), name="digits_mobilenetv3")
    df = results(run)
    best = front(df)
    print("\nThe Pareto front, most accurate first:")
    print(best[["trial", "id", *df.attrs["directions"], "seconds"]].to_string(index=False))

    folder = export(run, best="val_top1_pct")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    trained = df.set_index("trial").loc[card["trial"], ["fingerprint", "val_top1_pct"]].to_dict()
    fresh = classify(folder)
    identical = fresh == trained
    print(f"\nExported trial {card['trial']} to {folder}")
    print(f"Validation images classified right at the end of its trial: {trained['val_top1_pct']:.2f} %,")
    print(f"in a fresh process: {fresh['val_top1_pct']:.2f} %; every image {'exactly' if identical else 'NOT'} as before.")
    print(f"On the test images, which the search never saw: {card['accuracy']['test_top1_pct']:.2f} %.\n")
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"run": str(run), "front": len(best), "export": str(folder), "identical": identical, "seconds": seconds}))
    sys.exit(0 if identical else 1)


if __name__ == "__main__":
    main()
