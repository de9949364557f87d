"""`nas scale`: parse, call one function, print. Read `cli.py` next."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from nas.errors import NasError
from nas.parsing import parsed
from nas.printing import log_to_stdout, print_rows, shown_path

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.family import Member, ScalingRule

CLASSES: Final = 1000  # ImageNet's, by which papers count


def scale(arguments: list[str]) -> None:
    """Make a network larger or smaller by EfficientNet's rule, at given phi or within multiply-adds, or fit the rule to a run."""
    import tyro

    def make(
        network: Annotated[str, tyro.conf.Positional],
        *,
        phi: tuple[float, ...] = (),
        macs: tuple[str, ...] = (),
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        fit: bool = False,
        trial: int | None = None,
        classes: int | None = None,
        output: Path | None = None,
    ) -> None:
        """Scale a network: depth by alpha^phi, width by beta^phi, resolution by gamma^phi (EfficientNet, arXiv:1905.11946).

        Args:
            network: A published network's name, an export's folder, an architecture's file or text; or a run folder, of which the
                best trained network on the run's first objective is taken.
            phi: How far, each a network: below 0 smaller, above 0 larger; by default 1 2 3.
            macs: Instead of phi, at most so many multiply-adds, such as 300M or 1.2B: the largest phi that keeps to it, each.
            alpha: By which depth grows, 1 or more; by default 1.2, the paper's.
            beta: By which width grows, 1 or more; by default 1.1.
            gamma: By which resolution grows, 1 or more; by default 1.15.
            fit: Find alpha, beta and gamma for the network of a run: train each triple of a grid by the run's recipe, at twice
                the multiply-adds. What was killed goes on, and what is finished is not trained again.
            trial: Of a run folder, the trial whose network is taken.
            classes: Classes to count parameters and multiply-adds with, by default the run's or the export's, or 1000.
            output: The folder to write, by default scaled/NAME.
        """
        from nas.family import ScalingRule, check_output, parse_macs, scale_family, scale_to_macs, write_family

        given = {name: value for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)) if value is not None}
        rule, budgets = ScalingRule(**given), [parse_macs(text) for text in macs]
        if phi and macs:
            raise NasError("phi and macs are two ways to say how large; give --phi or --macs")
        if fit and given:
            raise NasError(f"fit finds alpha, beta and gamma by itself; leave out --{' and --'.join(given)}")
        architecture, name, num_classes = _found(network, trial, fit=fit)
        num_classes = num_classes if classes is None else classes
        target = output if output is not None else Path("scaled") / name
        check_output(target)
        if fit:
            rule = _fitted(network, trial)
        if budgets:
            found = [scale_to_macs(architecture, budget, rule, num_classes=num_classes) for budget in budgets]
            members = tuple({member.phi: member for member in found}.values())
        else:
            members = scale_family(architecture, phi or (1, 2, 3), rule, num_classes=num_classes)
        folder = write_family(members, target)
        print(f"{name} by {rule}; multiply-adds with {num_classes:,} classes")
        _print_members(members)
        print(f"\n{shown_path(folder)}\nnas train {shown_path(folder / members[0].file)} --dataset DATASET")

    parsed(make, args=arguments, prog="nas scale")


def _found(network: str, trial: int | None, *, fit: bool) -> "tuple[Architecture, str, int]":
    """(the architecture to scale, what to call it, the number of its classes)."""
    from nas.architecture import is_text
    from nas.exports import read_export
    from nas.networks import export_folder, find_network
    from nas.runs import EXPERIMENT_FILE, read_experiment
    from nas.triples import trained_network

    path = Path(network)
    if not is_text(network) and (path / EXPERIMENT_FILE).is_file():
        described = read_experiment(path)
        number, architecture = trained_network(path, trial)
        print(f"trial {number} of {shown_path(path.resolve())}")
        return architecture, f"{path.resolve().name}-trial{number}", len(described["dataset"]["classes"])
    if fit or trial is not None:
        raise NasError(f"{'fit' if fit else 'trial'}: {network[:80]!r} is not a run folder, which `nas search` makes")
    found = find_network(network)
    if found.architecture is None:
        raise NasError(
            f"{network} is timm's own network, which has no architecture to scale; give one that `nas` can build itself"
        )
    folder = export_folder(network)
    num_classes = len(read_export(folder)[1]) if folder is not None else CLASSES
    return found.architecture, found.id if is_text(network) else _name(network), num_classes


def _name(network: str) -> str:
    """What to call a published network, an export, or a file by its folder too, as many families have a phi1."""
    if not Path(network).exists():
        return network
    from nas.networks import ARCHITECTURE_FILE

    path = Path(network).resolve()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name == ARCHITECTURE_FILE else f"{path.parent.name}-{path.stem}"


def _fitted(run: str, trial: int | None) -> "ScalingRule":
    """The rule that a fit finds, which is trained if it was not yet."""
    from nas.coefficients import fit_scaling
    from nas.progress import shown_search

    log_to_stdout()
    fit = fit_scaling(run, trial=trial, watch=shown_search)
    print()
    print_rows(fit.table, list(fit.table.columns))
    print(f"\n{fit.verdict}\n{shown_path(fit.run)}\n")
    return fit.rule


def _print_members(members: "tuple[Member, ...]") -> None:
    import pandas as pd

    columns = ["phi", "depth", "width", "resolution", "params_m", "macs_m", "id"]
    print_rows(pd.DataFrame([member.to_record() for member in members]), columns)
