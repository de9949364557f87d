"""The files of an export that run in timm, torch and ONNX Runtime without this project, and the proof that they do.

Read `proof.py` next.
"""

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from nas.cards import CONFIG_FILE, timm_config
from nas.errors import NasError, describe_error
from nas.latency.onnx_graph import OPSET, onnx_model
from nas.networks import Network, TimmNetwork
from nas.proof import ARTEFACTS, BATCH, INT8_FILE

MODEL_FILE: Final = "model.py"
TORCH_FILE: Final = "model.pt2"
ONNX_FILE: Final = "model.onnx"

TORCHS_OPSET: Final = 18  # the least that torch's exporter writes
TOLERANCE: Final = 1e-3  # of the largest logit, as sums are taken in another order
SAME_CLASS: Final = 0.99  # share of the images
SECONDS: Final = 1800.0  # for the proof


def write_artefacts(folder: Path, network: Network, model: nn.Module, card: Mapping[str, Any]) -> int:
    """Write the files that run a trained network into a folder that has its weights; gives the opset of the ONNX file."""
    num_classes, side = len(card["classes"]), network.resolution
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    config = json.dumps(timm_config(network, card), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
    (folder / MODEL_FILE).write_text(_model_py(network, num_classes), encoding="utf-8")
    example, any_batch = torch.zeros(2, 3, side, side), ({0: torch.export.Dim("batch", min=1)},)
    with quiet():
        written = io.BytesIO()
        try:
            torch.export.save(torch.export.export(model, (example,), dynamic_shapes=any_batch), written)
        except (RuntimeError, TypeError, ValueError) as error:
            raise NasError(f"torch cannot export {network.id}: {describe_error(error)}") from None
        (folder / TORCH_FILE).write_bytes(written.getbuffer())
        if isinstance(network, TimmNetwork):
            named: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "opset_version": TORCHS_OPSET}
            graph: Any = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=any_batch, verbose=False, **named)
            (folder / ONNX_FILE).write_bytes(graph.model_proto.SerializeToString())
            return TORCHS_OPSET
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    ours = onnx_model(network.architecture, num_classes, batch="batch", weights=weights)
    (folder / ONNX_FILE).write_bytes(ours.SerializeToString())
    return OPSET


def prove(folder: Path, model: nn.Module, images: Tensor, source: str) -> dict[str, Any]:
    """What each artefact gives in a fresh process in which this project cannot be imported, held against the model.

    `images` are as the network reads them, `source` what they are. Gives for each file the largest difference of a logit, and the
    share of images that get the same class.
    Shapes: images float32 (N, 3, resolution, resolution).
    Raises: NasError where a file gives something else, or nothing.
    """
    model = model.cpu().eval()
    images = images.contiguous()
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in images.split(BATCH)]).numpy()
    found = {}
    for name, given in _logits_without_us(folder, images).items():
        found[name] = _difference(given, logits) | {"source": source}
        if name != INT8_FILE:  # which gives others, and the card says how far
            _refuse(folder / name, found[name], logits)
    return found


def _logits_without_us(folder: Path, images: Tensor) -> dict[str, Any]:
    """What each artefact that is there gives for the images.

    Raises: NasError where one does not run.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place, "images.npy")
        np.save(file, images.numpy())
        line = [sys.executable, "-P", str(Path(__file__).with_name("proof.py")), str(folder.resolve()), str(file), place]
        threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        try:
            answer = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=place, env=threads)
        except subprocess.TimeoutExpired:
            raise NasError(f"the files of {folder} did not give {len(images)} logits in {SECONDS:.0f} s") from None
        if answer.returncode:
            last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            raise NasError(f"a file of {folder} does not run without this project: {last}")
        names = [name for name in ARTEFACTS if name != INT8_FILE or (folder / name).exists()]
        return {name: np.load(Path(place, f"{name}.npy")) for name in names}


def _difference(given: Any, wanted: Any) -> dict[str, Any]:
    """How two arrays of logits differ; shapes: both (images, classes)."""
    return {
        "logit_difference": float(np.abs(given - wanted).max()),
        "same_class": float((given.argmax(1) == wanted.argmax(1)).mean()),
        "images": len(wanted),
    }


def _refuse(file: Path, told: Mapping[str, Any], logits: Any) -> None:
    if not told["logit_difference"] <= TOLERANCE * float(np.abs(logits).max()) or told["same_class"] < SAME_CLASS:
        raise NasError(
            f"{file} gives other logits than the network: they differ by up to {told['logit_difference']:.2g}, and "
            f"{100 * told['same_class']:.1f} % of {told['images']} images get the same class"
        )


REGISTER: Final = """

if not is_model("frontier_nas"):  # of which `import nas` tells timm, too
    register_model(frontier_nas)
"""

LOAD: Final = '''

def load(folder):
    """The network with the weights of its folder, in eval mode."""
    model = network()
    load_checkpoint(model, f"{folder}/model.safetensors")
    return model.eval()
'''


def _model_py(network: Network, num_classes: int) -> str:
    """The text of a file that builds the network with timm alone."""
    title = '"""A network, built with timm and torch alone: network() newly initialised, load(folder) with its weights."""'
    function = f'''

def network(num_classes={num_classes}, **options):
    """The network, newly initialised; options are timm's."""
'''
    if isinstance(network, TimmNetwork):
        made = f"    return create_model({network.name!r}, num_classes=num_classes, **options)\n"
        return f"{title}\n\nfrom timm.models import create_model, load_checkpoint\n{function}{made}{LOAD}"
    _, _, source = Path(__file__).with_name("standalone.py").read_text(encoding="utf-8").partition('"""\n\n')
    source = source.replace("  # noqa: FBT001, FBT002", "")
    source = source.replace(
        "import build_model_with_cfg\n", "import build_model_with_cfg, is_model, load_checkpoint, register_model\n"
    )
    plain = _literal(json.loads(network.architecture.to_json()))
    made = "    return build(ARCHITECTURE, num_classes, **options)\n"
    return f"{title}\n\n{source}{REGISTER}\nARCHITECTURE = {plain}\n{function}{made}{LOAD}"


def _literal(plain: dict[str, Any]) -> str:
    """An architecture as Python writes it, a line a block."""
    lines = [f"    {name!r}: {value!r}," for name, value in plain.items() if name != "stages"] + ["    'stages': ["]
    for stage in plain["stages"]:
        lines += ["        [", *(f"            {block}," for block in stage), "        ],"]
    return "\n".join(["{", *lines, "    ],", "}"])


@contextmanager
def quiet() -> Iterator[None]:
    """While an exporter runs that logs what concerns nobody."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
