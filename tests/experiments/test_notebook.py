"""The notebooks that a user starts from run from their first cell to their last."""

from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from plotly.graph_objects import Figure

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALLER = {"trials=8": "trials=2, workers=1", "trials=12": "trials=2, workers=1", "epochs=3": "epochs=1", "epochs=8": "epochs=1"}
ENDS = {"explore": (2, "with probability"), "search": (1, ", says the network")}  # the figures it shows, and its last line
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("running_ray")]


@pytest.mark.parametrize("name", ENDS)
def test_a_notebook_runs_and_classifies_an_image(name, tmp_path, monkeypatch, capsys):
    """Its cells run in this process as a kernel runs them; its search is a smaller one."""
    figures, last = ENDS[name]
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(EXPERIMENTS / f"{name}.ipynb", as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells), "outputs are not committed"
    shell = InteractiveShell()
    shown = []
    for source in (cell.source for cell in cells if cell.cell_type == "code"):
        for before, after in SMALLER.items():
            source = source.replace(before, after)  # noqa: PLW2901
        answer = shell.run_cell(source)
        answer.raise_error()
        shown.append(answer.result)
    assert sum(isinstance(one, Figure) and len(one.data) > 0 for one in shown) == figures
    assert last in capsys.readouterr().out.splitlines()[-1]
