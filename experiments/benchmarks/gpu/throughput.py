"""Section b: speed of training MobileNetV3-Large, with mixed precision and channels_last on and off, and of its data path."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn import functional

from experiments.benchmarks.gpu.bench import CLASSES, Bench, Figures, MadeUp, rate
from nas.models.zoo import reference
from nas.training.augment import Augment
from nas.training.loop import TrainSetup, train
from nas.training.settings import TrainSettings

NETWORK: Final = "mobilenetv3_large_100"
SECONDS: Final = 4.0  # of timed steps, for each way to train
ROUNDS: Final = 3  # of the loop; both sides take turns in each
STORED: Final = 160  # side of the stored images, pixels


def throughput(bench: Bench) -> Figures:
    """Images a second: a plain step on one batch in four ways, and the training loop with and without its data path."""
    resolution, batch = bench.size(224, 32), bench.size(256, 4)
    yield "setting", f"{NETWORK}, {resolution} px, batch {batch}, bfloat16 where amp, nadamw"
    for amp in (True, False):
        for channels_last in (True, False):
            step = _plain_step(bench, resolution, batch, amp=amp, channels_last=channels_last)
            steps = rate(step, bench, bench.size(SECONDS, 0.01))
            name = f"images_per_second amp {'on' if amp else 'off'} channels_last {'on' if channels_last else 'off'}"
            yield name, {key: round(batch * value, 1) for key, value in steps.items()}
    dataset = MadeUp(bench.size(20, 2) * batch, bench.size(STORED, 32))
    rates: dict[str, list[float]] = {"stored images": [], "constant batch": []}
    for _ in range(bench.size(ROUNDS, 1)):
        rates["stored images"].append(_loop_rate(bench, dataset, resolution, batch))
        with _constant_batch():
            rates["constant batch"].append(_loop_rate(bench, dataset, resolution, batch))
    for side, values in rates.items():
        yield f"images_per_second of the loop, {side}", {"median": statistics.median(values), "rounds": values}
    ratios = [stored / constant for stored, constant in zip(*rates.values(), strict=True)]
    yield "stored images / constant batch", {"median": round(statistics.median(ratios), 3), "rounds": ratios}


def _plain_step(bench: Bench, resolution: int, batch: int, *, amp: bool, channels_last: bool) -> Callable[[], None]:
    """One training step on a batch that is on the device."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = bench.model(reference(NETWORK)).to(memory_format=layout)
    optimizer = create_optimizer_v2(model, opt="nadamw", lr=1e-3, weight_decay=0.02)
    x = torch.randn(batch, 3, resolution, resolution, device=bench.device).to(memory_format=layout)
    y = torch.arange(batch, device=bench.device) % CLASSES

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, torch.bfloat16) if amp else nullcontext():
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def _loop_rate(bench: Bench, dataset: MadeUp, resolution: int, batch: int) -> float:
    """Images a second of the training loop, by the median epoch after the first; an epoch ends when the device is done."""
    settings = TrainSettings(epochs=bench.size(4, 2), batch_size=batch)
    setup = TrainSetup(dataset=dataset, settings=settings, resolution=resolution, seed=0)
    report = train(bench.model(reference(NETWORK)), setup)
    return round(dataset.num / statistics.median(epoch.seconds for epoch in report.history[1:]), 1)


@contextmanager
def _constant_batch() -> Iterator[None]:
    """Inside, the loop trains on its first batch again and again."""
    batches: list[Tensor] = []
    augment: Any = Augment.__call__

    def same(self: Augment, images: Tensor, indices: Tensor, crops: Tensor) -> Tensor:
        if not batches:
            batches.append(augment(self, images, indices, crops))
        return batches[0]

    Augment.__call__ = same  # type: ignore[method-assign]
    try:
        yield
    finally:
        Augment.__call__ = augment  # type: ignore[method-assign]
