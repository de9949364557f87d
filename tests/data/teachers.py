"""Folders of trained networks, with the files that a student's training reads."""

import json
from pathlib import Path

import torch
from torch import nn

from nas.models.architecture import Architecture
from nas.models.export_folder import write_digests
from nas.models.network import OwnNetwork
from nas.training.checkpoint import save_weights


def write_teacher(folder: Path, architecture: Architecture, classes, *, model: nn.Module | None = None, seed=0) -> str:
    """Write the export of a network, without the formats for other programs; new weights unless `model` has some."""
    folder.mkdir(parents=True, exist_ok=True)
    network = OwnNetwork(architecture=architecture)
    torch.manual_seed(seed)
    (folder / "architecture.json").write_text(network.to_json())
    save_weights(model or network.build(len(classes)), folder / "model.safetensors")
    how = {"resolution": network.resolution, "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.25, 0.2]}
    (folder / "card.json").write_text(json.dumps({"id": network.id, "classes": list(classes), "preprocess": how}))
    write_digests(folder)
    return str(folder)
