"""The notebook that a user starts from runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from plotly.graph_objects import Figure

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "explore.ipynb"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("running_ray")]


def test_the_notebook_runs_and_classifies_an_image(tmp_path, monkeypatch, capsys):
    """Its cells run in this process as a kernel runs them; its search is a smaller one."""
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells), "outputs are not committed"
    shell = InteractiveShell()
    shown = []
    for source in (cell.source for cell in cells if cell.cell_type == "code"):
        answer = shell.run_cell(source.replace("trials=8", "trials=2, workers=1").replace("epochs=3", "epochs=1"))
        answer.raise_error()
        shown.append(answer.result)
    assert sum(isinstance(one, Figure) and len(one.data) > 0 for one in shown) == 2
    assert "with probability" in capsys.readouterr().out.splitlines()[-1]
