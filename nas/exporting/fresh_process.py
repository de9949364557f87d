"""Runs each file of an export in a process that cannot import this project.

`formats.py` runs it as a script, with three arguments: the export folder, a .npy file of preprocessed images, and a folder for
the logits, one .npy file per format. Imports nothing but NumPy, torch, timm, safetensors and onnxruntime.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

BATCH: Final = 32
INT8_FILE: Final = "model_int8.onnx"
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


def main() -> None:
    """Run every format of the export and save its logits."""
    import torch

    torch.set_grad_enabled(False)
    folder, file, target = map(Path, sys.argv[1:4])
    sys.path.insert(0, str(folder))
    images = np.load(file)
    for name, load in FORMATS.items():
        if (folder / name).exists():
            np.save(target / f"{name}.npy", in_batches(load(folder), images))


if __name__ == "__main__":
    sys.modules |= dict.fromkeys(("nas", "search_spaces", "experiments"))  # type: ignore[arg-type]  # none can be imported
    sys.dont_write_bytecode = True  # no __pycache__ in the export folder
    main()
