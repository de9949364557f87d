"""The worker's measurement of objectives that are only to look at, on the newly initialised network."""

import logging
import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Final

import torch

from nas.datasets import load_part
from nas.objectives import Candidate, Objective
from nas.searching.task import Task
from nas.training.device import pick_device
from nas.training.loop import TrainSetup

logger = logging.getLogger(__name__)

NUM_IMAGES: Final = 128  # the batch of NASWOT's authors; see nas/objectives/naswot.py


def measure_proxies(candidate: Candidate, objectives: Iterable[Objective], task: Task) -> dict[str, float]:
    """The values of the objectives that steer no search and need no training, by name; without those that are not finite.

    An error in one of them fails the trial before its training, as an error in any other objective does after it.
    """
    proxies = [objective for objective in objectives if not (objective.steers or objective.needs_training)]
    if any(objective.needs_images for objective in proxies):
        candidate = _with_images(candidate, task)
    values = {}
    for objective in proxies:
        value = objective.as_number(objective.measure(replace(candidate, model=deepcopy(candidate.model))))
        if math.isfinite(value):
            values[objective.name] = value
        else:
            logger.warning("objective %s is %s for this network, which has no value of it", objective.name, value)
    return values


def _with_images(candidate: Candidate, task: Task) -> Candidate:
    """The candidate with the initial module of its training, and random training images, the same ones in every trial."""
    network, device = candidate.network, pick_device()
    if device.type == "cpu":
        torch.set_num_threads(1)  # as in the training, so that a worker's first trial computes what the next ones do
    setup = TrainSetup(dataset=task.dataset, settings=task.settings, resolution=network.resolution, seed=task.seed)
    part = load_part(task.dataset, "train")
    drawn = torch.randperm(len(part), generator=torch.Generator().manual_seed(task.seed))[:NUM_IMAGES].numpy()
    torch.manual_seed(task.seed)
    return replace(
        candidate,
        model=network.build(candidate.num_classes).to(device),
        images=setup.preprocess(network.resolution)(torch.from_numpy(part.images[drawn]).to(device)),
        labels=torch.from_numpy(part.labels[drawn]).to(device),
    )
