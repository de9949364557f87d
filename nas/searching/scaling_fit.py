"""The alpha, beta and gamma that scale a trained network best, by a search of the compound space at phi = 1."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.cost import cost
from nas.models.network import parse_network
from nas.models.scaling import ScalingRule
from nas.objectives import Limit
from nas.objectives.macs_m import OBJECTIVE as MACS
from nas.objectives.val_top1_pct import OBJECTIVE as TOP1
from nas.runs.front import as_believed, best
from nas.runs.results import history, results, settings_of
from nas.runs.run_folder import read_experiment
from nas.runs.serialization import experiment_of, space_of
from nas.spaces import space
from nas.statistics import standard_error_pct

if TYPE_CHECKING:
    from nas.searching.tuner import Watch

TOLERANCE: Final = 0.05  # relative deviation from twice the MACs; as depths round up, the rule alone gives B0 1.9 to 2.8 times


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingFit:
    """The best scaling rule of a fit."""

    base: Architecture
    rule: ScalingRule
    """The rule that makes the most accurate network from `base` at phi = 1."""
    verdict: str
    """Its accuracy and its lead over the second best rule, in one sentence."""


def fit_scaling(run: str | PathLike[str], *, trial: int | None = None, trials: int = 20, watch: "Watch" = nullcontext) -> Path:
    """Search for the rule by which a run's network scales best; returns the folder of that search, for `read_fit`.

    The network is that of `trial`, by default the run's best. The search trains `trials` networks at phi = 1, each within 5 % of
    twice its MACs, with the run's settings. `resume` continues a fit that was killed.
    Source: EfficientNet, arXiv:1905.11946, section 3.3, step 1. Raises: NasError as `search` does.
    """
    from nas.searching.tuner import search  # which loads Ray

    described, (number, base) = read_experiment(Path(run)), trained_network(run, trial)
    experiment = experiment_of(described, Path(run).resolve().parent)
    compound: Any = space("compound")
    twice = 2 * cost(base, len(experiment.dataset.classes)).macs / 1e6
    limit = Limit(objective=MACS, low=(1 - TOLERANCE) * twice, high=(1 + TOLERANCE) * twice)
    around = replace(compound, base=base, min_phi=1.0, max_phi=1.0)
    alone = replace(experiment, latency=None, start=(), reuse=(), baselines=(), early_stopping=False, keep_all=False, tune=())
    row: Any = results(run).set_index("trial").loc[number]
    alone = replace(alone, train=settings_of(row, experiment.train))
    fit = replace(
        alone, space=around, objectives=(TOP1,), limits=(limit,), sampler="frontier", trials=trials, shared_weights="none"
    )
    return search(fit, name=f"{described['name']}-scaling", watch=watch)


def read_fit(run: str | PathLike[str]) -> ScalingFit | None:
    """The result of a fit so far; None if the run is not a fit."""
    compound: Any = space_of(read_experiment(Path(run)))
    if compound.name != "compound" or not compound.min_phi == compound.max_phi == 1:
        return None
    df, top1 = as_believed(results(run)), TOP1.name
    best(df, top1)  # raises if none is done
    done = df[df["status"] == "done"].sort_values([top1, "trial"], ascending=[False, True]).drop_duplicates("id").head(2)
    sds = done["val_top1_pct_believed_sd"]
    believed = bool(sds.notna().all())
    rules = [compound.rule({name: row[f"params.{name}"] for name in compound.parameters}) for _, row in done.iterrows()]
    images = int(history(run)["val_images"].max())
    what = f"a believed {top1} of" if believed else top1
    verdict = f"{rules[0]} is the best, {what} {done[top1].iloc[0]:.2f} over {images:,} images"
    if len(done) > 1:
        ahead = done[top1].iloc[0] - done[top1].iloc[1]
        error = math.hypot(*(sds if believed else (standard_error_pct(top, images) for top in done[top1])))
        verdict += f"; the next, {rules[1]}, is {ahead:.2f} points behind, {'' if ahead > error else 'no '}more than "
        how = "of what is believed" if believed else "binomial; each was trained once"
        verdict += f"the standard error of the difference, {error:.2f} points ({how})"
    return ScalingFit(base=compound.architecture, rule=rules[0], verdict=verdict)


def trained_network(run: str | PathLike[str], trial: int | None = None) -> tuple[int, Architecture]:
    """(number, network) of a trial of a run, by default the best on the run's first objective.

    Raises: NasError for a trial that does not exist or is not done, or a network of timm's.
    """
    df = results(run)
    done = df[df["status"] == "done"].set_index("trial", drop=False)
    if trial is not None and trial not in done.index:
        raise NasError(f"trial {trial} is not a done one of {run}; done: {', '.join(map(str, done.index)) or 'none'}")
    row: Any = best(df, next(iter(df.attrs["directions"])), within_error=True) if trial is None else done.loc[trial]
    return int(row["trial"]), parse_network(row["architecture"]).architecture
