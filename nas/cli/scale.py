"""`nas scale`: makes a network larger or smaller."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nas.cli.output import log_to_stdout, print_rows, shown_path
from nas.errors import NasError
from nas.models.architecture import Architecture
from nas.models.scaling import ScalingRule, check_output, parse_macs, scale_family, scale_to_macs, write_family
from nas.runs.run_folder import EXPERIMENT_FILE, read_experiment


class _Base(NamedTuple):
    """A network to scale; if it comes from the run of a fit, also the fitted rule."""

    architecture: Architecture
    name: str
    num_classes: int
    rule: ScalingRule | None = None


def scale(
    network: str,
    /,
    *,
    phi: tuple[float, ...] = (),
    macs: tuple[str, ...] = (),
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    fit: int | None = None,
    trial: int | None = None,
    classes: int | None = None,
    output: Path | None = None,
) -> None:
    """Scale a network by EfficientNet's rule (arXiv:1905.11946): depth by alpha^phi, width by beta^phi, resolution by gamma^phi.

    Args:
        network: A published network's name, an export's folder, an architecture's file, or a run folder: then the best trained
            network on its first objective. From the run of a fit come the fit's network and rule.
        phi: One network for each value, larger above 0, smaller below 0; by default 1 2 3.
        macs: Instead of phi, budgets of multiply-adds such as 300M 1.2B; each gets the largest phi within it.
        alpha: Growth of the depth, 1 or more; by default 1.2, the paper's.
        beta: Growth of the width, 1 or more; by default 1.1.
        gamma: Growth of the resolution, 1 or more; by default 1.15.
        fit: First find alpha, beta and gamma for the network of a run: train this many networks of about twice the multiply-adds
            with the run's settings. `nas resume` resumes a fit that was killed.
        trial: With a run folder: the trial whose network to scale.
        classes: Classes to count parameters and multiply-adds with, by default the run's or the export's, or 1000.
        output: The folder to write, by default scaled/NAME.
    """
    from nas.cli.progress import shown_search
    from nas.searching.scaling_fit import fit_scaling

    coefficients = {name: value for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)) if value is not None}
    rule, budgets = ScalingRule(**coefficients), [parse_macs(text) for text in macs]
    if phi and macs:
        raise NasError("phi and macs are two ways to say how large; give --phi or --macs")
    if fit is not None and coefficients:
        raise NasError(f"fit finds alpha, beta and gamma by itself; leave out --{' and --'.join(coefficients)}")
    run = Path(network).resolve()
    is_run = (run / EXPERIMENT_FILE).is_file()
    base = _of_run(run, trial, fit) if is_run else _by_name(network, trial=trial, fit=fit)
    target = (output or Path("scaled", base.name)).resolve()
    check_output(target)
    if fit is not None:
        log_to_stdout()
        fit_run = fit_scaling(run, trial=trial, trials=fit, watch=shown_search)
        print()
        rule = _of_run(fit_run).rule or rule
        print(f"nas scale {shown_path(fit_run)}\n")
    elif base.rule is not None and not coefficients:
        rule = base.rule
    num_classes = base.num_classes if classes is None else classes
    if budgets:
        each = [scale_to_macs(base.architecture, budget, rule, num_classes=num_classes) for budget in budgets]
        members = tuple({member.phi: member for member in each}.values())
    else:
        members = scale_family(base.architecture, phi or (1, 2, 3), rule, num_classes=num_classes)
    folder = write_family(members, target)
    print(f"{base.name} by {rule}; multiply-adds with {num_classes:,} classes")
    columns = ["phi", "depth", "width", "resolution", "params_m", "macs_m", "id"]
    print_rows(pd.DataFrame([member.to_record() for member in members]), columns)
    print(f"\n{shown_path(folder)}\nnas train {shown_path(folder / members[0].file)} --dataset DATASET")


def _by_name(network: str, **only_of_runs: int | None) -> _Base:
    from nas.models.export_folder import read_export
    from nas.models.network import export_folder, find_network

    for option, value in only_of_runs.items():
        if value is not None:
            raise NasError(f"{option}: {network[:80]!r} is not a run folder, which `nas search` makes")
    architecture, folder, path = find_network(network).architecture, export_folder(network), Path(network).resolve()
    name = f"{path.parent.name}-{path.stem}" if path.is_file() else path.name  # every family has a phi1.json
    return _Base(architecture, name, 1000 if folder is None else len(read_export(folder)[1]))  # as papers do, for ImageNet


def _of_run(run: Path, trial: int | None = None, fit: int | None = None) -> _Base:
    """The network of a trial; for the run of a fit, without `trial` and `fit`, the fit's network and rule."""
    from nas.searching.scaling_fit import read_fit, trained_network

    num_classes = len(read_experiment(run)["dataset"]["classes"])
    scaling_fit = read_fit(run) if trial is None and fit is None else None
    if scaling_fit is not None:
        print(scaling_fit.verdict)
        return _Base(scaling_fit.base, run.name, num_classes, scaling_fit.rule)
    number, architecture = trained_network(run, trial)
    print(f"trial {number} of {shown_path(run)}")
    return _Base(architecture, f"{run.name}-trial{number}", num_classes)
