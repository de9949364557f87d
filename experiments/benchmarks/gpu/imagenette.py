"""Section c: top-1 and seconds of trainings of MobileNetV3-Large on photographs."""

import time
from typing import Final

import torch

from experiments.benchmarks.gpu.bench import Bench, Figures, MadeUp
from nas.datasets import Dataset, load_part
from nas.datasets.image_folder import ImageFolder
from nas.errors import NasError
from nas.models.build import build
from nas.models.zoo import reference
from nas.training.loop import TrainSetup, train
from nas.training.predict import num_correct, predict
from nas.training.settings import TrainSettings

NETWORK: Final = "mobilenetv3_large_100"
EPOCHS: Final = (5, 20)
SEEDS: Final = 5  # at most


def imagenette(bench: Bench) -> Figures:
    """Trainings of 5 and 20 epochs with the default settings: val top-1, test top-1, seconds; more seeds while there is time.

    Raises: NasError if there is no folder of images; a quick run has made-up images instead.
    """
    dataset, resolution = _dataset(bench), bench.size(128, 32)
    started = time.perf_counter()
    sizes = {part: len(load_part(dataset, part)) for part in ("train", "val", "test")}
    yield "images", sizes | {"classes": len(dataset.classes), "seconds_to_load": round(time.perf_counter() - started, 2)}
    yield "setting", f"{NETWORK}, {resolution} px, batch {TrainSettings().batch_size}, default settings"
    took: dict[int, float] = {}
    for seed in range(bench.size(SEEDS, 1)):
        for epochs in bench.size(EPOCHS, (2,)):
            if took.get(epochs, 0.0) > bench.seconds_left():
                return
            began = time.perf_counter()
            yield f"epochs {epochs} seed {seed}", _training(bench, dataset, resolution, epochs, seed)
            took[epochs] = time.perf_counter() - began


def _dataset(bench: Bench) -> Dataset:
    if bench.root is not None:
        return ImageFolder(root=bench.root)
    if not bench.quick:
        raise NasError("root: section c needs a folder with train/ and val/; give --root FOLDER")
    return MadeUp(64, 40, num_val=20)


def _training(bench: Bench, dataset: Dataset, resolution: int, epochs: int, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    model = build(reference(NETWORK), len(dataset.classes)).to(bench.device)
    setup = TrainSetup(dataset=dataset, settings=TrainSettings(epochs=epochs), resolution=resolution, seed=seed)
    report = train(model, setup)
    test = load_part(dataset, "test")
    correct = num_correct(predict(model, test, setup.preprocess(resolution)), test)
    top1 = {"val_top1_pct": round(report.val_top1_pct, 2), "test_top1_pct": round(100 * correct / len(test), 2)}
    return top1 | {"seconds": round(report.seconds, 2)}
