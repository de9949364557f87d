"""The notebook that a user starts from runs from its first cell to its last."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "explore.ipynb"
pytestmark = pytest.mark.slow


def test_the_notebook_runs_and_classifies_an_image(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH")])))
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"  # of this very Python, wherever else Jupyter looks
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], '
        '"display_name": "Python 3", "language": "python"}'
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert "with probability" in outputs[-1]["text"]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 2
