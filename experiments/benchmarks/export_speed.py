"""What an export's files are worth: model.onnx in onnxruntime, and model.pt2 compiled ahead of time, against timm in eager torch.

All on one CPU thread in float32, taking turns in one run. Each network has drawn weights and the running statistics of images. A
.pt2 is compiled for each batch size (torch's AOTInductor, its constants folded), which takes half a minute.

Usage: python -m experiments.benchmarks.export_speed [--networks NAME ...] [--rounds 7] [--without-pt2]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package, aoti_load_package

from experiments.benchmarks.cost import NETWORKS
from nas import reference
from nas.exporting.formats import make_card, write_formats
from nas.exporting.fresh_process import onnx_run
from nas.models.network import OwnNetwork

BATCHES: Final = (1, 8)
LARGEST_LOGIT: Final = 10.0
SECONDS: Final = 0.5  # of each side in each round
Call = Callable[[], Any]


def settled(name: str) -> nn.Module:
    """timm's network, as large inside and in its logits as after a training: norms that have seen images, logits up to 10."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name).train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(8, 3, 128, 128))
        model.classifier.weight *= LARGEST_LOGIT / model.eval()(torch.randn(8, 3, 224, 224)).abs().max()
    settled_model: nn.Module = model
    return settled_model


def compiled(file: Path, example: Tensor) -> Callable[[Tensor], Any]:
    """model.pt2, compiled ahead of time for one shape."""
    static = torch.export.export(torch.export.load(file).module(), (example,))
    package = file.with_name(f"compiled{len(example)}.pt2")
    aoti_compile_and_package(static, package_path=str(package), inductor_configs={"freezing": True})
    runner: Callable[[Tensor], Any] = aoti_load_package(str(package))
    return runner


def median_ms(call: Call) -> float:
    """The median time of a call over half a second, after a warm-up."""
    call()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS or len(times) < 3:
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def compare(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each side per round; the sides alternate."""
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times_ms[name].append(median_ms(call))
    return times_ms


def measure(name: str, *, rounds: int, with_pt2: bool) -> list[dict[str, Any]]:
    """A row for each batch size."""
    network, model = OwnNetwork(architecture=reference(name)), settled(name)
    plain = {"classes": [str(label) for label in range(1000)], "mean": [0.5] * 3, "std": [0.5] * 3}
    rows = []
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        write_formats(Path(place), network, model, make_card(network, plain, accuracy={}, train={}, versions={}))
        onnx = onnx_run(Path(place, "model.onnx"), threads=1)
        for batch in BATCHES:
            x = torch.randn(batch, 3, network.resolution, network.resolution)
            calls: dict[str, Call] = {"eager": partial(model, x), "onnx": partial(onnx, x.numpy())}
            if with_pt2:
                with torch.no_grad():
                    calls["pt2"] = partial(compiled(Path(place, "model.pt2"), x), x)
            eager = torch.as_tensor(calls["eager"]())
            times = compare(calls, rounds)
            row: dict[str, Any] = {"network": name, "batch": batch, "eager_ms": round(statistics.median(times["eager"]), 2)}
            for side in list(calls)[1:]:
                ratios = [a / b for a, b in zip(times["eager"], times[side], strict=True)]
                row |= {
                    f"{side}_ms": round(statistics.median(times[side]), 2),
                    f"{side}_times": round(statistics.median(ratios), 3),
                    f"{side}_least": round(min(ratios), 3),
                    f"{side}_most": round(max(ratios), 3),
                    f"{side}_difference": float((torch.as_tensor(calls[side]()) - eager).abs().max()),
                }
            row["largest_logit"] = round(float(eager.abs().max()), 3)
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def main() -> None:
    """Print every ratio, and the geometric means as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="published networks, by timm's names")
    parser.add_argument("--rounds", type=int, default=7, help="in each of which every side runs for half a second")
    parser.add_argument("--without-pt2", action="store_true", help="compile nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)

    rows = [row for name in options.networks for row in measure(name, rounds=options.rounds, with_pt2=not options.without_pt2)]
    figures: dict[str, Any] = {}
    for side in ("onnx", "pt2"):
        if f"{side}_times" not in rows[0]:
            continue
        for batch in BATCHES:
            times = [row[f"{side}_times"] for row in rows if row["batch"] == batch]
            figures[f"{side}_batch{batch}"] = round(statistics.geometric_mean(times), 3)
        figures[f"{side}_difference"] = max(row[f"{side}_difference"] for row in rows)
    print(json.dumps(figures | {"torch": torch.__version__, "timm": timm.__version__, "rounds": options.rounds}))


if __name__ == "__main__":
    main()
