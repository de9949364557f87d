"""`nas export` and `nas train`, which write export folders, and `nas push`, which sends one."""

import json
from pathlib import Path
from typing import Any, Final

import tyro

from nas.cli.app import HELP
from nas.cli.options import Best, Run, Where, WithinError
from nas.cli.output import log_to_stdout, shown_path
from nas.errors import NasError
from nas.plugins import load_plugin, plugin_names

SHORT: Final = {"--teacher": "--train.teacher"}  # options of `nas train`


def export(
    run: Run,
    /,
    *,
    trial: int | None = None,
    best: Best = None,
    front: bool = False,
    where: Where = "",
    within_error: WithinError = False,
    int8: bool = False,
    output: Path | None = None,
) -> None:
    """Write a network of a run, or its whole front, as folders that run in timm, torch and ONNX Runtime.

    Args:
        trial: The trial's number, as `nas table` shows it.
        front: Export every network on the front, each to its own folder.
        int8: Also write an ONNX file in eight bits, calibrated on training images, and measure its accuracy.
        output: The folder to write, by default exports/trial<N> in the run folder; with --front the parent of the folders. An
            earlier export there is replaced.
    """
    from nas.exporting.from_run import choose, export_front
    from nas.exporting.from_run import export as export_trial
    from nas.runs.results import results

    if not front:
        df = results(run.resolve())
        row = choose(df, trial=trial, best=best, conditions=where, within_error=within_error)
        _print_export(export_trial(run, trial=int(row["trial"]), output=output, int8=int8))
        return
    if trial is not None or best is not None or within_error:
        raise NasError("front: takes every network on it; leave out --trial, --best and --within-error, or --front")
    export_front(run, conditions=where, output=output, int8=int8, on_done=_print_export_line)


def push(folder: Path, repo: str, /, *, private: bool = False) -> None:
    """Send an export to the Hugging Face hub, from where timm loads it.

    Args:
        folder: The folder that `nas export` or `nas train` has written.
        repo: The repository, OWNER/NAME, such as anna/mobilenet-digits; it is made if it is not there.
        private: Whether a new repository is private.
    """
    from nas.exporting.push import push as push_export

    print(push_export(folder, repo, private=private))
    print(f'\nits README.md says how to load it; timm: timm.create_model("hf-hub:{repo}", pretrained=True)')


def train(arguments: list[str]) -> None:
    """Train one network in full, and write its folder; the same command resumes a training that was killed."""
    arguments = [
        SHORT.get(option, option) + equals + value for option, equals, value in (one.partition("=") for one in arguments)
    ]
    dataset, options = tyro.cli(_dataset, args=arguments, prog="nas train", return_unknown_args=True, add_help=False)
    names = ", ".join(plugin_names("dataset"))
    if dataset is None and options and not HELP & {*options}:
        raise NasError(f"--dataset is missing; give a name or a path of a file; known: {names}")
    from nas.cli.progress import ShownTraining
    from nas.exporting.full_training import FullTraining, train_network

    dataset = dataset or load_plugin("dataset", "imagenette")
    training = tyro.cli(
        FullTraining,
        default=FullTraining(network=tyro.MISSING, dataset=dataset),
        args=options or ["--help"],
        prog=f"nas train NETWORK --dataset {dataset.name}",
        description=(
            f"Train one network. --dataset NAME is one of {names}, or the path of a Python file with a DATASET. "
            "--teacher is short for --train.teacher."
        ),
    )
    log_to_stdout()
    with ShownTraining(training.train.epochs) as shown:
        folder = train_network(training, on_epoch=shown.on_epoch, on_step=shown.on_step)
    _print_export(folder)


def _dataset(*, dataset: str | None = None) -> Any:
    return None if dataset is None else load_plugin("dataset", dataset)


def _card(folder: Path) -> tuple[dict[str, Any], dict[str, float], dict[str, Any], float]:
    """(an export's card, its top-1 by part, its proof by file without int8, the largest difference of a logit in them)."""
    from nas.exporting.fresh_process import INT8_FILE
    from nas.models.network import CARD_FILE

    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    proof = {file: comparison for file, comparison in card["proof"].items() if file != INT8_FILE}
    tops = {part: top1 for part in ("val", "test") if (top1 := card["accuracy"].get(f"{part}_top1_pct")) is not None}
    return card, tops, proof, max(comparison["logit_difference"] for comparison in proof.values())


def _print_export_line(folder: Path) -> None:
    """Print one line about an export of a front."""
    _, tops, _, difference = _card(folder)
    accuracies = ", ".join(f"{part}_top1_pct {top1:.2f}" for part, top1 in tops.items())
    print(f"{shown_path(folder)}: {accuracies}, logits within {difference:.1g}", flush=True)


def _print_export(folder: Path) -> None:
    """Print the accuracy of an export, its proof, and how to load it."""
    card, tops, proof, difference = _card(folder)
    accuracy = card["accuracy"]
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
    (images,) = {f"{comparison['images']} images ({comparison['source']})" for comparison in proof.values()}
    same = 100 * min(comparison["same_class"] for comparison in proof.values())
    files = ", ".join(proof)
    print(f"run without this project on {images}: {files} give logits within {difference:.1g}, {same:g} % the same class")
    print(f"{shown_path(folder)}\n\nimport nas; model = nas.load({str(folder)!r})")
