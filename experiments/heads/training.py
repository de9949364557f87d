"""Trains a head on synthetic shapes, and measures its quality before and after."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from experiments.heads.shapes import Shapes, draw

LR = 1e-2
NUM_TEST_IMAGES = 128


def fit(model: nn.Module, steps: int, compute_loss: Callable[[], Tensor]) -> list[float]:
    """Train on `compute_loss`, the loss of a new batch at every call; gives the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps)
    losses: list[Tensor] = []
    model.train()
    for _ in range(steps):
        loss = compute_loss()
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
    """(quality before training, loss of each step, seconds of training, quality after); quality is that on test images."""
    torch.manual_seed(seed)
    training, testing = np.random.default_rng(seed).spawn(2)
    test_images, model = draw(NUM_TEST_IMAGES, size, testing), build()
    before, started = quality(model, test_images), time.perf_counter()
    losses = train(model, training)
    return before, losses, time.perf_counter() - started, quality(model, test_images)
