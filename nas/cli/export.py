"""`nas export` and `nas train`, which leave folders: parse, call one function, print."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas.cli.options import named_plugins, parsed
from nas.cli.output import log_to_stdout, shown_path
from nas.errors import NasError
from nas.plugins import load_plugin, plugin_names


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the folder of a network of a run, or of its whole front, that runs in timm, torch and ONNX Runtime, proven."""

    run: Path
    """The run folder."""
    trial: int | None = None
    """The trial's number, as `nas table` shows it."""
    best: str | None = None
    """An objective, to export the network that is best on it."""
    front: bool = False
    """Export every network on the front, each to its own folder."""
    where: str = ""
    """Only of those that meet all of these, such as "macs_m<60, params_m<3"."""
    within_error: bool = False
    """Rank by latency_ms even where the latency table's error is larger than the difference."""
    int8: bool = False
    """Write an ONNX file in eight bits too, calibrated on training images, with its accuracy."""
    output: Path | None = None
    """The folder to write, by default exports/trial<N> in the run folder; with --front the one that they lie in. An export
    that is there is replaced."""


def export(arguments: list[str]) -> None:
    """Write the folder of a run's network, or of its whole front, that runs in timm, torch and ONNX Runtime, proven."""
    import tyro

    options = parsed(ExportOptions, args=arguments, prog="nas export", config=(tyro.conf.PositionalRequiredArgs,))
    from nas.exporting.run import choose, export_front
    from nas.exporting.run import export as export_network
    from nas.runs.results import results

    if options.front:
        if options.trial is not None or options.best is not None or options.within_error:
            raise NasError("front: takes every network on it; leave out --trial, --best and --within-error, or --front")
        told: dict[str, Any] = {"conditions": options.where, "on_done": partial(_print_export, brief=True)}
        export_front(options.run, output=options.output, int8=options.int8, **told)
        return
    row = choose(
        results(options.run.resolve()),
        trial=options.trial,
        best=options.best,
        conditions=options.where,
        within_error=options.within_error,
    )
    _print_export(export_network(options.run, trial=int(row["trial"]), output=options.output, int8=options.int8))


def _print_export(folder: Path, *, brief: bool = False) -> None:
    from nas.exporting.fresh_process import INT8_FILE
    from nas.models.network import CARD_FILE

    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    accuracy, proof = card["accuracy"], {name: found for name, found in card["proof"].items() if name != INT8_FILE}
    worst = max(found["logit_difference"] for found in proof.values())
    tops = {part: top1 for part in ("val", "test") if (top1 := accuracy.get(f"{part}_top1_pct")) is not None}
    if brief:
        accuracies = ", ".join(f"{part}_top1_pct {top1:.2f}" for part, top1 in tops.items())
        print(f"{shown_path(folder)}: {accuracies}, logits within {worst:.1g}", flush=True)
        return
    if "not_measured" in accuracy:
        print(f"not measured again: {accuracy['not_measured']}; as its trial ended:")
    elif "epoch" in accuracy:
        best = f"{accuracy['epoch']}: {accuracy['trained_val_top1_pct']:.2f} %"
        print(f"best on the validation part after epoch {best}; loaded again:")
    elif not accuracy["identical_to_trial"]:
        print(f"on another device than the trial's, where it had {accuracy['trial_val_top1_pct']} % on the validation part:")
    for part, top1 in tops.items():
        int8 = f"; {accuracy['int8'][part]:.2f} in int8" if "int8" in accuracy else ""
        print(f"{part}_top1_pct {top1:.2f} over {accuracy[f'{part}_images']:,} images of {accuracy['dataset']}{int8}")
    (images,) = {f"{found['images']} images ({found['source']})" for found in proof.values()}
    same = 100 * min(found["same_class"] for found in proof.values())
    print(f"run without this project on {images}: {', '.join(proof)} give logits within {worst:.1g}, {same:g} % the same class")
    print(f"{shown_path(folder)}\n\nimport nas; model = nas.load({str(folder)!r})")


def train(arguments: list[str]) -> None:
    """Train one network with a full recipe, and leave its folder; a run that was killed goes on when it is called again."""
    found, options = named_plugins(("dataset",), arguments)
    if not options:
        options = ["--help"]
    if not found and not {"-h", "--help"} & set(options):
        raise NasError(f"--dataset is missing; give a name or a path of a file; known: {', '.join(plugin_names('dataset'))}")
    import tyro

    from nas.cli.live import shown_training
    from nas.exporting.full_training import Training, train_network

    dataset = found["dataset"] if found else load_plugin("dataset", "imagenette")
    training = parsed(
        Training,
        default=Training(network=tyro.MISSING, dataset=dataset),
        args=options,
        prog=f"nas train NETWORK --dataset {dataset.name}",
        description=f"Train one network. --dataset NAME is one of {', '.join(plugin_names('dataset'))}, or the path of a file.",
    )
    log_to_stdout()
    with shown_training(training.train.epochs) as shown:
        folder = train_network(training, on_epoch=shown.on_epoch, on_step=shown.on_step)
    _print_export(folder)
