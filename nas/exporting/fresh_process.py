"""Runs each file of an export in a process that cannot import this project.

`proof.py` runs it as a script, with two arguments: the export folder, and a folder with `images.npy`, preprocessed images, where
it writes the logits, one .npy file per format. Image files in its folder `files` are opened, too. Imports nothing but NumPy,
torch, timm, safetensors and onnxruntime.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

BATCH: Final = 32
INT8_FILE: Final = "model_int8.onnx"
SAMPLE_FOLDER: Final = "files"  # has a folder of image files per class
SAMPLE_FILE: Final = "sample.json"  # their bits and side
Run = Callable[[Any], Any]


def _timm(folder: Path) -> Run:
    import model  # type: ignore[import-not-found]  # the folder's, which registers the network with timm
    import timm
    import torch

    assert Path(model.__file__).parent == folder
    made = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return lambda images: made(torch.from_numpy(images)).numpy()


def _model_py(folder: Path) -> Run:
    import model
    import torch

    made = model.load(folder)
    return lambda images: made(torch.from_numpy(images)).numpy()


def _pt2(folder: Path) -> Run:
    import torch

    made = torch.export.load(folder / "model.pt2").module()
    return lambda images: made(torch.from_numpy(images)).numpy()


def onnx_run(file: Path, threads: int = 0) -> Run:
    """A network in onnxruntime, on the CPU; with 0 threads it uses one per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"image": images})[0]


FORMATS: Final[dict[str, Callable[[Path], Run]]] = {
    "config.json": _timm,
    "model.py": _model_py,
    "model.pt2": _pt2,
    "model.onnx": lambda folder: onnx_run(folder / "model.onnx"),
    INT8_FILE: lambda folder: onnx_run(folder / INT8_FILE),  # only with --int8
}


def in_batches(run: Run, images: Any) -> Any:
    """The logits of all images. The first image is a batch of its own, to check that other batch sizes work."""
    alone = run(images[:1])
    return np.concatenate([alone, *(run(images[start : start + BATCH]) for start in range(1, len(images), BATCH))])


def read_files(folder: Path, place: Path) -> None:
    """Save what image files give, in the order of their numbers, that `images.py` and timm's own reader open."""
    import images  # type: ignore[import-not-found]  # the folder's
    import timm
    import torch
    from timm.data import create_dataset, create_transform, resolve_data_config
    from timm.utils.misc import natural_key

    how = json.loads((place / SAMPLE_FILE).read_text(encoding="utf-8"))
    files = sorted((place / SAMPLE_FOLDER).rglob("*.*"), key=lambda file: int(file.stem) if file.is_file() else -1)
    files = [file for file in files if file.is_file()]
    opened = [images.open_image(file, **how) for file in files]
    if how["side"] is not None:
        np.save(place / "images.py.npy", np.stack([np.asarray(image) for image in opened]))
    run = _timm(folder)
    transform = create_transform(**resolve_data_config({}, model=timm.create_model(f"local-dir:{folder}")))
    np.save(place / "opened.npy", in_batches(run, np.stack([transform(image).numpy() for image in opened])))
    class_map = folder / "class_map.txt"
    if not class_map.exists():
        return
    options = {"class_map": str(class_map), "transform": transform, "search_split": False}
    dataset = create_dataset("", root=str(place / SAMPLE_FOLDER), **options)
    read = {int(Path(dataset.filename(i)).stem): dataset[i] for i in range(len(dataset))}
    pixels, targets = zip(*(read[number] for number in sorted(read)), strict=True)
    np.save(place / "reader.npy", in_batches(run, torch.stack(pixels).numpy()))
    np.save(place / "targets.npy", np.array(targets))
    names = class_map.read_text(encoding="utf-8").splitlines()
    (place / "order.json").write_text(json.dumps(names == sorted(names, key=natural_key)), encoding="utf-8")


def main() -> None:
    """Run every format of the export and save its logits."""
    import torch

    torch.set_grad_enabled(False)
    folder, place = map(Path, sys.argv[1:3])
    sys.path.insert(0, str(folder))
    images = np.load(place / "images.npy")
    for name, load in FORMATS.items():
        if (folder / name).exists():
            np.save(place / f"{name}.npy", in_batches(load(folder), images))
    if (place / SAMPLE_FOLDER).exists():
        read_files(folder, place)


if __name__ == "__main__":
    sys.modules |= dict.fromkeys(("nas", "search_spaces", "experiments"))  # type: ignore[arg-type]  # none can be imported
    sys.dont_write_bytecode = True  # no __pycache__ in the export folder
    main()
