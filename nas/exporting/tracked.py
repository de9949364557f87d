"""What the trackers of a full training get: the training as one job, its epochs, and the accuracy and README.md of its export."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.models.export_folder import README_FILE
from nas.models.network import CARD_FILE, Network
from nas.runs.trial import Status
from nas.trackers import Job, Tracking, open_trackers, plain_values
from nas.training.settings import Epoch


@contextmanager
def tracked_training(
    log: Sequence[str], network: Network, target: Path, *, checkpoints: Path, params: Mapping[str, Any], num_classes: int
) -> Iterator[Callable[[Epoch], None]]:
    """Logs a training and the export in `target` that the block writes: gives a callback of each epoch. `log` names trackers.

    Their ids are in the folder of checkpoints, so that a training that was killed continues in them.

    Raises: NasError for a tracker that cannot be opened.
    """
    tracking, name = Tracking(open_trackers(log), checkpoints), target.name
    if not tracking.is_on:
        yield lambda epoch: None  # noqa: ARG005
        return
    costs = {cost: value / 1e6 for cost, value in network.costs(num_classes).items()}
    values = {"params_m": costs["params"], "macs_m": costs["macs"]}
    tracking.begin(Job(key=name, group=name, kind="train", folder=target.parent, params=plain_values(params), values=values))
    status, last = Status.FAILED, dict[str, Any]()
    try:
        yield lambda epoch: tracking.epoch(name, epoch)
        status, last = Status.DONE, _accuracy(target)
        tracking.attach(name, target / README_FILE)
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
        raise
    except NasError as error:
        last = {"error": str(error)}
        raise
    finally:
        tracking.end(name, status, last)
        tracking.close()


def _accuracy(target: Path) -> dict[str, Any]:
    """What an export's card says of its accuracy: of the best epoch, and on the test part."""
    accuracy = json.loads((target / CARD_FILE).read_text(encoding="utf-8"))["accuracy"]
    return {
        "best_epoch": accuracy["epoch"],
        "best_val_top1_pct": accuracy["val_top1_pct"],
        "test_top1_pct": accuracy["test_top1_pct"],
    }
