"""`nas scale`: parse, call one function, print."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.options import parsed
from nas.cli.output import log_to_stdout, print_rows, shown_path
from nas.errors import NasError

if TYPE_CHECKING:
    from nas.models.architecture import Architecture
    from nas.models.scaling import ScalingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """Scale a network: depth by alpha^phi, width by beta^phi, resolution by gamma^phi (EfficientNet, arXiv:1905.11946)."""

    network: str
    """A published network's name, an export's folder or an architecture's file; or a run folder: its best trained network on the
    first objective, or of a fit's run the network and the rule of the fit."""
    phi: tuple[float, ...] = ()
    """How far, each a network: below 0 smaller, above 0 larger; by default 1 2 3."""
    macs: tuple[str, ...] = ()
    """Instead of phi, at most so many multiply-adds, such as 300M or 1.2B: the largest phi that keeps to it, each."""
    alpha: float | None = None
    """By which depth grows, 1 or more; by default 1.2, the paper's."""
    beta: float | None = None
    """By which width grows, 1 or more; by default 1.1."""
    gamma: float | None = None
    """By which resolution grows, 1 or more; by default 1.15."""
    fit: int | None = None
    """Find alpha, beta and gamma for the network of a run first: train so many networks of about twice the multiply-adds by the
    run's recipe. `nas resume` continues one that was killed."""
    trial: int | None = None
    """The trial of a run folder whose network is taken."""
    classes: int | None = None
    """Classes to count parameters and multiply-adds with, by default the run's or the export's, or 1000."""
    output: Path | None = None
    """The folder to write, by default scaled/NAME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A network to scale."""

    architecture: "Architecture"
    name: str
    num_classes: int
    rule: "ScalingRule | None" = None
    """What a fit found for it."""


def scale(arguments: list[str]) -> None:
    """Make a network larger or smaller by EfficientNet's rule, at given phi or within multiply-adds, or fit the rule to a run."""
    import pandas as pd
    import tyro

    from nas.models.scaling import ScalingRule, check_output, parse_macs, scale_family, scale_to_macs, write_family
    from nas.runs.folder import EXPERIMENT_FILE

    options: ScaleOptions = parsed(ScaleOptions, args=arguments, prog="nas scale", config=(tyro.conf.PositionalRequiredArgs,))
    given = {name: value for name in ("alpha", "beta", "gamma") if (value := getattr(options, name)) is not None}
    rule, budgets = ScalingRule(**given), [parse_macs(text) for text in options.macs]
    if options.phi and options.macs:
        raise NasError("phi and macs are two ways to say how large; give --phi or --macs")
    if options.fit is not None and given:
        raise NasError(f"fit finds alpha, beta and gamma by itself; leave out --{' and --'.join(given)}")
    of_run = (Path(options.network) / EXPERIMENT_FILE).is_file()
    found = _of_run(Path(options.network).resolve(), options) if of_run else _by_name(options)
    target = (options.output or Path("scaled", found.name)).resolve()
    check_output(target)
    fitted = found.rule if options.fit is None else _fitted(Path(options.network), options)
    if fitted is not None and not given:
        rule = fitted
    num_classes = found.num_classes if options.classes is None else options.classes
    if budgets:
        each = [scale_to_macs(found.architecture, budget, rule, num_classes=num_classes) for budget in budgets]
        members = tuple({member.phi: member for member in each}.values())
    else:
        members = scale_family(found.architecture, options.phi or (1, 2, 3), rule, num_classes=num_classes)
    folder = write_family(members, target)
    print(f"{found.name} by {rule}; multiply-adds with {num_classes:,} classes")
    columns = ["phi", "depth", "width", "resolution", "params_m", "macs_m", "id"]
    print_rows(pd.DataFrame([member.to_record() for member in members]), columns)
    print(f"\n{shown_path(folder)}\nnas train {shown_path(folder / members[0].file)} --dataset DATASET")


def _by_name(options: ScaleOptions) -> _Found:
    from nas.exporting.folder import read_export
    from nas.models.network import export_folder, find_network

    for field in ("fit", "trial"):
        if getattr(options, field) is not None:
            raise NasError(f"{field}: {options.network[:80]!r} is not a run folder, which `nas search` makes")
    architecture, folder = find_network(options.network).architecture, export_folder(options.network)
    path = Path(options.network).resolve()
    name = f"{path.parent.name}-{path.stem}" if path.is_file() else path.name  # as many families have a phi1
    num_classes = 1000 if folder is None else len(read_export(folder)[1])  # ImageNet's, by which papers count
    return _Found(architecture=architecture, name=name, num_classes=num_classes)


def _of_run(run: Path, options: ScaleOptions) -> _Found:
    from nas.runs.folder import read_experiment
    from nas.searching.scaling import read_fit, trained_network

    num_classes = len(read_experiment(run)["dataset"]["classes"])
    fit = read_fit(run) if options.fit is None and options.trial is None else None
    if fit is not None:
        print(fit.verdict)
        return _Found(architecture=fit.base, name=run.name, num_classes=num_classes, rule=fit.rule)
    number, architecture = trained_network(run, options.trial)
    print(f"trial {number} of {shown_path(run)}")
    return _Found(architecture=architecture, name=f"{run.name}-trial{number}", num_classes=num_classes)


def _fitted(run: Path, options: ScaleOptions) -> "ScalingRule | None":
    """The rule that a new fit finds."""
    from nas.cli.live import shown_search
    from nas.searching.scaling import fit_scaling

    log_to_stdout()
    folder = fit_scaling(run, trial=options.trial, trials=options.fit or 0, watch=shown_search)
    print()
    fit = _of_run(folder, ScaleOptions(network=str(folder)))
    print(f"nas scale {shown_path(folder)}\n")
    return fit.rule
