"""The package for OptunaHub proposes what FrontierSampler does, without this project, and its example and README are true."""

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from PIL import Image

import nas
from experiments.optunahub import __main__ as optunahub
from tests.data import propose

ROOT = Path(__file__).parents[2]
WITHOUT_NAS = """
import runpy, sys
sys.modules["nas"] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TAGS = {"author", "title", "description", "tags", "optuna_versions", "license"}  # what the registry asks for


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of optunahub that has the registry with the package, so that it downloads nothing."""
    folder = tmp_path_factory.mktemp("cache")
    assert optunahub.main([str(folder / "github.com/optuna/optunahub-registry/main")]) == 0
    return folder


@pytest.fixture(scope="module")
def package(cache):
    return next(cache.rglob("package/samplers/frontier"))


def run_without_nas(cache, *arguments):
    """What a program prints that cannot import this project."""
    environment = os.environ | {"OPTUNAHUB_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", WITHOUT_NAS, *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=cache, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_it_proposes_what_frontier_sampler_does(cache, package):
    proposed = json.loads(run_without_nas(cache, propose.__file__, package.parents[1]))
    assert proposed == propose.proposals(nas.FrontierSampler)
    assert proposed != propose.proposals(nas.FrontierSampler, seed=4)


def test_its_example_prints_a_front_of_feasible_networks(cache, package):
    rows = re.findall(r"^([\d.]+) with ([\d,]+) weights", run_without_nas(cache, package / "example.py"), re.MULTILINE)
    front = [(float(accuracy), int(weights.replace(",", ""))) for accuracy, weights in rows]
    assert len(front) >= 5
    assert front == sorted(front)
    assert front[-1][1] <= 9_000


def test_the_snippets_of_its_readme_run(cache, package, tmp_path):
    snippets = re.findall(r"^```python\n(.*?)^```", (package / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert snippets
    (tmp_path / "snippets.py").write_text("\n".join(snippets))
    assert "{'width" in run_without_nas(cache, tmp_path / "snippets.py")


def test_its_readme_has_what_the_registry_asks_for_and_every_argument(package):
    _, header, text = (package / "README.md").read_text().split("---\n", 2)
    tags = yaml.safe_load(header)
    assert tags.keys() == TAGS
    assert "sampler" in tags["tags"]
    for name in inspect.signature(nas.FrontierSampler).parameters:
        assert f"- `{name}`" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        Image.open(package / picture).verify()
    assert f"[{tags['license']}](LICENSE)" in text
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_it_requires_what_the_project_requires(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set((package / "requirements.txt").read_text().split()) <= set(project["dependencies"])


def test_a_package_that_exists_is_not_replaced(tmp_path, capsys):
    (tmp_path / "package/samplers/frontier").mkdir(parents=True)
    (tmp_path / "package/samplers/frontier/own.py").write_text("mine")
    assert optunahub.main([str(tmp_path)]) == 2
    assert "exists already; delete it, or give another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.*")] == ["own.py"]
