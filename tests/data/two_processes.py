"""Train two layers in two processes of torch.distributed: each writes its weights and BatchNorm statistics as RANK.pt."""

import os
import sys
from pathlib import Path

import torch
from torch import distributed

from nas.training.loop import TrainSetup, train
from nas.training.settings import TrainSettings
from tests.data.stripes import Stripes, TwoLayers


def main(rank: int, folder: str) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = TwoLayers()
    train(model, TrainSetup(dataset=Stripes(), settings=TrainSettings(epochs=1, batch_size=16), resolution=12, seed=0))
    torch.save(model.state_dict(), Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    torch.multiprocessing.start_processes(main, (sys.argv[1],), nprocs=2, start_method="fork")  # neither imports torch again
