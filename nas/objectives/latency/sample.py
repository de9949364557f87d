"""Networks of a space for a device that cannot run this package: ONNX files to measure there, and a list for their milliseconds.

Read `fit_table.py` next, which makes a latency table from the list.
"""

import math
import random
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Final

from nas.errors import NasError
from nas.files import locked, write_atomically
from nas.models.architecture import Architecture
from nas.models.cost import cost
from nas.models.onnx import onnx_model
from nas.objectives import Limit
from nas.objectives.latency.build_table import is_within, reachable
from nas.objectives.latency.measured import file_name, list_text, read_list
from nas.spaces import SearchSpace, sample

LIST: Final = "networks.csv"
QUIET_DRAWS: Final = 200  # in a row without a new layer end the drawing of the networks where walks start
END_WALKS: Final = 10  # to either end of the range of multiply-adds
STEPS: Final = 300  # of a walk
TOLERANCE: Final = 0.02  # relative; a walk ends when its multiply-adds are this near to the target
ATTEMPTS: Final = 5  # walks to one target, until one ends at a new network
LEAST, MOST = 1.0, 1e18  # multiply-adds below and above those of any network


def spread(
    space: SearchSpace,
    number: int,
    *,
    resolution: int | None = None,
    limits: Sequence[Limit] = (),
    num_classes: int = 1000,
    seed: int = 0,
) -> list[Architecture]:
    """Different networks of a space, whose multiply-adds are spread evenly over the logarithm of their range, the least first.

    Random networks alone have nearly the same multiply-adds. So each network comes from a random walk: it starts at a random
    network, changes one parameter at a time, and keeps what leads nearer to its own number of multiply-adds.

    Raises: NasError if the walks end at too few networks with this resolution and these limits.
    """
    generator = random.Random(seed)
    starts = reachable(space, resolution=resolution, limits=limits, num_classes=num_classes, quiet_draws=QUIET_DRAWS, seed=seed)

    def allowed(network: Architecture) -> bool:
        return (resolution is None or network.resolution == resolution) and is_within(network, limits, num_classes)

    networks: dict[Architecture, None] = {}

    def walk(macs: float) -> Architecture:
        return _walk(space, generator.choice(starts), macs, allowed, taken=networks, generator=generator)

    low = min(_macs(walk(LEAST)) for _ in range(END_WALKS))
    high = max(_macs(walk(MOST)) for _ in range(END_WALKS))
    for i in range(number):
        target = low * (high / low) ** (i / max(number - 1, 1))
        walked = (walk(target) for _ in range(ATTEMPTS))
        unused = (start for start in starts if start not in networks)
        network = next((one for one in walked if one not in networks), None) or next(unused, None)
        if network is None:
            raise NasError(
                f"networks: {number} are too many, as walks through space {space.name} with this resolution and these limits "
                f"ended at only {len(networks)} different ones; give fewer"
            )
        networks[network] = None
    return sorted(networks, key=_macs)


def _macs(network: Architecture) -> int:
    return cost(network, 0).macs


def _walk(
    space: SearchSpace,
    start: Architecture,
    macs: float,
    allowed: Callable[[Architecture], bool],
    *,
    taken: Container[Architecture],
    generator: random.Random,
) -> Architecture:
    """The end of a random walk from an allowed network to another one with about `macs` multiply-adds, which is not taken.

    Within the tolerance the walk goes anywhere, as the nearest networks may be taken. After STEPS it may end at a taken one.
    """
    point, network = space.encode(start), start
    for _ in range(STEPS if point else 0):
        ratio = _macs(network) / macs
        if abs(ratio - 1) < TOLERANCE and network not in taken:
            break
        name = generator.choice(list(point))
        changed = point | sample({name: space.parameters[name]}, generator)
        candidate = space.decode(changed)
        if abs(math.log(_macs(candidate) / macs)) <= max(abs(math.log(ratio)), math.log1p(TOLERANCE)) and allowed(candidate):
            point, network = changed, candidate
    return network


def write_sample(
    networks: Sequence[Architecture],
    num_classes: int,
    folder: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Path:
    """Write networks to a folder as ONNX files with random weights for one image, and their list; the list's path.

    After an interruption, the same call writes the files that are missing. A list that is there stays as it is, so that
    milliseconds in it are not lost. `on_progress` gets the number of files that are there, and the number of all.

    Raises: NasError if the folder has something else, another process writes there, or it cannot be written.
    """
    file, lock = folder / LIST, folder / f".{LIST}.lock"
    _check_folder(folder, networks, num_classes)
    with locked(lock, busy=f"{folder} is being written by another process; wait, or give another folder with --output"):
        if not file.is_file():
            write_atomically(file, list_text(networks, num_classes))
        for number, network in enumerate(networks):
            on_progress(number, len(networks))
            if not (target := folder / file_name(network)).is_file():
                write_atomically(target, onnx_model(network, num_classes, batch=1).SerializeToString())
        on_progress(len(networks), len(networks))
        lock.unlink(missing_ok=True)
    return file


def _check_folder(folder: Path, networks: Iterable[Architecture], num_classes: int) -> None:
    """Check that a folder is missing, empty, or has the list of these networks. Raises: NasError if not."""
    other = "give another folder with --output"
    if not folder.is_dir():
        if folder.exists():
            raise NasError(f"{folder} is no folder; {other}")
        return
    if (folder / LIST).is_file():
        listed = {(row.architecture, row.num_classes) for row in read_list(folder / LIST)}
        if listed != {(network, num_classes) for network in networks}:
            raise NasError(f"{folder} has a list of other networks; {other}, or the options with which that list was made")
    elif any(not path.name.startswith(f".{LIST}.") for path in folder.iterdir()):
        raise NasError(f"{folder} is not empty and has no {LIST}; {other}")
