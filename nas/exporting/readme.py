"""The README.md of an export, in the format of the Hugging Face hub, from its card."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from nas.exporting.proof import unmappable


def readme(card: Mapping[str, Any]) -> str:
    """The export's README.md: the card in Markdown, with front matter for the Hugging Face hub."""
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
            f"| `{name}` | {one['logit_difference']:.2g} | {100 * one['same_class']:.2f} | {one['source']} |"
            for name, one in proof
        ),
        opening=_opening(card["preprocess"]),
        image_files="\n\n".join(_image_files(card)),
        **{of: _pairs(card[of]) for of in ("train", "versions", "exported_with")},
        classes=", ".join(map(_plain, card["classes"][:1000])),
    )


def _plain(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _accuracy(accuracy: Mapping[str, Any]) -> Iterator[str]:
    on, seed = _plain(accuracy["dataset"]), accuracy["seed"]
    yield f"On {on}, {_how_trained(accuracy)} with seed {seed}; a search ranks by val and never reads test.\n"
    yield "| part | images | top-1, % |\n|---|---|---|"
    for part in ("val", "test"):
        if f"{part}_top1_pct" in accuracy:
            yield f"| {part} | {accuracy[f'{part}_images']:,} | {accuracy[f'{part}_top1_pct']:.2f} |"
    for part, top1 in accuracy.get("int8", {}).items():
        yield f"| {part}, in int8 | {accuracy[f'{part}_images']:,} | {top1:.2f} |"
    if "int8" in accuracy:
        yield "\n`model_int8.onnx` takes and gives the same arrays as `model.onnx`."
    if "not_measured" in accuracy:
        yield f"\nAs its training ended; not measured again: {_plain(accuracy['not_measured'])}."


def _how_trained(accuracy: Mapping[str, Any]) -> str:
    """How the network came by its weights."""
    if "fine_tuning" in accuracy:
        epochs, lr = accuracy["fine_tuning"]["epochs"], accuracy["fine_tuning"]["lr"]
        length = f"{epochs} epoch{'s' * (epochs > 1)}"
        return f"its slice of weights shared by many networks, trained further for {length} at lr {lr:g},"
    if accuracy.get("weights") == "shared":
        return "its slice of weights shared by many networks, without a training of its own,"
    return "trained"


def _opening(how: Mapping[str, Any]) -> str:
    """The call that opens an image file as the training did."""
    values = "".join(f", {name}={how[name]}" for name in ("bits", "side") if how[name] is not None)
    return f'open_image("photo.jpg"{values})'


def _image_files(card: Mapping[str, Any]) -> Iterator[str]:
    """What the README says of image files and class folders."""
    read, bits = card.get("image_files"), card["preprocess"]["bits"]
    if why := unmappable(card["class_folders"]):
        yield f"There is no `class_map.txt` for timm, as {_plain(why)}."
    else:
        yield (
            "For timm's own scripts, give `--class-map class_map.txt`: its lines are the names of the class folders, in the "
            "order of the logits. timm reads only .jpg, .jpeg and .png files that lie directly in these folders."
        )
    if bits is None:
        yield "The images could not be read for this export: if they have more than 8 bits, give `open_image` their `bits`."
    elif bits != 8:
        yield f"Only `images.py` scales images of {bits} bits as the training did; timm's own reader is right for 8 bits alone."
    if read is not None:
        yield (
            f"{read['images']} validation images were opened from files ({read['files']}) in that process. As the training "
            f"preprocesses them, {read['top1_pct']:.2f} % are right; Pillow's bilinear resizing, not torch's, changes a few."
        )
        yield "\n".join(_ways(read))


def _ways(read: Mapping[str, Any]) -> Iterator[str]:
    """A line for each way of opening the files."""
    shares = {
        name: f"{way['top1_pct']:.2f} % right, {100 * way['same_class']:.2f} % in the same class"
        for name, way in read["ways"].items()
    }
    yield f"- `images.py` and timm's transforms: {shares['images.py']}. The pixels that it opens equal the training's."
    if "timm" in shares:
        own = "also timm's own, without it, if no class folder has folders"
        order = own if read["order_of_timm"] else "not timm's own, so it is needed"
        yield f"- timm's own reader with `class_map.txt`: {shares['timm']}. The order of the classes is {order}."


def _latency(latency: Mapping[str, Any]) -> str:
    if "not_measured" in latency:
        return f"Not measured: {latency['not_measured']}."
    spread = f"the middle half of {latency['runs']} runs from {latency['q25_ms']:.3g} to {latency['q75_ms']:.3g}"
    return f"{latency['median_ms']:.3g} ms ({spread}) on {latency['device']}, one thread, one image, {latency['runtime']}."
