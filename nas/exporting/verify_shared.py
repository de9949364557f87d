"""Trains networks alone that shared weights have scored, to check the scores. Never reads the test part."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from os import PathLike

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.exporting.alone import alone_trainings
from nas.exporting.verify import train_in_parallel
from nas.files import locked
from nas.paths import absolute
from nas.runs.alone import ALONE
from nas.runs.results import results
from nas.runs.run_folder import read_experiment
from nas.runs.serialization import experiment_of
from nas.runs.shared_check import MIN_NETWORKS, SharedCheck, check_shared, scored_networks
from nas.searching.plan import check_unchanged


def verify_shared(
    run: str | PathLike[str],
    *,
    networks: int = 8,
    seeds: int = 2,
    on_done: Callable[[int, int], None] = lambda _done, _all: None,
) -> SharedCheck:
    """Train `networks` scored networks alone, each with seeds 0 to `seeds` - 1, and compare their accuracies with the scores.

    They are spread evenly over the scored networks, sorted by the first objective that is a cost, else by multiply-adds. The
    settings are those of the run. Each training leaves a file under `alone/` in the run folder. Finished trainings are
    skipped, killed ones resume. On this machine, as many run in parallel as trials of the search would.

    Raises: NasError for a run with fewer than two scored networks, or whose images are gone or others now; or, once all
    trainings have ended, if one of them failed.
    """
    for field, value, least in (("networks", networks, MIN_NETWORKS), ("seeds", seeds, 1)):
        if value < least:
            raise NasError(f"{field}: {value} is not {least} or more")
    folder = absolute(run).resolve()
    described = read_experiment(folder)
    experiment = experiment_of(described, folder.parent)
    df = results(folder)
    scored = scored_networks(df, len(experiment.dataset.classes))
    if len(scored) < MIN_NETWORKS:
        raise NasError(
            f"{folder} has {len(scored)} networks scored by shared weights, and {MIN_NETWORKS} or more are needed; "
            "`nas search` scores some with --shared-weights train"
        )
    rows = _spread(scored, df, networks)
    trainings = alone_trainings(experiment, folder, rows.reset_index(), seeds=range(seeds))
    with locked(folder / ALONE / ".lock", busy=f"{folder / ALONE} is in use by another `nas verify`; wait for its end"):
        unfinished = {file.stem: training for file, training in trainings.items() if not file.is_file()}
        finished = len(trainings) - len(unfinished)
        train_in_parallel(
            replace(experiment, address=None),
            unfinished,
            check=partial(check_unchanged, experiment, folder, described),
            on_done=lambda done: on_done(finished + done, len(trainings)),
        )
    check = check_shared(folder)
    assert check is not None, "two networks or more have a record now"
    return check


def _spread(scored: pd.DataFrame, df: pd.DataFrame, networks: int) -> pd.DataFrame:
    """That many of the scored networks, evenly over their ranks by cost; the cheapest and the most expensive are among them."""
    costs = [name for name in df.attrs["directions"] if name != df.attrs["learning_curve"]]
    ranked = scored.sort_values([*costs[:1], "macs_m"], kind="stable")
    places = np.linspace(0, len(ranked) - 1, min(networks, len(ranked))).round().astype(int)
    return ranked.iloc[places]
