"""What training a head is, whichever it is: steps on drawn shapes, and its quality before and after."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from experiments.heads.shapes import Shapes, draw

LR = 1e-2
HELD_OUT = 128  # images


def fit(model: nn.Module, steps: int, loss_of: Callable[[], Tensor]) -> list[float]:
    """Train on what `loss_of` draws anew in every step, and give the loss of each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps)
    losses: list[Tensor] = []
    model.train()
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def before_and_after(
    build: Callable[[], nn.Module],
    train: Callable[[nn.Module, np.random.Generator], list[float]],
    quality: Callable[[nn.Module, Shapes], float],
    *,
    size: int,
    seed: int,
) -> tuple[float, list[float], float, float]:
    """(the quality of a new model on images not trained on, the losses of its training, its seconds, the quality then)."""
    torch.manual_seed(seed)
    training, testing = np.random.default_rng(seed).spawn(2)
    held_out, model = draw(HELD_OUT, size, testing), build()
    before, started = quality(model, held_out), time.perf_counter()
    losses = train(model, training)
    return before, losses, time.perf_counter() - started, quality(model, held_out)
