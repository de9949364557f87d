"""What is known of a network that leaves, for programs (`card.json`, `config.json`) and for people (`README.md`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from nas.errors import MachineBusyError
from nas.latency.timing import measure
from nas.networks import Network, TimmNetwork


def make_card(
    network: Network,
    dataset: Mapping[str, Any],
    *,
    accuracy: Mapping[str, Any],
    train: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What card.json holds of any network; `dataset` has its classes, mean and std."""
    return {
        "id": network.id,
        "classes": list(dataset["classes"]),
        "preprocess": {"resolution": network.resolution, "mean": list(dataset["mean"]), "std": list(dataset["std"])},
        "accuracy": dict(accuracy),
        "cost": network.costs(len(dataset["classes"])),
        "train": dict(train),
        "versions": dict(versions),
    }


def latency_of(network: Network, num_classes: int) -> dict[str, Any]:
    """The latency on this machine's CPU, in onnxruntime on one thread; or the sentence that says why it was not measured."""
    if isinstance(network, TimmNetwork):
        return {"not_measured": "it is not one of our architectures"}
    try:
        found = measure(network.architecture, num_classes, attempts=2)
    except MachineBusyError as error:
        return {"not_measured": str(error)}
    times = {"median_ms": found.median_ms, "q25_ms": found.q25_ms, "q75_ms": found.q75_ms, "runs": found.runs}
    return times | {"device": found.device, "runtime": f"onnxruntime {found.runtime_version}", "threads": 1, "batch": 1}


def timm_config(network: Network, card: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json`, by which timm makes the network: timm.create_model("local-dir:FOLDER", pretrained=True).

    Images are whole ones of the training's preprocessing: the middle square, resized bilinearly.
    """
    preprocess, side, classes, config = card["preprocess"], network.resolution, card["classes"], network.timm_config()
    how = {
        "custom_load": False,
        "input_size": [3, side, side],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(preprocess["mean"]),
        "std": list(preprocess["std"]),
        "num_classes": len(classes),
        "label_names": list(classes),
    }
    return config | {"num_classes": len(classes), "pretrained_cfg": how | config["pretrained_cfg"]}


def readme(card: Mapping[str, Any]) -> str:
    """The card for people, in Markdown, with front matter that the Hugging Face hub reads."""
    cost, proof = card["cost"], card["proof"].items()
    return Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        id=card["id"],
        num_classes=f"{len(card['classes']):,}",
        side=card["preprocess"]["resolution"],
        params=f"{cost['params']:,}",
        macs=f"{cost['macs']:,}",
        source=f"; trial {card['trial']} of the search {card['run']}" if "trial" in card else "",
        accuracy="\n".join(_accuracy(card["accuracy"])),
        latency=_latency(card["latency"]),
        opset=card["onnx_opset"],
        proof="\n".join(
            f"| `{name}` | {found['logit_difference']:.2g} | {100 * found['same_class']:.2f} | {found['source']} |"
            for name, found in proof
        ),
        **{of: _pairs(card[of]) for of in ("train", "versions", "exported_with")},
        classes=", ".join(map(_plain, card["classes"][:1000])),
    )


def _plain(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _accuracy(accuracy: Mapping[str, Any]) -> Iterator[str]:
    yield f"On {_plain(accuracy['dataset'])}, trained with seed {accuracy['seed']}; a search ranks by val and never reads test.\n"
    yield "| part | images | top-1, % |\n|---|---|---|"
    for part in ("val", "test"):
        if f"{part}_top1_pct" in accuracy:
            yield f"| {part} | {accuracy[f'{part}_images']:,} | {accuracy[f'{part}_top1_pct']:.2f} |"
    for part, found in accuracy.get("int8", {}).items():
        yield f"| {part}, in int8 | {accuracy[f'{part}_images']:,} | {found:.2f} |"
    if "int8" in accuracy:
        yield "\n`model_int8.onnx` takes and gives the same arrays as `model.onnx`."
    if "not_measured" in accuracy:
        yield f"\nAs its training ended; not measured again: {_plain(accuracy['not_measured'])}."


def _latency(latency: Mapping[str, Any]) -> str:
    if "not_measured" in latency:
        return f"Not measured: {latency['not_measured']}."
    spread = f"the middle half of {latency['runs']} runs from {latency['q25_ms']:.3g} to {latency['q75_ms']:.3g}"
    return f"{latency['median_ms']:.3g} ms ({spread}) on {latency['device']}, one thread, one image, {latency['runtime']}."
