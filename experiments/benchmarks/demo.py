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

# Run in a process of its own: load the folder as a user would, and print what it says of every validation image.
CLASSIFY = """
import json, sys
import torch, nas
from nas.train import Preprocess, predict
folder = sys.argv[1]
torch.set_num_threads(1)
card = json.load(open(folder + "/card.json"))
dataset = nas.dataset(card["accuracy"]["dataset"])
data = dataset.load("val")
preprocess = Preprocess(resolution=card["preprocess"]["resolution"], mean=dataset.mean, std=dataset.std)
classes = predict(nas.load(folder), data, preprocess).argmax(1)
correct = int((classes == torch.from_numpy(data.labels)).sum())
print(json.dumps({"classes": classes.tolist(), "val_top1_pct": 100.0 * correct / len(data)}))
"""


def classify(folder: Path) -> dict[str, object]:
    """What a fresh process makes of an exported network."""
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
    first, second = classify(folder), classify(folder)
    trained = float(df.set_index("trial").loc[card["trial"], "val_top1_pct"])
    identical = first == second and first["val_top1_pct"] == trained
    print(f"\nExported trial {card['trial']} to {folder}")
    print(f"Validation images classified right in training: {trained:.2f} %, in a fresh process: {first['val_top1_pct']:.2f} %,")
    print("exactly as before." if identical else "NOT as before.")
    print(f"On the test images, which the search never saw: {card['accuracy']['test_top1_pct']:.2f} %.\n")
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"run": str(run), "front": len(best), "export": str(folder), "identical": identical, "seconds": seconds}))
    sys.exit(0 if identical else 1)


if __name__ == "__main__":
    main()
