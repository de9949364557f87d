"""The package keeps its layers: imports point upwards, and reading, training and searching pay for what they need alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent

# A package imports itself and those that stand before it; nothing imports the public names of `nas`.
RULE = """
errors, plugins, files, paths, records, machine, statistics < models < spaces < datasets < training < objectives < supernet <
runs < trackers < sampler < searching < exporting < cli
"""
ROWS = [row.replace(",", " ").split() for row in RULE.split("<")]
ROW = {package: row for row, packages in enumerate(ROWS) for package in packages}


def imported(path):
    """The modules of this project that a file imports anywhere, by their first two names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found |= {tuple(name.split(".")[:2]) for name in names if name.split(".")[0] in ("nas", "search_spaces", "experiments")}
    return found


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__"))


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = package_of(path)
    for top, *rest in imported(path):
        assert top == "nas", f"{path} imports {top}"
        assert rest, f"{path} imports the public names, which stand above it"
        assert rest[0] == own or ROW[rest[0]] <= ROW[own], f"{own} imports {rest[0]}"


def test_only_standalone_py_touches_timms_private_modules():
    for path in files():
        private = [line for line in path.read_text().splitlines() if "import" in line and "timm" in line and "._" in line]
        assert not private or path.name == "standalone.py"


def loaded_after(*statements):
    """The heavy packages that a fresh process has loaded after each statement."""
    program = Path(__file__).parent / "data" / "loads.py"
    answer = subprocess.run([sys.executable, program, *statements], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in answer.stdout.splitlines()]


def test_commands_costs_tables_and_a_searchs_driver_load_no_torch():
    light, space, table, driver = loaded_after(
        "import nas, nas.cli.app; nas.cost(nas.reference('efficientnet_b0'))",
        "nas.space('mobilenetv3')",
        "nas.results; nas.front",
        "import nas.searching.tuner, experiments.digits_mobilenetv3",
    )
    assert light == set()
    assert space <= {"optuna"}
    assert not table & {"torch", "timm", "torchvision", "ray", "sklearn"}
    assert not driver & {"torch", "timm", "torchvision", "sklearn"}


def test_loading_building_and_training_load_no_ray():
    build = "import nas; nas.load; nas.build(nas.reference('mobilenetv2_035'))"
    built, trained = loaded_after(build, "import nas.training.loop, nas.searching.evaluate")
    assert built <= {"torch", "timm", "torchvision"}
    assert trained <= {"torch", "timm", "torchvision", "sklearn"}


def test_every_public_name_is_there_and_is_no_module():
    for name in nas.__all__:
        assert type(getattr(nas, name)).__name__ != "module"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nas.nothing  # noqa: B018


def test_the_sampler_can_be_published_by_itself():
    allowed = {*sys.stdlib_module_names, "numpy", "scipy", "optuna"}
    for path in (PACKAGE / "sampler").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed or name == "nas.errors" or name.startswith("nas.sampler"), f"{path}: {name}"
